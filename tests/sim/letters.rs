//! [`judge_letters`]: dead letters say of which message they come, and have its payload and its headers (P15).

use millstream::broker::Embedded;

use super::oracle::Event;

/// What is wrong with a dead letter that is stored.
pub(super) fn judge_letters(broker: &Embedded, events: &[Event]) -> Result<(), String> {
    for (sequence, subject, payload) in broker.messages("DEAD", 1) {
        if subject.starts_with("mill.txn.") {
            continue;
        }
        let headers = broker.headers("DEAD", sequence).unwrap_or_default();
        let of = headers.get("Mill-Dlq-Seq").and_then(|of| of.parse::<usize>().ok());
        let wrong = |what: &str| Err(format!("P15: dead letter {sequence}, {subject}, {headers:?}: {what}"));
        let Some(event) = of.and_then(|of| events.get(of.checked_sub(1)?)) else {
            return wrong("it names no message");
        };
        if payload != event.payload() {
            return wrong("its payload is not that of its message");
        }
        // The source refuses what is no event, and the step that tells times what is far ahead.
        let (stage, reason) = if event.is_refused() { ("timed", "event_time") } else { ("events", "decode") };
        let told = [
            ("Mill-Dlq-Pipeline", "sim".to_owned()),
            ("Mill-Dlq-Stage", stage.to_owned()),
            ("Mill-Dlq-Stream", "IN".to_owned()),
            ("Mill-Dlq-Subject", "in.event".to_owned()),
            ("Mill-Dlq-Reason", reason.to_owned()),
            ("Trace-Id", format!("trace {}", event.id)),
            ("Mill-Orig-Mill-Dlq-Seq", "forged".to_owned()),
        ];
        if let Some((name, value)) = told.iter().find(|(name, value)| headers.get(name) != Some(value.as_str())) {
            return wrong(&format!("{name} should be {value:?}"));
        }
        if *subject != format!("mill.dlq.sim.{stage}") || headers.get("Mill-Dlq-Error").is_none_or(str::is_empty) {
            return wrong("its subject is another, or it says no reason");
        }
    }
    Ok(())
}
