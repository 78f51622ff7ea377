//! [`SharedSource`]: one process's part of a stream that several share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::{Batch, FaultKind, Place, Result, Source};
use millstream_pipelines::graph::{Settings, Subtask};
use tokio::time::Instant;

use super::super::attach::{Reader, advisories_of};
use super::super::beside::as_delivered;
use super::super::delivery::Delivery;
use super::super::gather::{Gather, wait_until};
use super::super::lint::risks;
use super::super::look::{LOOK_AGAIN, Look};
use super::super::pull::{Again, HEARTBEAT, Pull};
use super::super::read::{JetStreamRead, Share};
use super::super::rows::{Given, Rows};
use super::super::source::{Doing, FIRST_PAUSE, LONGEST_PAUSE, done};
use super::consumer::Joined;
use super::settle::{Hand, Settlements, lock};
use super::words::{progress, say};
use crate::broker::{Outgoing, StoredMessage, Subject, Subscription};
use crate::connectors::{Purpose, fault};
use crate::engine::Nudge;

// More waits and nothing comes: the consumer has as much in flight as it may, and only a checkpoint helps.
const STALLED: Duration = Duration::from_millis(50);
// What is said to the server on the way out may take so long.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A source that shares a durable pull consumer with the other processes of its pipeline: see [`Share`].
///
/// Its position is how many messages it has given since it was opened, and means nothing to any other run.
pub struct SharedSource {
    reader: Arc<Reader>,
    share: Share,
    nudge: Option<Arc<Nudge>>,
    place: Arc<Place>,
    hand: Arc<Mutex<Hand>>,
    pull: Option<Pull>,
    // Kept between calls, as those of the other source are.
    joining: Option<Doing<Joined>>,
    looking: Option<Doing<Look>>,
    join_at: Instant,
    look_at: Instant,
    pause: Duration,
    // How many inboxes in a row ended since the last row came, and whether the last ended with its link.
    in_vain: u32,
    broke: bool,
    // The last message of the stream that came, and those that the client cannot read.
    reached: u64,
    unread: Vec<StoredMessage>,
    gather: Gather,
    // When to show next that what is in hand is worked on.
    keep_at: Instant,
    advisories: Option<Subscription>,
    // When the stream was created, and up to where everything is known to be acknowledged.
    created: String,
    done: u64,
    nudged: bool,
    lag: Option<u64>,
}

impl SharedSource {
    /// The source of the node of `subtask`.
    ///
    /// # Errors
    /// There are no NATS connections among its resources.
    pub fn new(subtask: &Subtask, read: JetStreamRead) -> Result<Self> {
        let place = Arc::new(Place { node: subtask.node.to_string(), stream: read.stream.clone() });
        let settings = subtask.resources.get::<Settings>().unwrap_or_default();
        let settlements = subtask.resources.get::<Settlements>().unwrap_or_default();
        let share = read.share.clone().unwrap_or_default();
        Ok(SharedSource {
            reader: Arc::new(Reader::new(subtask, read)?),
            nudge: subtask.resources.get(),
            hand: settlements.hand(&subtask.node),
            place,
            pull: None,
            joining: None,
            looking: None,
            join_at: Instant::now(),
            look_at: Instant::now(),
            pause: FIRST_PAUSE,
            in_vain: 0,
            broke: false,
            reached: 0,
            unread: Vec::new(),
            gather: Gather::lingering(settings.linger),
            keep_at: Instant::now() + share.keep_every(),
            advisories: None,
            created: String::new(),
            done: 0,
            nudged: false,
            lag: None,
            share,
        })
    }

    fn stream(&self) -> &str {
        &self.reader.read.stream
    }

