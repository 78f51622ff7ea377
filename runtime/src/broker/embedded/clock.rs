//! Times as the JetStream API writes them.

use chrono::{DateTime, SecondsFormat};

/// What the server writes for a time that there is none of.
pub(super) const NEVER: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 for nanoseconds since the epoch.
pub(super) fn rfc3339(nanos: i64) -> String {
    DateTime::from_timestamp_nanos(nanos).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Nanoseconds since the epoch; `None` for what is no RFC 3339 time.
pub(super) fn parse_rfc3339(text: &str) -> Option<i64> {
    let time = DateTime::parse_from_rfc3339(text).ok()?;
    // What is out of range is before or after everything.
    Some(time.timestamp_nanos_opt().unwrap_or(if time.timestamp() < 0 { i64::MIN } else { i64::MAX }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back() {
        let nanos = 1_767_225_600_123_456_789;
        assert_eq!(rfc3339(nanos), "2026-01-01T00:00:00.123456789Z");
        assert_eq!(parse_rfc3339(&rfc3339(nanos)), Some(nanos));
        assert_eq!(parse_rfc3339(NEVER), Some(i64::MIN));
        assert_eq!(parse_rfc3339("soon"), None);
    }
}
