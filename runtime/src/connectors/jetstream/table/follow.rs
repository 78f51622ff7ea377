//! [`follow`]: keeps a table as its bucket is.
//!
//! ```text
//! a consumer of the last message of each key: all that are there -> the table, in one moment -> the latch opens
//!                                             each change behind  -> the table
//! a gap, a heartbeat that knows of more, a new link, silence: the same again, by another consumer
//!                                             rows find the old table until the new one is whole
//! ```

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::{Fault, FaultKind, Result, Retry, Table};

use super::super::delivery::Delivery;
use super::super::pull::{Again, Pull, nanos};
use super::super::status::last_delivery;
use crate::broker::{
    AckPolicy, BrokerError, Connections, ConsumerConfig, DeliverPolicy, Incoming, Purpose, codes, is_gone,
};
use crate::connectors::fault;
use crate::engine::Opener;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
// How long a consumer that nobody asks any more stays.
const FORGOTTEN: Duration = Duration::from_secs(60);
const AT_ONCE: u64 = 1_000;

/// Keeps `table` as the bucket is, and opens the latch when it is whole. It ends when nothing can help before that.
pub(super) async fn follow(connections: Arc<Connections>, bucket: String, table: Table, opener: Opener) {
    let mut pause = FIRST_PAUSE;
    loop {
        let mut round = Round { bucket: &bucket, table: &table, opener: &opener, loading: Some(HashMap::new()) };
        match round.follow(&connections).await {
            Ok(again) => {
                tracing::info!(bucket, "reading the table anew: {}", again.why());
                pause = FIRST_PAUSE;
            }
            Err(fault) if fault.retry() == Retry::Never && !opener.has_said() => return opener.refuse(&fault),
            Err(fault) => {
                tracing::warn!(bucket, "the table is not kept current, trying again in {pause:?}: {}", fault.chain());
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// What is done with one consumer.
struct Round<'a> {
    bucket: &'a str,
    table: &'a Table,
    opener: &'a Opener,
    // What has come of a table that is not whole yet.
    loading: Option<HashMap<String, Bytes>>,
}

impl Round<'_> {
    async fn follow(&mut self, connections: &Connections) -> Result<Again> {
        let js = connections.js(Purpose::Read).await?;
        let generation = js.connection().generation();
        let stream = format!("KV_{}", self.bucket);
        let unique = js.connection().new_inbox();
        let config = ConsumerConfig {
            name: format!("mill-{}", unique.rsplit('.').next().unwrap_or_default()),
            deliver_policy: DeliverPolicy::LastPerSubject,
            // In a mirror, keys have the name of the bucket that they come from.
            filter_subjects: vec!["$KV.*.>".to_owned()],
            ack_policy: AckPolicy::None,
            inactive_threshold: nanos(FORGOTTEN),
            mem_storage: true,
            num_replicas: 1,
            ..ConsumerConfig::default()
        };
        let consumer = js.create_consumer(&stream, &config).await.map_err(|error| self.refused(error))?;
        if consumer.num_pending == 0 {
            self.whole();
        }
        let mut pull = Pull::open(js, &stream, &consumer.name, AT_ONCE, generation).await?;
        let (mut heard, mut expected) = (Vec::new(), 1);
        loop {
            pull.ask(AT_ONCE).await?;
            if let Some(again) = pull.hear(&mut heard, AT_ONCE as usize).await? {
                return Ok(again);
            }
            for mut message in heard.drain(..) {
                if let Some(status) = message.status {
                    let came = expected - 1;
                    // What is lost behind the last that came would show when any key changes next, and that may be never.
                    if let Some(delivered) = last_delivery(status, &message).filter(|delivered| *delivered > came) {
                        return Ok(Again::Tail { came, delivered });
                    }
                    match pull.told(status, &message)? {
                        Some(again) => return Ok(again),
                        // The last of what was there may be gone without a mark: only another consumer says what is left.
                        None if self.loading.is_some() && matches!(status, 404 | 408) => {
                            return Ok(Again::Ended("the table is not whole, and no more comes".to_owned()));
                        }
                        None => continue,
                    }
                }
                let Some((_, delivery)) = Delivery::of(&mut message) else { continue };
                if delivery.consumer_seq != expected {
                    return Ok(Again::Gap { expected, got: delivery.consumer_seq });
                }
                expected += 1;
                pull.came();
                self.take(&message);
                if delivery.pending == 0 {
                    self.whole();
                }
            }
        }
    }

    fn take(&mut self, message: &Incoming) {
        let rest = message.subject.as_str().strip_prefix("$KV.");
        let Some((_, key)) = rest.and_then(|rest| rest.split_once('.')) else { return };
        // What came with many others would keep all of their bytes.
        let value = Bytes::copy_from_slice(&message.payload);
        match (&mut self.loading, is_gone(&message.headers)) {
            (Some(loading), true) => drop(loading.remove(key)),
            (Some(loading), false) => drop(loading.insert(key.to_owned(), value)),
            (None, true) => self.table.remove(key),
            (None, false) => self.table.put(key, value),
        }
    }

    /// All that was there has come.
    fn whole(&mut self) {
        if let Some(all) = self.loading.take() {
            tracing::info!(bucket = self.bucket, keys = all.len(), "the table is there");
            self.table.replace(all);
            self.opener.open();
        }
    }

    fn refused(&self, error: BrokerError) -> Fault {
        if error.api_code() == Some(codes::STREAM_NOT_FOUND) {
            let bucket = self.bucket;
            let words = format!(
                "there is no bucket {bucket} to look rows up in: create it (`nats kv add {bucket}`), or correct its name"
            );
            return Fault::new(FaultKind::Setup, words);
        }
        fault(error)
    }
}
