//! Event time of typed rows.

use std::sync::Arc;

use std::time::Duration;

use millstream_operators::rows::RowFn;
use millstream_operators::watermarks::{ByClock, EventTime, IntoEventTime, Watermarks};
use millstream_operators::{Rejected, Timestamp};

use super::Stream;
use super::pipeline::of_node;
use crate::graph::{Now, Subtask};

impl<T: Send + 'static, R: RowFn<Out = T>> Stream<T, R> {
    /// Each row gets the event time that the closure tells of it (microseconds since 1970), and watermarks follow as
    /// `watermarks` says: see [`EventTime`] for a timeline. Rows without a time, and those too far ahead of their message, go
    /// to the second stream.
    ///
    /// Windows, joins and timers behind it go by these times. An `idle_after` of no length, and `per_subject` without
    /// `idle_after`, are reported by [`build`](super::Pipeline::build).
    ///
    /// # Examples
    /// ```
    /// use std::time::Duration;
    /// use millstream_operators::{Timestamp, aggregate::count, watermarks::bounded_lateness, window::tumbling};
    /// # use millstream_pipelines::{dsl::{Pipeline, Stream}, graph::{Node, OutPort, Role}};
    /// # fn declared<T: Send + 'static>(pipeline: &Pipeline, name: &str) -> Stream<T> {
    /// #     let never = || millstream_operators::Fault::bug("only declared");
    /// #     let mut node = Node::new(name, "list", Role::Source(std::sync::Arc::new(move |_| Err(never()))));
    /// #     node.outputs = vec![millstream_operators::PortType::of::<Vec<T>>("out")];
    /// #     Stream::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 })
    /// # }
    ///
    /// struct Login { user: String, at_millis: i64 }
    ///
    /// let pipeline = Pipeline::new("logins");
    /// # let logins: Stream<Login> = declared(&pipeline, "logins");
    /// let watermarks = bounded_lateness(Duration::from_secs(5)).idle_after(Duration::from_secs(30));
    /// let (logins, refused) = logins.event_time("at", |login: &Login| Timestamp::from_millis(login.at_millis), watermarks);
    /// refused.stop("refused");
    /// let minutes = logins.key_by(|login| login.user.clone()).window(tumbling(Duration::from_secs(60)));
    /// minutes.aggregate("per_minute", count()).discard("out");
    /// pipeline.build().unwrap();
    /// ```
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

    /// Processing time: each row gets the time of the engine's clock when it comes, and no row is late. Windows, joins and
    /// timers behind it go by the clock, at most `every` later than it says. Rows that are read again after a crash come
    /// when they come, so that results may be others then. See [`ByClock`] for a timeline. An `every` of less than a
    /// millisecond is reported by [`build`](super::Pipeline::build).
    ///
    /// # Examples
    /// How many logins of each user came in each minute, told a tenth of a second behind it at the latest:
    ///
    /// ```
    /// use std::time::Duration;
    /// use millstream_operators::{aggregate::count, window::tumbling};
    /// # use millstream_pipelines::{dsl::{Pipeline, Stream}, graph::{Node, OutPort, Role}};
    /// # fn declared<T: Send + 'static>(pipeline: &Pipeline, name: &str) -> Stream<T> {
    /// #     let never = || millstream_operators::Fault::bug("only declared");
    /// #     let mut node = Node::new(name, "list", Role::Source(std::sync::Arc::new(move |_| Err(never()))));
    /// #     node.outputs = vec![millstream_operators::PortType::of::<Vec<T>>("out")];
    /// #     Stream::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 })
    /// # }
    ///
    /// let pipeline = Pipeline::new("logins");
    /// # let logins: Stream<String> = declared(&pipeline, "logins");
    /// let users = logins.processing_time("clock", Duration::from_millis(100)).key_by(String::clone);
    /// users.window(tumbling(Duration::from_secs(60))).aggregate("per_minute", count()).discard("out");
    /// pipeline.build().unwrap();
    /// ```
    pub fn processing_time(self, name: &str, every: Duration) -> Stream<T> {
        let wrong = of_node(name, "", ByClock::<Vec<T>>::problem(every).into_iter().collect());
        wrong.for_each(|problem| self.pipeline().problem(problem));
        let make = move |subtask: &Subtask| Ok(ByClock::<Vec<T>>::new(clock_of(subtask), every));
        self.node(name, "processing_time", make).detailed(format!("every {every:?}")).main()
    }
}

/// The engine's clock, where the engine runs the operator.
fn clock_of(subtask: &Subtask) -> Arc<dyn Fn() -> Timestamp + Send + Sync> {
    subtask.resources.get::<Now>().map_or_else(|| Arc::new(Timestamp::default) as _, |now| Arc::clone(&now.0))
}
