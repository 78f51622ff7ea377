//! How a source watches its stream beside the reading: what goes before it is read is noticed, also while the rows that
//! were given wait for room.

use std::sync::Arc;

use millstream_operators::Result;
use millstream_operators::bugs::{Bug, planted};
use tokio::time::Instant;

use super::delivery::Delivery;
use super::gaps::judge;
use super::jumps::Jumps;
use super::look::{LOOK_AGAIN, Look};
use super::position::{JetStreamPosition, OnGap};
use super::pull::{Again, HEARTBEAT};
use super::source::{JetStreamSource, done};

/// The last delivery that has come.
struct Last {
    /// Its number; 0 if there is none.
    delivered: u64,
    /// Its sequence in the stream, or where the source stands.
    sequence: u64,
    /// Its sequence in the stream, or where the consumer was set to.
    at: u64,
    /// How many messages waited behind it.
    waiting: u64,
}

impl JetStreamSource {
    /// Begins to look.
    pub(super) fn look(&mut self) {
        self.looked_from = self.position.sequence;
        self.looking = Some(Box::pin(Arc::clone(&self.reader).look()));
    }

    /// Looks at once, and goes by what it sees. Cancel-safe.
    pub(super) async fn look_now(&mut self) -> Result {
        if self.pull.is_none() {
            return Ok(());
        }
        if self.looking.is_none() {
            self.look();
        }
        let look = done(&mut self.looking).await;
        self.looking = None;
        self.look_at = Instant::now() + LOOK_AGAIN;
        if let Some(again) = self.see(look?)? {
            self.detach(&again);
        }
        Ok(())
    }

    /// Looks now and then while nobody asks for rows. Cancel-safe.
    pub(super) async fn keep_looking(&mut self) -> Result {
        while self.pull.is_some() && !self.released {
            if self.looking.is_none() {
                tokio::time::sleep_until(self.look_at).await;
            }
            self.look_now().await?;
        }
        // To be set to its position, which validates it, the source must be asked for rows.
        std::future::pending().await
    }

    /// Sees whether the stream threw away what was not read yet; moves the position of an idle source forward, so that
    /// messages of other subjects that expire are not taken for a loss.
    pub(super) fn see(&mut self, look: Look) -> Result<Option<Again>> {
        let (stream, consumer) = match look {
            Look::Away => return Ok(None),
            Look::Stream(stream) => (*stream, None),
            // It is made again, and the position validated.
            Look::NoConsumer(_) => return Ok(Some(Again::Ended("its consumer is gone".into()))),
            Look::Both(both) => (both.0, Some(both.1)),
        };
        // The answer may be older than what was read meanwhile.
        let then = JetStreamPosition { sequence: self.looked_from, ..self.position.clone() };
        then.check_stream(&stream)?;
        if self.gone.is_some() {
            return Ok(None);
        }
        let (Some(consumer), Some(pull)) = (consumer, &mut self.pull) else { return Ok(None) };
        pull.hear_now(&mut self.gather.heard);
        let last = self.last();
        self.lag = Some(consumer.num_pending + (consumer.delivered.consumer_seq + 1).saturating_sub(self.expected));
        // While deliveries are on their way, they will tell. Those that do not come went elsewhere: to an instance that
        // was taken over and waited still, or were lost behind the last one that came.
        let delivered = (consumer.delivered.consumer_seq, last.delivered);
        if delivered.0 != delivered.1 {
            return Ok(match self.apart {
                Some((theirs, ours, since)) if (theirs, ours) == delivered => {
                    (since.elapsed() >= HEARTBEAT).then_some(Again::Tail { came: ours, delivered: theirs })
                }
                _ => {
                    self.apart = Some((delivered.0, delivered.1, Instant::now()));
                    None
                }
            });
        }
        self.apart = None;
        // Another instance of the pipeline, which ours has taken over or is taken over by, may have set it elsewhere: what
        // waits behind it then is not what waits for us.
        let purged = consumer.delivered.stream_seq > last.at && consumer.delivered.stream_seq < stream.state.first_seq;
        if consumer.delivered.stream_seq != last.at && !purged && !planted(Bug::TrustConsumer) {
            return Ok(Some(Again::Ended("another instance uses its consumer".into())));
        }
        // All that was ever delivered has come, and the stream was asked before the consumer: what it had thrown away
        // by then of the messages behind the last delivery will not come.
        let waited = self.seen.filter(|seen| seen.0 == last.delivered).map_or(last.waiting, |seen| seen.1);
        self.seen = Some((last.delivered, consumer.num_pending));
        let least = self.jumps.least(waited, consumer.num_pending);
        let told = self.jumps != Jumps::Untold && least != Some(0);
        let all_given = last.delivered + 1 == self.expected;
        // What was not given yet is given before anything is skipped; then the next delivery tells.
        if told && (all_given || self.read().on_gap == OnGap::Fail) {
            let behind = JetStreamPosition { sequence: last.sequence, ..then };
            if let Some(gap) = behind.gap(&stream, least) {
                let on_gap = self.read().on_gap;
                let to = judge(gap, &mut self.jumps, on_gap, &mut self.gone)?;
                if self.gone.is_some() {
                    return Ok(None);
                }
                if all_given {
                    self.position.sequence = self.position.sequence.max(to);
                }
            }
        }
        if all_given && consumer.num_pending == 0 {
            self.position.sequence = self.position.sequence.max(stream.state.last_seq);
            self.position.reached_at = self.clock.as_ref().map(|clock| clock.now());
        }
        Ok(None)
    }

    /// Asks how the stream is, because deliveries left something out; the answer holds for all that came before the
    /// question. Cancel-safe.
    pub(super) async fn clear_up(&mut self) -> Result<Option<Again>> {
        if self.asking.is_none() {
            if let Some(pull) = &mut self.pull {
                pull.hear_now(&mut self.gather.heard);
            }
            let (last, places) = (self.last().delivered, self.places());
            self.asking = Some((last, Box::pin(Arc::clone(&self.reader).holes(places))));
        }
        let Some((upto, asking)) = &mut self.asking else { return Ok(None) };
        let (upto, holes) = (*upto, asking.await);
        self.asking = None;
        let Some(holes) = holes? else {
            return Ok(Some(Again::Ended("it does not tell whether messages are lost".into())));
        };
        self.position.check_stream(&holes.info)?;
        (self.answer, self.in_doubt) = (Some((upto, holes)), false);
        Ok(None)
    }

    fn last(&self) -> Last {
        let heard = self.gather.heard.iter().rev().find_map(|message| Delivery::parse(message.reply.as_ref()?));
        match heard {
            Some(delivery) => Last {
                delivered: delivery.consumer_seq,
                sequence: delivery.stream_seq.max(self.position.sequence),
                at: delivery.stream_seq,
                waiting: delivery.pending,
            },
            None => Last {
                delivered: self.expected - 1,
                sequence: self.position.sequence,
                at: self.delivered,
                waiting: self.waiting,
            },
        }
    }
}
