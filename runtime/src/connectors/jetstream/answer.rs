//! [`Answer`]: what comes back for what a sink publishes.

use serde::Deserialize;

use crate::broker::{ApiError, Incoming};

/// What an answer says, of group replies and of fast ingest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The message is stored; with a count it ends a batch of fast ingest, of which so many messages are stored.
    Stored { stream: String, count: Option<u64> },
    /// All of a batch up to this number is stored; the next such word comes after so many more.
    Flow { upto: u64, every: u64 },
    /// A message of a batch did not come. The batch ends before this number.
    Gap { missing: u64 },
    /// It was not stored.
    Refused(ApiError),
    /// No stream listens there.
    Nobody,
    /// It cannot be read.
    Nonsense,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Fields {
    r#type: String,
    seq: u64,
    msgs: u64,
    last_seq: u64,
    stream: String,
    batch: Option<String>,
    count: u64,
    error: Option<ApiError>,
}

impl Answer {
    /// Reads an answer. A refusal comes before all else: it may look like a confirmation in its other fields.
    pub(super) fn of(message: &Incoming) -> Answer {
        match message.status {
            Some(503) => return Answer::Nobody,
            Some(_) => return Answer::Nonsense,
            None => {}
        }
        let Ok(fields) = serde_json::from_slice::<Fields>(&message.payload) else { return Answer::Nonsense };
        match (fields.error, fields.r#type.as_str()) {
            (Some(error), _) => Answer::Refused(error),
            (None, "ack") => Answer::Flow { upto: fields.seq, every: fields.msgs.max(1) },
            // The server's name for the number that it waits for.
            (None, "gap") => Answer::Gap { missing: fields.last_seq },
            (None, "") if !fields.stream.is_empty() => {
                Answer::Stored { stream: fields.stream, count: fields.batch.map(|_| fields.count) }
            }
            _ => Answer::Nonsense,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use millstream_operators::Headers;

    use super::*;

    pub(in super::super) fn message(subject: &str, payload: &str) -> Incoming {
        Incoming {
            subject: subject.to_owned().into(),
            reply: None,
            headers: Headers::NONE,
            status: None,
            description: None,
            payload: payload.to_owned().into(),
            wire_len: 0,
        }
    }

    fn read(payload: &str) -> Answer {
        Answer::of(&message("i", payload))
    }

    #[test]
    fn every_kind_of_answer_is_told_apart() {
        assert_eq!(read(r#"{"stream":"S", "seq":3}"#), Answer::Stored { stream: "S".into(), count: None });
        let batch = r#"{"stream":"S","seq":3,"batch":"b","count":2}"#;
        assert_eq!(read(batch), Answer::Stored { stream: "S".into(), count: Some(2) });
        assert_eq!(read(r#"{"type":"ack","seq":500,"msgs":250}"#), Answer::Flow { upto: 500, every: 250 });
        assert_eq!(read(r#"{"type":"gap","last_seq":4,"seq":6}"#), Answer::Gap { missing: 4 });
        assert_eq!(Answer::of(&Incoming { status: Some(503), ..message("i", "") }), Answer::Nobody);
        for nonsense in ["", "{}", "[]", r#"{"type":"new"}"#] {
            assert_eq!(read(nonsense), Answer::Nonsense, "{nonsense}");
        }
    }

    #[test]
    fn a_refusal_is_seen_whatever_else_is_there() {
        let error = r#""error":{"code":503,"err_code":10077,"description":"maximum messages exceeded"}"#;
        for around in [r#""stream":"S","seq":0"#, r#""type":"err","seq":4"#] {
            let answer = read(&format!("{{{around},{error}}}"));
            assert!(matches!(answer, Answer::Refused(error) if error.err_code == 10077), "{around}");
        }
    }
}
