//! [`Core`]: the one lock of the embedded broker, and the way of a message through it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use millstream_operators::Headers;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::EmbeddedOptions;
use super::due::{Due, Now};
use super::hook::{Fate, Hook};
use super::router::Router;
use crate::broker::message::headers_len;
use crate::broker::{Incoming, LinkState, Outgoing, Subject};

/// What all links of one broker share.
pub(super) struct Core {
    pub(super) options: EmbeddedOptions,
    pub(super) link: watch::Sender<LinkState>,
    state: Mutex<State>,
    hook: Option<Arc<dyn Hook>>,
    started: Instant,
    /// When the broker next has something to do by itself; the links' drivers follow it.
    due: watch::Sender<Option<Instant>>,
}

/// Everything behind the lock.
pub(super) struct State {
    pub(super) router: Router,
    due: Due,
    last_inbox: u64,
}

impl Core {
    pub(super) fn new(options: EmbeddedOptions, hook: Option<Arc<dyn Hook>>) -> Arc<Self> {
        Arc::new(Core {
            options,
            link: watch::Sender::new(LinkState { connected: true, generation: 1 }),
            state: Mutex::new(State { router: Router::new(hook.clone()), due: Due::default(), last_inbox: 0 }),
            hook,
            started: Instant::now(),
            due: watch::Sender::new(None),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a client's message.
    pub(super) fn publish(&self, message: Outgoing) {
        if self.hook.as_ref().is_some_and(|hook| hook.on_publish(&message) == Fate::Lose) {
            return;
        }
        let mut state = self.lock();
        state.publish(message);
        self.follow(&state);
    }

    /// Does what is due.
    fn tick(&self) {
        let mut state = self.lock();
        state.on_time(self.now());
        self.follow(&state);
    }

    fn follow(&self, state: &State) {
        let next = state.due.0;
        self.due.send_if_modified(|due| std::mem::replace(due, next) != next);
    }

    fn now(&self) -> Now {
        let instant = Instant::now();
        let passed = instant.saturating_duration_since(self.started).as_nanos();
        Now { instant, wall: self.options.started_at.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX)) }
    }

    pub(super) fn cut_links(&self) {
        self.lock().router.forget_requests();
        self.link.send_modify(|link| link.generation += 1);
    }

    /// Keeps the broker's time going as long as the runtime of this link runs.
    pub(super) fn drive(self: &Arc<Self>) {
        let core = Arc::downgrade(self);
        let due = self.due.subscribe();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(drive(core, due));
        }
    }
}

async fn drive(core: Weak<Core>, mut due: watch::Receiver<Option<Instant>>) {
    loop {
        let next = *due.borrow_and_update();
        let expired = async {
            match next {
                Some(when) => sleep_until(when).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = due.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = expired => match core.upgrade() {
                Some(core) => core.tick(),
                None => return,
            },
        }
    }
}

impl State {
    pub(super) fn next_inbox(&mut self) -> u64 {
        self.last_inbox += 1;
        self.last_inbox
    }

    fn on_time(&mut self, now: Now) {
        self.due.take(now.instant);
    }

    fn publish(&mut self, message: Outgoing) {
        let reply = message.reply.clone();
        let heard = self.router.deliver(into_incoming(message));
        if let Some(reply) = reply
            && !heard
        {
            self.router.deliver(status(reply, 503, None));
        }
    }
}

/// A client's message as another client gets it.
fn into_incoming(message: Outgoing) -> Incoming {
    let reply_len = message.reply.as_ref().map_or(0, |reply| reply.len());
    let wire_len = message.subject.len() + reply_len + headers_len(&message.headers) + message.payload.len();
    Incoming {
        subject: message.subject,
        reply: message.reply,
        headers: message.headers,
        status: None,
        description: None,
        payload: message.payload,
        wire_len,
    }
}

/// A message of the broker itself.
pub(super) fn status(to: Subject, status: u16, description: Option<&str>) -> Incoming {
    Incoming {
        wire_len: to.len(),
        subject: to,
        reply: None,
        headers: Headers::NONE,
        status: Some(status),
        description: description.map(Into::into),
        payload: Bytes::new(),
    }
}
