//! [`nemesis`]: does to the broker what [`Faults`] say.

use std::sync::Arc;
use std::time::Duration;

use millstream::broker::{Discard, Embedded, Js, StreamConfig};
use tokio::task::yield_now;
use tokio::time::sleep;

use super::faults::{Deed, Faults, HELD_BACK, SERVER, Server};

/// Waits for deeds, and does each beside the others, until the runtime ends.
pub(super) async fn nemesis(broker: Embedded, faults: Arc<Faults>) {
    loop {
        while let Some(deed) = faults.next_deed() {
            let (broker, faults) = (broker.clone(), Arc::clone(&faults));
            match deed {
                Deed::Cut => broker.cut_links(),
                Deed::Restart { after, keeps, forgets_acks } => {
                    broker.drop_links();
                    faults.set_server(Server::Away { keeps });
                    tokio::spawn(async move {
                        sleep(after).await;
                        faults.set_server(Server::Up);
                        broker.restart(forgets_acks);
                        broker.release(SERVER);
                    });
                }
                Deed::LetServerGoOn { after } => {
                    tokio::spawn(async move {
                        sleep(after).await;
                        faults.set_server(Server::Up);
                        broker.release(SERVER);
                    });
                }
                Deed::LetGoOn { client, after } => {
                    tokio::spawn(async move {
                        sleep(after).await;
                        if faults.thaw(client) {
                            broker.release(client);
                        }
                    });
                }
                Deed::LetPass { client, after } => {
                    tokio::spawn(async move {
                        for _ in 0..after {
                            yield_now().await;
                        }
                        if faults.let_pass(client) {
                            broker.release(HELD_BACK + client);
                        }
                    });
                }
                Deed::RefuseDeadLetters { during } => {
                    tokio::spawn(refuse_dead_letters(Js::new(broker.connect()), during));
                }
            }
        }
        faults.called.notified().await;
    }
}

/// The stream of dead letters is full for a while.
async fn refuse_dead_letters(js: Js, during: Duration) {
    let Ok(Some(info)) = js.find_stream("DEAD").await else { return };
    // Two sinks write there, and add what they need: a change in between would take it away again.
    if info.config.subjects.iter().filter(|subject| subject.starts_with("mill.txn.")).count() == 1 {
        return;
    }
    // One more than there are is none; a marker takes the place of the one before.
    let most = i64::try_from(info.state.messages).unwrap_or(i64::MAX).max(1);
    let full = StreamConfig { discard: Discard::New, max_msgs: most, ..info.config.clone() };
    if js.update_stream(&full).await.is_err() {
        return;
    }
    sleep(during).await;
    let _ = js.update_stream(&StreamConfig { discard: Discard::Old, max_msgs: -1, ..full }).await;
}
