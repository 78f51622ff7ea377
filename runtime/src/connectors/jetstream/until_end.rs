//! [`UntilEnd`]: a stream as a bounded input: up to what it held when it was opened.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::{Batch, Parts, Result, Source};
use tokio::time::Instant;

use super::{JetStreamPosition, JetStreamRead, JetStreamSource};
use crate::connectors::{Connections, Purpose, fault};

// So long without a message before the server is asked whether there are more: the last messages of a stream may be on
// other subjects, or be gone.
const QUIET: Duration = Duration::from_millis(250);

/// A JetStream source that ends behind the last message that its stream had when it was opened.
pub(super) struct UntilEnd {
    inner: JetStreamSource,
    read: JetStreamRead,
    connections: Arc<Connections>,
    last: u64,
    // When it will have been quiet long enough to look.
    quiet_at: Option<Instant>,
    // Behind the end, where messages were cut off that came later.
    cut: Option<JetStreamPosition>,
}

impl UntilEnd {
    pub(super) fn new(inner: JetStreamSource, read: JetStreamRead, connections: Arc<Connections>) -> Self {
        UntilEnd { inner, read, connections, last: 0, quiet_at: None, cut: None }
    }

    fn is_over(&self) -> bool {
        self.cut.is_some() || self.inner.position().sequence >= self.last
    }

    /// The rows up to the end.
    fn up_to_end(&mut self, batch: Batch<Vec<Bytes>>) -> Result<Option<Batch<Vec<Bytes>>>> {
        if self.inner.position().sequence <= self.last {
            return Ok(Some(batch));
        }
        let Parts { mut times, mut rows, origins, weight } = batch.into_parts();
        let within = |row: &usize| {
            origins.as_ref().and_then(|all| all.get(*row)).is_none_or(|origin| origin.sequence <= self.last)
        };
        let kept = (0..rows.len()).take_while(within).count();
        let weight = weight.checked_div(rows.len()).unwrap_or(0) * kept;
        times.truncate(kept);
        rows.truncate(kept);
        let origins = origins.map(|all| all.select(0..kept));
        // The acknowledgement of a later message would cover what was cut off.
        self.cut = Some(JetStreamPosition { sequence: self.last, ack: None, ..self.inner.position() });
        let batch = Batch::from_parts(Parts { times, rows, origins, weight })?;
        Ok((!batch.is_empty()).then_some(batch))
    }
}

impl Source for UntilEnd {
    type Out = Vec<Bytes>;
    type Position = JetStreamPosition;

    async fn open(&mut self, from: Option<JetStreamPosition>) -> Result {
        self.inner.open(from).await?;
        let js = self.connections.js(Purpose::Read).await?;
        self.last = js.stream(&self.read.stream).await.map_err(fault)?.state.last_seq;
        Ok(())
    }

    async fn next(&mut self, max_rows: usize) -> Result<Option<Batch<Vec<Bytes>>>> {
        loop {
            if self.is_over() {
                return Ok(None);
            }
            let quiet_at = *self.quiet_at.get_or_insert_with(|| Instant::now() + QUIET);
            tokio::select! {
                biased;
                rows = self.inner.next(max_rows) => {
                    self.quiet_at = None;
                    return match rows? {
                        Some(batch) => self.up_to_end(batch),
                        None => Ok(None),
                    };
                }
                () = tokio::time::sleep_until(quiet_at) => {}
            }
            // Where nothing more waits, it moves the position to the end of the stream.
            self.inner.look_now().await?;
            self.quiet_at = None;
        }
    }

    fn position(&self) -> JetStreamPosition {
        self.cut.clone().unwrap_or_else(|| self.inner.position())
    }

    async fn commit(&mut self, upto: JetStreamPosition) -> Result {
        self.inner.commit(upto).await
    }

    fn lag(&self) -> Option<u64> {
        self.inner.lag()
    }

    async fn drive(&mut self) -> Result {
        self.inner.drive().await
    }

    async fn release(&mut self) -> Result {
        self.inner.release().await
    }

    async fn close(&mut self) -> Result {
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::Headers;

    use millstream_pipelines::graph::{Resources, Subtask};

    use super::*;
    use crate::broker::{Embedded, Js, StreamConfig};

    async fn stream() -> (Arc<Connections>, Js) {
        let connections = Arc::new(Connections::to_embedded(Embedded::default()));
        let js = connections.js(Purpose::Control).await.unwrap();
        js.create_stream(&StreamConfig::new("S", ["s.>"])).await.unwrap();
        (connections, js)
    }

    async fn publish(js: &Js, subject: &str, count: usize) {
        for _ in 0..count {
            js.publish(subject.to_owned(), Headers::NONE, subject.to_owned()).await.unwrap();
        }
    }

    fn source(connections: &Arc<Connections>, subjects: &[&str]) -> UntilEnd {
        let subjects = subjects.iter().map(|subject| (*subject).to_owned()).collect();
        reading(connections, JetStreamRead { subjects, ..JetStreamRead::of("S") })
    }

    fn reading(connections: &Arc<Connections>, read: JetStreamRead) -> UntilEnd {
        let resources = Resources::default().with_shared(Arc::clone(connections));
        let subtask = Subtask { pipeline: "p".into(), node: "in".into(), index: 0, of: 1, resources };
        let inner = JetStreamSource::new(&subtask, read.clone()).unwrap();
        UntilEnd::new(inner, read, Arc::clone(connections))
    }

    async fn all(source: &mut UntilEnd) -> usize {
        let mut rows = 0;
        while let Some(batch) = source.next(4).await.unwrap() {
            rows += batch.len();
        }
        rows
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_after_the_opening_is_left_to_the_next_run() {
        let (connections, js) = stream().await;
        publish(&js, "s.a", 10).await;
        let mut first = source(&connections, &[]);
        first.open(None).await.unwrap();
        publish(&js, "s.a", 7).await;
        assert_eq!((all(&mut first).await, first.position().sequence), (10, 10));
        let mut second = source(&connections, &[]);
        second.open(Some(first.position())).await.unwrap();
        assert_eq!(all(&mut second).await, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_last_messages_are_not_for_us_ends_all_the_same() {
        let (connections, js) = stream().await;
        publish(&js, "s.a", 5).await;
        publish(&js, "s.b", 5).await;
        let mut some = source(&connections, &["s.a"]);
        some.open(None).await.unwrap();
        assert_eq!(all(&mut some).await, 5);
        let mut empty = source(&connections, &["s.c"]);
        empty.open(None).await.unwrap();
        assert_eq!(all(&mut empty).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_purged_before_the_end_is_a_loss_and_no_end() {
        let (connections, js) = stream().await;
        publish(&js, "s.a", 10).await;
        let mut source = reading(&connections, JetStreamRead { max_ack_pending: 4, ..JetStreamRead::of("S") });
        source.open(None).await.unwrap();
        assert_eq!(source.next(1_024).await.unwrap().unwrap().len(), 4);
        js.purge("S", &crate::broker::Purge::default()).await.unwrap();
        let fault = source.next(1_024).await.unwrap_err();
        assert_eq!(fault.kind(), millstream_operators::FaultKind::SourceLost, "{fault}");
    }
}
