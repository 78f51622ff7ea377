//! Event time of typed rows.

use std::sync::Arc;

use millstream_operators::Rejected;
use millstream_operators::rows::RowFn;
use millstream_operators::watermarks::{EventTime, IntoEventTime, Watermarks};

use super::Stream;
use super::pipeline::of_node;

impl<T: Send + 'static, R: RowFn<Out = T>> Stream<T, R> {
    /// Each row gets the event time that the closure tells of it, and watermarks follow as `watermarks` says. Rows without
    /// a time, and those too far ahead of their message, go to the second stream.
    ///
    /// Windows, joins and timers behind it go by these times.
    pub fn event_time<V, F>(self, name: &str, time: F, watermarks: Watermarks) -> (Stream<T>, Stream<Rejected<T>>)
    where
        V: IntoEventTime + 'static,
        F: Fn(&T) -> V + Send + Sync + 'static,
    {
        let wrong = of_node(name, "", watermarks.problem().into_iter().collect());
        wrong.for_each(|problem| self.pipeline().problem(problem));
        let time = Arc::new(time);
        let node = self.node(name, "event_time", move |_| Ok(EventTime::new(Arc::clone(&time), watermarks)));
        let [main, rejected] = node.detailed(watermarks.to_string()).ports();
        (main.of(), rejected.of())
    }
}
