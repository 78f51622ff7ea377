//! [`Core`]: the one lock of the embedded broker, and the way of a message through it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::Headers;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::EmbeddedOptions;
use super::due::Due;
use super::hook::{Fate, Hook};
use super::jetstream::JetStream;
use super::router::Router;
use super::told::Told;
use super::turn::Turn;
use crate::broker::message::headers_len;
use crate::broker::{Incoming, LinkState, Outgoing, Subject};

/// What all links of one broker share.
pub(super) struct Core {
    pub(super) options: EmbeddedOptions,
    pub(super) link: Told<LinkState>,
    state: Mutex<State>,
    hook: Option<Arc<dyn Hook>>,
    started: Instant,
    /// When the broker next has something to do by itself; the links' drivers follow it.
    due: Told<Option<Instant>>,
}

/// Everything behind the lock.
pub(super) struct State {
    pub(super) router: Router,
    pub(super) js: JetStream,
    due: Due,
    last_inbox: u64,
    max_batch: u64,
    /// What waits on its way to the broker, in order, and under which number.
    held: Vec<(u64, Outgoing)>,
}

impl Core {
    pub(super) fn new(options: EmbeddedOptions, hook: Option<Arc<dyn Hook>>) -> Arc<Self> {
        let EmbeddedOptions { max_batch, api_level, .. } = options;
        Arc::new(Core {
            options,
            link: Told::new(LinkState { connected: true, generation: 1 }),
            state: Mutex::new(State {
                router: Router::new(hook.clone()),
                js: JetStream { api_level, ..JetStream::default() },
                due: Due::default(),
                last_inbox: 0,
                max_batch,
                held: Vec::new(),
            }),
            hook,
            started: Instant::now(),
            due: Told::new(None),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a client's message.
    pub(super) fn publish(self: &Arc<Self>, client: u64, message: Outgoing) {
        match self.hook.as_ref().map_or(Fate::Pass, |hook| hook.on_publish_by(client, &message)) {
            Fate::Pass => self.take(message),
            Fate::Lose => {}
            Fate::Repeat => {
                self.take(message.clone());
                self.take(message);
            }
            Fate::Hold(number) => self.lock().held.push((number, message)),
            Fate::Delay(by) => {
                let core = Arc::clone(self);
                // There is one: clients live in it.
                if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                    runtime.spawn(async move {
                        tokio::time::sleep(by).await;
                        core.take(message);
                    });
                }
            }
        }
    }

    /// Lets what waits under this number go on, to clients and from them.
    pub(super) fn release(&self, number: u64) {
        let mut state = self.lock();
        state.router.release(number);
        let held: Vec<_> = state.held.extract_if(.., |(held, _)| *held == number).collect();
        let now = self.now();
        for (_, message) in held {
            state.publish(message, now);
        }
        self.follow(&state);
    }

    /// All links are down.
    pub(super) fn drop_links(&self) {
        self.lock().router.forget_requests();
        self.link.change(|link| LinkState { connected: false, ..link });
    }

    /// The broker begins anew with what it has written down, and the links are up again.
    pub(super) fn restart(&self, forgets_acks: bool) {
        let mut state = self.lock();
        let now = self.now();
        state.on_time(now);
        let mut advisories = Vec::new();
        let State { router, js, due, max_batch, .. } = &mut *state;
        js.restart(forgets_acks, &mut Turn { now, router, due, advisories: &mut advisories, max_batch: *max_batch });
        self.link.change(|link| LinkState { connected: true, generation: link.generation + 1 });
        self.follow(&state);
    }

    fn take(&self, message: Outgoing) {
        let mut state = self.lock();
        state.publish(message, self.now());
        self.follow(&state);
    }

    /// Does what is due.
    fn tick(&self) {
        let mut state = self.lock();
        state.on_time(self.now());
        self.follow(&state);
    }

    fn follow(&self, state: &State) {
        let next = state.due.0.map(|wall| {
            // 30 years from now is as good as never, and no clock overflows on the way.
            let passed = wall.saturating_sub(self.options.started_at).clamp(0, 1_000_000_000_000_000_000);
            self.started + Duration::from_nanos(passed.unsigned_abs())
        });
        self.due.change(|_| next);
    }

    /// Nanoseconds since the epoch.
    fn now(&self) -> i64 {
        let passed = Instant::now().saturating_duration_since(self.started).as_nanos();
        self.options.started_at.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    pub(super) fn cut_links(&self) {
        self.lock().router.forget_requests();
        self.link.change(|link| LinkState { generation: link.generation + 1, ..link });
    }

    /// Keeps the broker's time going as long as the runtime of this link runs.
    pub(super) fn drive(self: &Arc<Self>) {
        let core = Arc::downgrade(self);
        let due = self.due.watch();
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
            biased;
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

    /// Does what is due.
    fn on_time(&mut self, now: i64) {
        if self.due.take(now) {
            let mut advisories = Vec::new();
            let State { router, js, due, max_batch, .. } = self;
            js.on_time(&mut Turn { now, router, due, advisories: &mut advisories, max_batch: *max_batch });
            self.publish_all(advisories, now);
        }
    }

    fn publish(&mut self, message: Outgoing, now: i64) {
        // The driver may be late: what is due comes first all the same.
        self.on_time(now);
        let mut advisories = Vec::new();
        let State { router, js, due, max_batch, .. } = self;
        let taken =
            js.take(&message, &mut Turn { now, router, due, advisories: &mut advisories, max_batch: *max_batch });
        if !taken || self.router.hears(&message.subject) {
            let (reply, subject) = (message.reply.clone(), message.subject.clone());
            let heard = self.router.deliver(into_incoming(message));
            if let Some(reply) = reply
                && !heard
                && !taken
            {
                let mut nobody = status(reply, 503, None);
                // The server names the subject that nobody listens on; a subject is a sound value.
                let _ = nobody.headers.push("Nats-Subject", &subject);
                self.router.deliver(nobody);
            }
        }
        self.publish_all(advisories, now);
    }

    fn publish_all(&mut self, messages: Vec<Outgoing>, now: i64) {
        for message in messages {
            self.publish(message, now);
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
