//! [`UntilEnd`]: a stream as a bounded input: up to what it held when it was opened.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millstream_operators::{Batch, Parts, Result, Source};
use millstream_pipelines::graph::Subtask;

use super::attach::consumer_name;
use super::{JetStreamPosition, JetStreamRead, JetStreamSource};
use crate::connectors::{Connections, Purpose, fault};

// So long without a message before the server is asked whether there are more: the last messages of a stream may be on
// other subjects, or be gone.
const QUIET: Duration = Duration::from_millis(250);

/// A JetStream source that ends behind the last message that its stream had when it was opened.
pub(super) struct UntilEnd {
    inner: JetStreamSource,
    read: JetStreamRead,
    consumer: String,
    connections: Arc<Connections>,
    last: u64,
    // Behind the end, where messages were cut off that came later.
    cut: Option<JetStreamPosition>,
}

impl UntilEnd {
    pub(super) fn new(
        inner: JetStreamSource,
        subtask: &Subtask,
        read: JetStreamRead,
        connections: Arc<Connections>,
    ) -> Self {
        UntilEnd {
            inner,
            read,
            consumer: consumer_name(&subtask.pipeline, &subtask.node),
            connections,
            last: 0,
            cut: None,
        }
    }

    fn is_over(&self) -> bool {
        self.cut.is_some() || self.inner.position().sequence >= self.last
    }

    /// Whether the server has nothing more behind `position` for the consumer.
    async fn is_dry(connections: &Connections, read: &JetStreamRead, consumer: &str, position: u64) -> Result<bool> {
        let js = connections.js(Purpose::Read).await?;
        // While the server is away nothing is known; the source itself is there to complain.
        let Ok(info) = js.consumer(&read.stream, consumer).await else { return Ok(false) };
        // A consumer that a run with another filter left behind says nothing about ours.
        let ours = info.config.filter_subjects == read.subjects
            || (read.subjects.len() == 1 && read.subjects.first() == Some(&info.config.filter_subject));
        Ok(ours && info.num_pending == 0 && info.delivered.stream_seq <= position)
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
        if self.is_over() {
            return Ok(None);
        }
        let position = self.inner.position().sequence;
        let rows = {
            // One and the same future over all looks: a source that needs longer than one to attach must get there.
            let mut next = Box::pin(self.inner.next(max_rows));
            loop {
                tokio::select! {
                    biased;
                    rows = &mut next => break rows?,
                    () = tokio::time::sleep(QUIET) => {
                        if UntilEnd::is_dry(&self.connections, &self.read, &self.consumer, position).await? {
                            return Ok(None);
                        }
                    }
                }
            }
        };
        match rows {
            Some(batch) => self.up_to_end(batch),
            None => Ok(None),
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

    async fn close(&mut self) -> Result {
        self.inner.close().await
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::Headers;

    use millstream_pipelines::graph::Resources;

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
        let read = JetStreamRead { subjects, ..JetStreamRead::of("S") };
        let resources = Resources::default().with_shared(Arc::clone(connections));
        let subtask = Subtask { pipeline: "p".into(), node: "in".into(), index: 0, of: 1, resources };
        let inner = JetStreamSource::new(&subtask, read.clone()).unwrap();
        UntilEnd::new(inner, &subtask, read, Arc::clone(connections))
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
}
