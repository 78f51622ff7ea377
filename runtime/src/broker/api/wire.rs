//! Headers as they are on the wire and in a stream: `NATS/1.0`, a line for each, an empty line.

use millstream_operators::Headers;

// What is shown of a line that is not legal.
const SHOWN: usize = 80;

/// Reads headers: those that are legal, and of the others what is wrong with each. Whoever published them may have put
/// anything there, and a stream keeps it.
///
/// Lines are told apart as clients do it: by LF with or without a CR before it; a line that begins with a blank goes on
/// with the one before.
pub(super) fn read_headers(bytes: &[u8]) -> (Headers, Vec<String>) {
    let (mut headers, mut flaws) = (Headers::NONE, Vec::new());
    if bytes.is_empty() {
        return (headers, flaws);
    }
    let mut flaw = |line: &[u8], what: &str| {
        let shown: String = line.escape_ascii().take(SHOWN).map(char::from).collect();
        flaws.push(format!("\"{shown}\" {what}"));
    };
    let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line)).peekable();
    let version = lines.next().unwrap_or_default();
    let status = version.strip_prefix(b"NATS/1.0").map(<[u8]>::trim_ascii);
    match status {
        Some([]) => {}
        Some(status) => {
            let code = status.split(|byte| *byte == b' ').next().unwrap_or_default();
            if code.len() != 3 || !code.iter().all(u8::is_ascii_digit) || std::str::from_utf8(status).is_err() {
                flaw(version, "has a status that is none");
            }
        }
        None => flaw(version, "is not the version NATS/1.0"),
    }
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        let mut whole = line.to_vec();
        while let Some(more) = lines.next_if(|next| next.first().is_some_and(u8::is_ascii_whitespace)) {
            whole.extend_from_slice(more);
        }
        match std::str::from_utf8(&whole) {
            Err(_) => flaw(&whole, "is not UTF-8"),
            Ok(text) => match text.split_once(':') {
                None => flaw(&whole, "has no colon"),
                Some((name, value)) => {
                    if let Err(error) = headers.push(name, value.trim()) {
                        flaw(&whole, &format!("is not legal: {error}"));
                    }
                }
            },
        }
    }
    (headers, flaws)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> (Vec<(String, String)>, usize) {
        let (headers, flaws) = read_headers(text);
        (headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), flaws.len())
    }

    #[test]
    fn legal_headers_are_read_as_they_are() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read(b""), (vec![], 0));
        assert_eq!(read(b"NATS/1.0\r\na: b\r\nc:d \r\n\r\n"), (vec![pair("a", "b"), pair("c", "d")], 0));
        assert_eq!(read(b"NATS/1.0\r\na: b\r\n  c\r\n\r\n"), (vec![pair("a", "b  c")], 0));
        assert_eq!(read(b"NATS/1.0 404 No Messages\r\n\r\n"), (vec![], 0));
    }

    #[test]
    fn what_is_not_legal_is_named_and_the_rest_is_kept() {
        for bad in [
            &b"NATS/1.0\r\nx: caf\xe9\r\na: b\r\n\r\n"[..],
            b"NATS/1.0\r\nx: a\rNats-Msg-Id: f\r\na: b\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\na: b\r\n\r\n",
            b"NATS/1.0\r\na name: x\r\na: b\r\n\r\n",
            b"NATS/1.0\r\n\xc3\xa4: x\r\na: b\r\n\r\n",
            b"x: y\r\na: b\r\n\r\n",
            b"NATS/1.0 abc\r\na: b\r\n\r\n",
        ] {
            let (headers, flaws) = read_headers(bad);
            assert_eq!((headers.get("a"), headers.len(), flaws.len()), (Some("b"), 1, 1), "{flaws:?}");
        }
    }
}
