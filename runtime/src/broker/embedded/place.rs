//! [`Place`]: where a message of fast ingest stands, as its reply subject says:
//! `<inbox>.<batch>.<flow>.<fail|ok>.<number>.<operation>.$FI`.

/// What a client does with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Start,
    Append,
    Commit,
    /// Commits without being a message itself.
    End,
    /// Asks for an acknowledgement.
    Ping,
}

/// What a reply subject says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) batch: &'a str,
    pub(super) flow: u64,
    pub(super) gaps_allowed: bool,
    pub(super) number: u64,
    pub(super) operation: Operation,
}

/// Whether a reply subject is that of fast ingest.
pub(super) fn is_fast(reply: &str) -> bool {
    reply.len() > 4 && reply.ends_with(".$FI")
}

impl<'a> Place<'a> {
    /// Reads a reply subject of fast ingest; `None` if it makes no sense.
    pub(super) fn parse(reply: &'a str) -> Option<Self> {
        let mut tokens = reply.rsplit('.').skip(1);
        let operation = match tokens.next()?.parse().ok()? {
            0 => Operation::Start,
            1 => Operation::Append,
            2 => Operation::Commit,
            3 => Operation::End,
            4 => Operation::Ping,
            _ => return None,
        };
        let number = tokens.next()?.parse().ok().filter(|number| (1..u64::MAX).contains(number))?;
        match operation {
            Operation::Start if number != 1 => return None,
            Operation::Append | Operation::End if number == 1 => return None,
            _ => {}
        }
        let gaps_allowed = match tokens.next()? {
            "ok" => true,
            "fail" => false,
            _ => return None,
        };
        let flow: i64 = tokens.next()?.parse().unwrap_or(0);
        let flow = if flow <= 0 { 10 } else { flow.min(i64::from(u16::MAX)).unsigned_abs() };
        let batch = tokens.next()?;
        // Before the batch there is an inbox.
        tokens.next()?;
        Some(Place { batch, flow, gaps_allowed, number, operation })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_subject_tells_the_place_in_a_batch() {
        let place = Place::parse("_INBOX.a.id.500.fail.7.1.$FI").unwrap();
        assert_eq!((place.batch, place.flow, place.number, place.gaps_allowed), ("id", 500, 7, false));
        assert_eq!(place.operation, Operation::Append);
        for bad in ["_INBOX.id.5.fail.2.0.$FI", "_INBOX.id.5.fail.1.1.$FI", "_INBOX.id.5.bad.1.0.$FI", "5.fail.1.0.$FI"]
        {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
        assert!(is_fast("x.$FI") && !is_fast("x.y"));
    }
}
