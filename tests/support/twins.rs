//! [`Twins`]: an instance sleeps, another one takes over, and the first one wakes.

use std::time::Duration;

use millstream::broker::Connection;
use tokio::time::{Instant, sleep, timeout};

use super::{LossyProxy, Once, Running, Tail, a_while};

/// Instances of one pipeline that take over from each other.
pub(super) struct Twins<'a> {
    pub(super) once: &'a Once,
    pub(super) story: &'a str,
    pub(super) urls: &'a str,
    pub(super) pipeline: &'a str,
    pub(super) replicas: usize,
}

/// An instance, and the network between it and the server that it knows.
pub(super) struct Twin {
    pub(super) running: Running,
    network: LossyProxy,
}

impl Twin {
    /// Waits until something that it sends to where outputs are stored is still under way.
    async fn is_held(&self, story: &str) {
        self.network.hold(b"HPUB mill.txn.");
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.network.holding() == 0 {
            assert!(Instant::now() < deadline, "{story}: it stores nothing: {}", self.running.err());
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets that go on; whether the server has refused it, within a while.
    async fn is_refused(&self) -> bool {
        let before = self.network.wrong_lasts();
        self.network.release();
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.network.wrong_lasts() == before && Instant::now() < deadline {
            sleep(Duration::from_millis(10)).await;
        }
        self.network.wrong_lasts() > before
    }
}

impl Twins<'_> {
    /// Starts an instance that knows one of the servers, each time another one.
    pub(super) async fn start(&self, number: u64) -> Twin {
        let urls: Vec<&str> = self.urls.split(',').collect();
        let (_, port) = urls[number as usize % urls.len()].rsplit_once(':').unwrap();
        let network = LossyProxy::before(port.parse().unwrap()).await;
        let running = self.once.start(&network.url(), self.pipeline, 1, self.replicas);
        Twin { running, network }
    }

    /// A twin takes over from the one that runs, which sleeps meanwhile; leaders step down if there are several servers. Gives
    /// the twin.
    ///
    /// If so, outputs of the one that sleeps are under way all the while, and the server must refuse them: that no stale output
    /// is there shows little where nobody tried to store one.
    pub(super) async fn replace(&self, connection: &Connection, old: Twin, round: u64, held: bool) -> Twin {
        let (story, mut out) = (format!("{}, round {round}", self.story), Tail::of(self.once.seen_in));
        // One that sleeps before it has begun would be the later starter when it wakes.
        let before = out.read(connection).await;
        let why = || format!("{story}: the first instance does not go on: {}", old.running.err());
        out.until(connection, before + 50, Duration::from_secs(30), why).await;
        a_while().await;
        if held {
            old.is_held(&story).await;
        } else {
            // Behind a batch, so that it is likely to have more in hand.
            let mut markers = connection.subscribe("mill.txn.>", 4_096).await.unwrap();
            let marker = timeout(Duration::from_secs(20), markers.next()).await;
            assert!(marker.is_ok(), "{story}: it stores nothing: {}", old.running.err());
        }
        // What it has sent is stored, refused or held then: a batch is sent as a whole.
        let sent = async || sleep(Duration::from_millis(100)).await;
        if held {
            sent().await;
        }
        old.running.signal("STOP");
        sent().await;
        let before = out.read(connection).await;
        let twin = self.start(round + 1).await;
        if self.replicas > 1 {
            assert!(self.once.step_down(connection).await > 0, "{story}: no leader stepped down");
        }
        // The twin has stored something of its own.
        let why = || format!("{story}: the twin does not go on: {}", twin.running.err());
        out.until(connection, before + 50, Duration::from_secs(30), why).await;
        let mut refused = held && old.is_refused().await;
        old.running.signal("CONT");
        let said = old.running.ended().await;
        assert_eq!(said.code, Some(3), "{story}: {}", said.err);
        assert!(said.err.contains("has taken over"), "{story}: {}", said.err);
        refused |= said.err.lines().any(says_refused);
        println!("{story}: {} came to the servers", if refused { "a stale write" } else { "no stale write" });
        assert!(refused || !held, "{story}: no stale write came to the servers: {}", said.err);
        twin
    }
}

/// What an instance says whose outputs the server did not take, as the marker is another's.
fn says_refused(line: &str) -> bool {
    line.contains("nothing of a batch of outputs is stored, nor will be") && line.contains("10071")
}
