//! [`Wishes`]: what the headers of a published message ask of its stream.

use millstream_operators::Headers;

/// The headers that a stream looks at, read in one pass. An expected sequence that is no number is never met.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes<'a> {
    pub(super) id: Option<&'a str>,
    pub(super) stream: Option<&'a str>,
    pub(super) last_seq: Option<u64>,
    pub(super) last_subject_seq: Option<u64>,
    /// The subject whose last sequence is meant, if not the message's own.
    pub(super) last_subject: Option<&'a str>,
    pub(super) last_id: Option<&'a str>,
    pub(super) rollup: Option<&'a str>,
    pub(super) ttl: Option<&'a str>,
    pub(super) batch: Option<&'a str>,
    pub(super) batch_seq: Option<u64>,
    pub(super) batch_commit: Option<&'a str>,
}

impl<'a> Wishes<'a> {
    pub(super) fn of(headers: &'a Headers) -> Self {
        let mut wishes = Wishes::default();
        for (name, value) in headers.iter() {
            if !name.starts_with("Nats-") || value.is_empty() {
                continue;
            }
            let number = || Some(value.parse().unwrap_or(u64::MAX));
            match name {
                "Nats-Msg-Id" => wishes.id = Some(value),
                "Nats-Expected-Stream" => wishes.stream = Some(value),
                "Nats-Expected-Last-Sequence" => wishes.last_seq = number(),
                "Nats-Expected-Last-Subject-Sequence" => wishes.last_subject_seq = number(),
                "Nats-Expected-Last-Subject-Sequence-Subject" => wishes.last_subject = Some(value),
                "Nats-Expected-Last-Msg-Id" => wishes.last_id = Some(value),
                "Nats-Rollup" => wishes.rollup = Some(value),
                "Nats-TTL" => wishes.ttl = Some(value),
                "Nats-Batch-Id" => wishes.batch = Some(value),
                "Nats-Batch-Sequence" => wishes.batch_seq = value.parse().ok(),
                "Nats-Batch-Commit" => wishes.batch_commit = Some(value),
                _ => {}
            }
        }
        wishes
    }

    /// The time to live in nanoseconds: `Ok(None)` without one, `Ok(Some(u64::MAX))` for `never`.
    ///
    /// # Errors
    /// It is no duration of a second or more.
    pub(super) fn ttl(&self) -> Result<Option<u64>, ()> {
        let Some(text) = self.ttl else { return Ok(None) };
        if text.eq_ignore_ascii_case("never") {
            return Ok(Some(u64::MAX));
        }
        if let Some(nanos) = go_duration(text) {
            let seconds = nanos / SECOND;
            return if nanos < SECOND { Err(()) } else { Ok(Some(seconds * SECOND)) };
        }
        match text.parse::<u64>() {
            Ok(0) => Ok(None),
            Ok(seconds) => Ok(Some(seconds.saturating_mul(SECOND))),
            Err(_) => Err(()),
        }
    }
}

const SECOND: u64 = 1_000_000_000;

/// A duration as Go writes it, such as `1h30m` or `1.5s`, in nanoseconds; `None` for what is none or negative.
pub(super) fn go_duration(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let scale = match unit {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * scale;
        rest = tail;
    }
    // A float becomes the nearest integer in range.
    Some(total as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        for (text, nanos) in [("10s", 10 * SECOND), ("1m30s", 90 * SECOND), ("1.5s", 1_500_000_000), ("5ms", 5_000_000)]
        {
            assert_eq!(go_duration(text), Some(nanos), "{text}");
        }
        for text in ["", "5", "s", "1x", "-1s"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn headers_become_wishes() {
        let mut headers = Headers::NONE;
        for (name, value) in [("Nats-Msg-Id", "a"), ("Nats-Expected-Last-Sequence", "x"), ("Nats-TTL", "5")] {
            headers.push(name, value).unwrap();
        }
        let wishes = Wishes::of(&headers);
        assert_eq!((wishes.id, wishes.last_seq, wishes.ttl()), (Some("a"), Some(u64::MAX), Ok(Some(5 * SECOND))));
        assert_eq!(Wishes { ttl: Some("500ms"), ..Wishes::default() }.ttl(), Err(()));
    }
}
