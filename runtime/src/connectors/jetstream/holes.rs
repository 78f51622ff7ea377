//! [`Holes`]: what a stream has where deliveries left something out.
//!
//! That a delivery is its consumer's next one does not say that nothing was left out: another instance of the pipeline, which
//! ours has taken over, may still read, and set the consumer elsewhere. Its deliveries then go to either. So what a jump
//! leaves out must not be in the stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::try_join_all;
use millstream_operators::Result;

use super::attach::Reader;
use super::delivery::Delivery;
use super::source::JetStreamSource;
use crate::broker::StreamInfo;
use crate::connectors::{Purpose, fault};

/// How a stream is, and what it has behind some places.
#[derive(Debug)]
pub(super) struct Holes {
    pub(super) info: Box<StreamInfo>,
    next: BTreeMap<u64, Option<u64>>,
}

/// So many places are looked at at once.
const MOST: usize = 256;

impl Holes {
    /// The first message that is read at or behind `from`, if that was asked: nothing in it if there is none.
    pub(super) fn next(&self, from: u64) -> Option<Option<u64>> {
        self.next.get(&from).copied()
    }
}

impl Reader {
    /// Looks at the stream, and for the first message that is read at or behind each of these places; nothing if that
    /// cannot be known now.
    ///
    /// # Errors
    /// The stream is gone, or the server refuses to tell.
    pub(super) async fn holes(self: Arc<Self>, places: Vec<u64>) -> Result<Option<Holes>> {
        let js = self.connections.js(Purpose::Read).await?;
        let asking = places.iter().map(|from| self.first_from(&js, *from));
        let found = match try_join_all(asking).await {
            Ok(found) => found,
            Err(error) if error.may_pass() => return Ok(None),
            Err(error) => return Err(fault(error)),
        };
        // Asked last, so that what is gone by now is known to be.
        let Some(info) = Arc::clone(&self).stream_now().await? else { return Ok(None) };
        let next =
            places.into_iter().zip(found.into_iter().map(|message| message.map(|message| message.seq))).collect();
        Ok(Some(Holes { info, next }))
    }
}

impl JetStreamSource {
    /// The places behind which the deliveries that were heard leave something out.
    pub(super) fn places(&self) -> Vec<u64> {
        let mut before = self.position.sequence;
        let mut places = vec![before + 1];
        if self.jumps.is_in_part() {
            return places;
        }
        for delivery in self.gather.heard.iter().filter_map(|message| Delivery::parse(message.reply.as_ref()?)) {
            if delivery.stream_seq > before + 1 && places.last() != Some(&(before + 1)) {
                places.push(before + 1);
            }
            before = before.max(delivery.stream_seq);
            if places.len() == MOST {
                break;
            }
        }
        places
    }
}
