//! [`Pull`]: an inbox, what was asked for on it, and what comes.

use std::time::Duration;

use millstream_operators::{Fault, FaultKind, Result};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::status::{Status, status_of};
use crate::broker::{Incoming, Js, LinkState, Outgoing, Subject, Subscription};
use crate::connectors::fault;

/// A source's demand on its consumer. It lives until the first thing that is not as expected; then another with an inbox
/// of its own takes its place, where stale deliveries cannot arrive.
pub(super) struct Pull {
    js: Js,
    next: Subject,
    inbox: Subject,
    subscription: Subscription,
    link: watch::Receiver<LinkState>,
    denials: watch::Receiver<u64>,
    generation: u64,
    most: u64,
    // Messages that were asked for and have not come.
    asked: u64,
    heard_at: Instant,
}

/// Why reading must begin again.
#[derive(Debug)]
pub(super) enum Again {
    /// Deliveries are missing between two that came.
    Gap { expected: u64, got: u64 },
    /// The last delivery that came is not the last one by the server's word.
    Tail { came: u64, delivered: u64 },
    /// The link was made anew: what was on its way is lost.
    Link,
    /// The connection is gone for good.
    Closed,
    /// Neither message nor heartbeat came.
    Silence,
    /// The server ended the pull.
    Ended(String),
}

const BYTES: usize = 8 << 20;
const EXPIRES: Duration = Duration::from_secs(30);
pub(super) const HEARTBEAT: Duration = Duration::from_secs(5);
const SILENT: Duration = Duration::from_secs(15);
// How long the last messages of an inbox may take once it is being closed.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Pull {
    /// An inbox for pulls of at most `most` messages from a consumer. What was told on links before `generation` counts
    /// for nothing.
    pub(super) async fn open(js: Js, stream: &str, consumer: &str, most: u64, generation: u64) -> Result<Pull> {
        let connection = js.connection();
        let (link, denials) = (connection.link(), connection.denials());
        let inbox = Subject::from(connection.new_inbox());
        let capacity = usize::try_from(most * 4).unwrap_or(usize::MAX);
        let subscription = connection.subscribe(inbox.clone(), capacity).await.map_err(fault)?;
        let (next, heard_at) = (js.next_subject(stream, consumer), Instant::now());
        Ok(Pull { js, next, inbox, subscription, link, denials, generation, most, asked: 0, heard_at })
    }

    /// Asks for more when half of what was asked for has come, and there is room for `room` messages in all.
    pub(super) async fn ask(&mut self, room: u64) -> Result {
        // What is asked for on another link than the inbox was made on is not looked for there.
        if self.js.connection().generation() != self.generation {
            return Ok(());
        }
        let more = self.most.min(room.saturating_sub(self.asked));
        if self.asked > self.most / 2 || more == 0 {
            return Ok(());
        }
        let bytes = BYTES.max(self.js.connection().max_payload() * 2);
        let body = json!({
            "batch": more, "max_bytes": bytes, "expires": nanos(EXPIRES), "idle_heartbeat": nanos(HEARTBEAT),
        });
        let request = Outgoing::new(self.next.clone(), body.to_string()).reply_to(self.inbox.clone());
        self.js.connection().publish(request).await.map_err(fault)?;
        if self.asked == 0 {
            self.heard_at = Instant::now();
        }
        self.asked += more;
        Ok(())
    }

    /// Waits for messages and puts up to `max` of them behind those in `heard`. Cancel-safe.
    ///
    /// # Errors
    /// The server refuses to be asked: nothing else would ever come.
    pub(super) async fn hear(&mut self, heard: &mut Vec<Incoming>, max: usize) -> Result<Option<Again>> {
        if self.js.connection().generation() != self.generation {
            // What had come before the link broke counts, as far as each is its consumer's next.
            let came = self.subscription.drain(heard, max) > 0;
            return Ok((!came).then_some(Again::Link));
        }
        let silent_at = self.heard_at + SILENT;
        let silence = tokio::select! {
            biased;
            count = self.subscription.next_many(heard, max) => {
                self.heard_at = Instant::now();
                return Ok((count == 0).then_some(Again::Closed));
            }
            _ = self.link.wait_for(|link| link.generation != self.generation) => return Ok(Some(Again::Link)),
            Ok(()) = self.denials.changed() => None,
            () = tokio::time::sleep_until(silent_at), if self.asked > 0 => Some(Again::Silence),
        };
        match self.js.connection().denied(&self.next) {
            Some(denied) => Err(fault(denied)),
            None => Ok(silence),
        }
    }

    /// Puts all that has come already behind those in `heard`: no more than was asked for.
    pub(super) fn hear_now(&mut self, heard: &mut Vec<Incoming>) {
        if self.subscription.drain(heard, usize::MAX) > 0 {
            self.heard_at = Instant::now();
        }
    }

    /// Counts a message that was asked for and has come.
    pub(super) fn came(&mut self) {
        self.asked = self.asked.saturating_sub(1);
    }

    /// Takes note of what the server says in place of a message.
    ///
    /// # Errors
    /// The consumer will never serve such pulls.
    pub(super) fn told(&mut self, status: u16, message: &Incoming) -> Result<Option<Again>> {
        match status_of(status, message, self.most) {
            Status::Heartbeat => Ok(None),
            Status::PullOver(left) => {
                self.asked = self.asked.saturating_sub(left);
                Ok(None)
            }
            Status::Ended(why) => Ok(Some(Again::Ended(why))),
            Status::Wrong(why) => Err(Fault::new(FaultKind::Setup, why)),
        }
    }

    /// When something was last heard.
    pub(super) fn heard_at(&self) -> Instant {
        self.heard_at
    }

    /// Whether messages were asked for and have not come.
    pub(super) fn waits(&self) -> bool {
        self.asked > 0
    }

    /// Closes the inbox, which takes every demand back; what the server had sent before comes behind those in `heard`.
    pub(super) async fn end(mut self, heard: &mut Vec<Incoming>) {
        let last = async {
            self.subscription.end().await;
            while let Some(message) = self.subscription.next().await {
                heard.push(message);
            }
        };
        if tokio::time::timeout(LAST_WORDS, last).await.is_err() {
            tracing::debug!("the server did not confirm in {LAST_WORDS:?} that a pull is over");
        }
    }
}

impl Again {
    /// Whether the link broke, which a message may do that the client cannot read.
    pub(super) fn is_break(&self) -> bool {
        matches!(self, Again::Link | Again::Closed)
    }

    /// What happened, in words.
    pub(super) fn why(&self) -> String {
        match self {
            Again::Gap { expected, got } => format!("delivery {expected} was expected and {got} came"),
            Again::Tail { came, delivered } => {
                format!("the last delivery that came is {came}, and by the server's word it is {delivered}")
            }
            Again::Link => "the connection was made anew".to_owned(),
            Again::Closed => "the NATS client has closed the connection for good".to_owned(),
            Again::Silence => format!("nothing was heard from the server for {SILENT:?}"),
            Again::Ended(why) => format!("the server ended the pull ({why})"),
        }
    }

    /// Says in the log that reading begins again.
    pub(super) fn log(&self, stream: &str) {
        let why = self.why();
        match self {
            Again::Gap { .. } | Again::Tail { .. } | Again::Link | Again::Ended(_) => {
                tracing::info!(stream, "{why}: reading again from the last position");
            }
            Again::Closed => {
                tracing::warn!(stream, "{why}: connecting again, and reading from the last position");
            }
            Again::Silence => tracing::warn!(stream, "{why}: reading again from the last position"),
        }
    }
}

pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}
