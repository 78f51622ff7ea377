//! [`Bad`]: what is no order, among the orders.

use std::time::Duration;

use millstream::broker::{Connection, Js};
use tokio::time::sleep;

/// What is no order, one every few hundred milliseconds.
pub struct Bad(tokio::task::JoinHandle<()>);

impl Bad {
    /// So many.
    pub const EACH: u64 = 20;

    pub fn start(connection: &Connection) -> Bad {
        let connection = connection.clone();
        Bad(tokio::spawn(async move {
            for number in 0..Bad::EACH {
                // With an id, as what gets no answer while a server is away is sent again.
                while !publish_once(&connection, number).await {}
                sleep(Duration::from_millis(200)).await;
            }
        }))
    }

    /// Waits until all are stored.
    pub async fn all(self) {
        self.0.await.unwrap();
    }
}

async fn publish_once(connection: &Connection, number: u64) -> bool {
    let mut headers = millstream::operators::Headers::NONE;
    headers.push("Nats-Msg-Id", &format!("bad {number}")).unwrap();
    let js = Js::new(connection.clone()).timeout(Duration::from_secs(1));
    js.publish("in.bad", headers, format!("bad {number}")).await.is_ok()
}
