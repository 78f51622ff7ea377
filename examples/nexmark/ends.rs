//! Where queries read and write: events of one kind are a subject of the stream `NEXMARK`, results go to `NEXMARK_OUT`.

use millstream::prelude::*;

/// The events of a kind, `person`, `auction` or `bid`, as rows of the fields that a query uses: what others hold is passed
/// over when an event is read. One that cannot be read ends the run.
pub(crate) fn events<T>(pipeline: &Pipeline, kind: &str) -> Stream<T>
where
    T: Serialize + for<'de> Deserialize<'de> + Send + 'static,
{
    let subject = format!("nexmark.{kind}");
    pipeline.source(kind, jetstream("NEXMARK").subjects([subject]).json().stop_on_rejected())
}

/// As [`events`], with the event time that `millis` tells of each; they may be a second out of order.
pub(crate) fn timed<T>(pipeline: &Pipeline, kind: &str, millis: impl Fn(&T) -> i64 + Send + Sync + 'static) -> Stream<T>
where
    T: Serialize + for<'de> Deserialize<'de> + Send + 'static,
{
    let time = move |event: &T| Timestamp::from_millis(millis(event));
    let watermarks = bounded_lateness(Duration::from_secs(1));
    let (events, untimed) = events(pipeline, kind).event_time(&format!("{kind}_time"), time, watermarks);
    untimed.stop(&format!("{kind}_without_time"));
    events
}

/// Ends a query: its results are JSON, with the names of the fields.
pub(crate) fn out<T>(query: &str, results: Stream<T>)
where
    T: Serialize + for<'de> Deserialize<'de> + Send + 'static,
{
    let to = jetstream_to("NEXMARK_OUT").create(["nexmark_out.>"]);
    results.sink("out", to.json().subject(format!("nexmark_out.{query}")).stop_on_rejected());
}