    /// Opens an inbox on the consumer, and tries again while there is no way to. Cancel-safe.
    async fn join(&mut self) -> Result {
        loop {
            let joined = self.joining.get_or_insert_with(|| {
                let (reader, share, at) = (Arc::clone(&self.reader), self.share.clone(), self.join_at);
                let (created, done) = (self.created.clone(), self.done);
                let broke = self.broke.then_some(self.reached);
                Box::pin(async move {
                    tokio::time::sleep_until(at).await;
                    reader.join(share, created, done, broke).await
                })
            });
            let joined = joined.await;
            self.joining = None;
            match joined {
                Ok(Joined { pull, done, unread }) => {
                    (self.pull, self.done) = (Some(pull), self.done.max(done));
                    (self.broke, self.unread) = (false, unread);
                    self.look_at = Instant::now() + LOOK_AGAIN;
                    return Ok(());
                }
                Err(fault) if fault.kind() == FaultKind::Connection => {
                    let (pause, stream) = (self.pause, self.stream());
                    tracing::warn!(stream, "cannot read yet, trying again in {pause:?}: {}", fault.chain());
                    self.join_at = Instant::now() + pause;
                    self.pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Err(fault) => return Err(fault),
            }
        }
    }

    /// How many messages more may come in hand.
    fn room(&self) -> u64 {
        u64::from(self.share.prefetch).saturating_sub((lock(&self.hand).len() + self.gather.heard.len()) as u64)
    }

    /// Waits for a batch of at most `max` messages, for ever if that is 0, and does what is due meanwhile. Cancel-safe.
    async fn hear(&mut self, max: usize) -> Result<Option<Again>> {
        loop {
            if self.pull.is_none() && max > 0 {
                self.joined().await?;
            }
            let stalled_at = self.stalled_at();
            let (look_at, looks, keep_at) = (self.look_at, self.looking.is_some(), self.keep_at);
            let fill = async {
                match &mut self.pull {
                    Some(pull) if max > 0 => self.gather.fill(pull, max).await,
                    // Nobody wants rows: what was asked for is taken in hand all the same, so that it is kept alive.
                    Some(pull) => loop {
                        let again = pull.hear(&mut self.gather.heard, usize::MAX).await;
                        if !matches!(again, Ok(None)) {
                            break again;
                        }
                    },
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(keep_at) => self.keep().await?,
                again = fill => return again,
                () = wait_until(stalled_at) => self.nudge(),
                given_up = next_of(&mut self.advisories) => self.log_given_up(&given_up),
                look = done(&mut self.looking), if looks => {
                    self.looking = None;
                    self.look_at = Instant::now() + LOOK_AGAIN;
                    if let Some(again) = self.see(look?)? {
                        return Ok(Some(again));
                    }
                }
                () = tokio::time::sleep_until(look_at), if !looks => {
                    self.looking = Some(Box::pin(Arc::clone(&self.reader).look()));
                }
            }
        }
    }

    /// As [`join`](Self::join), and does what is due meanwhile.
    async fn joined(&mut self) -> Result {
        loop {
            let keep_at = self.keep_at;
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(keep_at) => {}
                joined = self.join() => return joined,
            }
            self.keep().await?;
        }
    }

    /// When to take it for a stall that nothing comes.
    fn stalled_at(&self) -> Option<Instant> {
        let pull = self.pull.as_ref()?;
        let more_waits = self.lag.is_some_and(|lag| lag > 0);
        let stalls = more_waits && pull.waits() && !self.nudged && lock(&self.hand).len() > 0;
        stalls.then(|| pull.heard_at() + STALLED)
    }

    /// Asks for a checkpoint when half of what may be in hand is.
    fn nudge_if_half(&mut self) {
        if !self.nudged && lock(&self.hand).len() as u64 >= u64::from(self.share.prefetch.div_ceil(2)) {
            self.nudge();
        }
    }

    fn nudge(&mut self) {
        self.nudged = true;
        if let Some(nudge) = &self.nudge {
            nudge.checkpoint();
        }
    }

    fn see(&mut self, look: Look) -> Result<Option<Again>> {
        match look {
            Look::Away => Ok(None),
            Look::Stream(stream) => self.reader.check_is_same(&stream, &self.created).map(|()| None),
            Look::NoConsumer(stream) => {
                self.reader.check_is_same(&stream, &self.created)?;
                Ok(Some(Again::Ended("its consumer is gone".into())))
            }
            Look::Both(both) => {
                let (stream, consumer) = *both;
                self.reader.check_is_same(&stream, &self.created)?;
                self.done = self.done.max(consumer.ack_floor.stream_seq);
                self.lag = Some(consumer.num_pending);
                Ok(None)
            }
        }
    }

    fn log_given_up(&mut self, advisory: &[u8]) {
        let advisory: serde_json::Value = serde_json::from_slice(advisory).unwrap_or_default();
        let number = |name: &str| advisory.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
        tracing::error!(
            stream = self.stream(),
            "message {} was delivered {} times and is given up: it stays in the stream and is not delivered again",
            number("stream_seq"),
            number("deliveries")
        );
    }

    /// Tells the server of everything in hand that it is worked on, unless the server has heard of it just now.
    async fn keep(&mut self) -> Result {
        let (now, every) = (Instant::now(), self.share.keep_every());
        let since = now.checked_sub(every / 2).unwrap_or(now);
        let given: Vec<_> = lock(&self.hand).silent(since).map(progress).collect();
        let heard = self.gather.heard.iter().filter(|message| !message.is_status());
        let heard: Vec<_> = heard.filter_map(|message| message.reply.as_ref()).map(progress).collect();
        self.keep_at = now + every;
        if (!given.is_empty() || !heard.is_empty())
            && let Some(connection) = self.reader.control_now().await?
        {
            connection.publish_all(given.into_iter().chain(heard)).await.map_err(fault)?;
            lock(&self.hand).touch(since, now);
        }
        Ok(())
    }

    /// What was heard as rows, in hand from now on.
    fn rows(&mut self, max: usize) -> Result<(Given, Option<Again>)> {
        let Some(pull) = &mut self.pull else { return Ok((None, None)) };
        let (mut rows, mut again) = (Rows::with_capacity(max.min(self.gather.heard.len())), None);
        let (mut hand, heard_at) = (lock(&self.hand), pull.heard_at());
        for mut message in self.gather.take(max) {
            if let Some(status) = message.status {
                // What came before the end of a pull is ours all the same, and so is what comes behind it.
                again = pull.told(status, &message)?.or(again);
                continue;
            }
            let Some((reply, delivery)) = Delivery::of(&mut message) else { continue };
            pull.came();
            self.lag = Some(delivery.pending);
            self.reached = self.reached.max(delivery.stream_seq);
            if hand.take(delivery.stream_seq, delivery.times > 1, reply, heard_at) {
                rows.push(&delivery, message);
            }
        }
        drop(hand);
        let batch = rows.into_batch(&self.place)?;
        if batch.is_some() {
            (self.pause, self.in_vain) = (FIRST_PAUSE, 0);
        }
        Ok((batch, again))
    }

    /// What the client cannot read as rows, in hand from now on. The consumer waits for their acknowledgements as for any
    /// other.
    fn unread(&mut self) -> Result<Given> {
        let mut rows = Rows::with_capacity(self.unread.len());
        let (stream, consumer) = (&self.reader.read.stream, &self.reader.consumer);
        let mut hand = lock(&self.hand);
        for message in self.unread.drain(..) {
            let (sequence, stored_at) = (message.seq, message.stored_at());
            let reply = Subject::from(format!("$JS.ACK.{stream}.{consumer}.1.{sequence}.{sequence}.{stored_at}.0"));
            // It comes to nobody's hand but by the same search, which may find it again.
            if hand.take(sequence, true, reply, Instant::now()) {
                let (delivery, message) = as_delivered(stream, message);
                rows.push(&delivery, message);
            }
        }
        drop(hand);
        rows.into_batch(&self.place)
    }

    fn detach(&mut self, why: &Again) {
        why.log(self.stream());
        self.broke = why.is_break();
        // It may not have begun, if it was to begin later.
        if Instant::now().saturating_duration_since(self.join_at) >= LOOK_AGAIN {
            (self.pause, self.in_vain) = (FIRST_PAUSE, 0);
        }
        self.in_vain += 1;
        // Messages that came are ours as before; what the old pull said of itself is not the new one's.
        if let Some(pull) = &mut self.pull {
            pull.hear_now(&mut self.gather.heard);
        }
        (self.pull, self.looking) = (None, None);
        self.gather.heard.retain(|message| !message.is_status());
        self.join_at = Instant::now();
        if self.in_vain > 1 {
            let (pause, stream) = (self.pause, self.stream());
            tracing::warn!(
                stream,
                "reading broke off {} times in a row and brought nothing: again in {pause:?}",
                self.in_vain
            );
            self.join_at += pause;
            self.pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Settles everything given before message number `upto`; false if the server may not know all of it.
    async fn settle(&mut self, upto: u64) -> Result<bool> {
        let mut words = lock(&self.hand).words(upto);
        let count = words.len();
        if count == 0 {
            return Ok(true);
        }
        let Some(connection) = self.reader.control_now().await? else { return Ok(false) };
        let known = say(&connection, &mut words, HEARTBEAT).await?;
        if known {
            lock(&self.hand).settle(count);
            self.nudged = false;
        }
        Ok(known)
    }
}

async fn next_of(subscription: &mut Option<Subscription>) -> Bytes {
    if let Some(advisories) = subscription
        && let Some(message) = advisories.next().await
    {
        return message.payload;
    }
    std::future::pending().await
}

impl Source for SharedSource {
    type Out = Vec<Bytes>;
    type Position = u64;

    async fn open(&mut self, _: Option<u64>) -> Result {
        let js = self.reader.connections.js(Purpose::Read).await?;
        // Here, and not when there is something to acknowledge: to try again costs nothing yet.
        let control = self.reader.control().await?;
        let info = self.reader.stream(&js, false).await?;
        self.created.clone_from(&info.created);
        self.done = self.reader.consumer_to_share(&js, &info, &self.share, None).await?.ack_floor.stream_seq;
        let risks = risks(&info);
        if !risks.is_empty() {
            let stream = self.stream();
            tracing::warn!(stream, "messages of this stream can be lost before they are read: {}", risks.join("; "));
        }
        if self.share.max_deliver.is_some() {
            let (stream, consumer) = (&self.reader.read.stream, &self.reader.consumer);
            let advisories = js.connection().queue_subscribe(advisories_of(stream, consumer), consumer, 1_024).await;
            self.advisories = Some(advisories.map_err(fault)?);
        }
        let mut left = lock(&self.hand).drop_all();
        if !left.is_empty() {
            tracing::info!(stream = self.stream(), "{} messages of the run that failed are given back", left.len());
            say(&control, &mut left, HEARTBEAT).await?;
        }
        (self.pull, self.joining) = (None, None);
        Ok(())
    }

    async fn next(&mut self, max_rows: usize) -> Result<Option<Batch<Vec<Bytes>>>> {
        let max_rows = max_rows.max(1);
        loop {
            if self.pull.is_none() {
                self.joined().await?;
            }
            if !self.unread.is_empty()
                && let Some(rows) = self.unread()?
            {
                return Ok(Some(rows));
            }
            self.nudge_if_half();
            let room = self.room();
            if let Some(pull) = &mut self.pull {
                pull.ask(room).await?;
            }
            let again = self.hear(max_rows).await?;
            let (rows, wrong) = self.rows(max_rows)?;
            if let Some(why) = wrong.or(again) {
                self.detach(&why);
            }
            if rows.is_some() {
                return Ok(rows);
            }
        }
    }

    fn is_endless(&self) -> bool {
        true
    }

    fn position(&self) -> u64 {
        lock(&self.hand).total()
    }

    async fn commit(&mut self, upto: u64) -> Result {
        // What is not known to be settled is said again with the next checkpoint.
        self.settle(upto).await.map(drop)
    }

    fn lag(&self) -> Option<u64> {
        self.lag
    }

    async fn drive(&mut self) -> Result {
        loop {
            if let Some(why) = self.hear(0).await? {
                self.detach(&why);
            }
        }
    }

    async fn release(&mut self) -> Result {
        self.joining = None;
        if let Some(pull) = self.pull.take() {
            pull.end(&mut self.gather.heard).await;
        }
        let heard = self.gather.take(usize::MAX).filter(|message| !message.is_status());
        let mut back: Vec<_> = heard.filter_map(|message| Some(Outgoing::new(message.reply?, "-NAK"))).collect();
        if back.is_empty() {
            return Ok(());
        }
        tracing::info!(stream = self.stream(), "{} messages that were not begun are given back", back.len());
        // If that does not arrive, they come again when their time is over.
        match self.reader.control_now().await? {
            Some(connection) => say(&connection, &mut back, LAST_WORDS).await.map(drop),
            None => Ok(()),
        }
    }

    async fn close(&mut self) -> Result {
        let all = lock(&self.hand).total();
        if lock(&self.hand).len() > 0 && !self.settle(all).await? {
            let (stream, left) = (self.stream(), lock(&self.hand).len());
            tracing::warn!(stream, "{left} acknowledgements are not confirmed: what they are for may be done again");
        }
        Ok(())
    }
}

impl Drop for SharedSource {
    /// What came and was not given goes back with the rest when the next run opens.
    fn drop(&mut self) {
        if let Some(pull) = &mut self.pull {
            pull.hear_now(&mut self.gather.heard);
        }
        let mut hand = lock(&self.hand);
        for mut message in self.gather.take(usize::MAX).filter(|message| !message.is_status()) {
            if let Some((reply, delivery)) = Delivery::of(&mut message) {
                hand.take(delivery.stream_seq, delivery.times > 1, reply, Instant::now());
            }
        }
    }
}

impl std::fmt::Debug for SharedSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedSource({} of {}, {} in hand)", self.reader.consumer, self.stream(), lock(&self.hand).len())
    }
}
