//! [`Headers`]: the name-value pairs that travel with a message.

use std::fmt;
use std::sync::Arc;

/// The headers of a message: names and values in the order in which they came, names case-sensitive (NATS ADR-4).
///
/// Cloning is cheap, and no headers cost no allocation. A name or value that would break the wire format never
/// gets in: see [`Headers::push`].
///
/// ```
/// use millstream_operators::Headers;
/// let mut headers = Headers::default();
/// headers.push("traceparent", "00-abc-def-01").unwrap();
/// assert_eq!(headers.get("traceparent"), Some("00-abc-def-01"));
/// assert!(headers.push("x", "two\r\nlines").is_err());
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Option<Arc<Vec<Pair>>>);

type Pair = (Box<str>, Box<str>);

/// Why a header was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidHeader {
    name: String,
    why: &'static str,
}

impl fmt::Display for InvalidHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "header {:?} {}", self.name, self.why)
    }
}

impl std::error::Error for InvalidHeader {}

impl Headers {
    /// No headers.
    pub const NONE: Headers = Headers(None);

    /// Adds a header, after those of the same name.
    ///
    /// # Errors
    /// A name must be printable ASCII without a colon or a space; a value must hold no CR, LF or NUL.
    pub fn push(&mut self, name: &str, value: &str) -> Result<(), InvalidHeader> {
        let refuse = |why| Err(InvalidHeader { name: name.chars().take(64).collect(), why });
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic() && b != b':') {
            return refuse(
                "has a name that is empty or holds a colon, a space or something that is not printable ASCII",
            );
        }
        if value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            return refuse("has a value that holds a CR, LF or NUL");
        }
        let pairs = self.0.get_or_insert_with(Arc::default);
        Arc::make_mut(pairs).push((name.into(), value.into()));
        Ok(())
    }

    /// The first value under `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().flat_map(|pairs| pairs.iter()).map(|(name, value)| (&**name, &**value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |pairs| pairs.len())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a header of this name is the server's or a sink's own (`Nats-*`, in any case), and never passes through.
    pub fn is_reserved(name: &str) -> bool {
        const RESERVED: &str = "Nats-";
        name.get(..RESERVED.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(RESERVED))
    }

    /// The bytes that they take on the wire: `NATS/1.0`, one line each, an empty line; none for no headers.
    pub fn wire_len(&self) -> usize {
        match self.is_empty() {
            true => 0,
            false => 12 + self.iter().map(|(name, value)| name.len() + value.len() + 4).sum::<usize>(),
        }
    }

    /// Only those whose name satisfies `keep`.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&str) -> bool) -> Headers {
        let kept: Vec<_> =
            self.0.iter().flat_map(|pairs| pairs.iter()).filter(|(name, _)| keep(name)).cloned().collect();
        Headers((!kept.is_empty()).then(|| Arc::new(kept)))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_order_and_repeats() {
        let mut headers = Headers::default();
        for (name, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            headers.push(name, value).unwrap();
        }
        assert_eq!(headers.get("a"), Some("1"));
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "2"), ("a", "3")]);
        assert_eq!(headers.filtered(|name| name == "b").len(), 1);
    }

    #[test]
    fn refuses_what_would_break_the_wire() {
        let mut headers = Headers::default();
        for (name, value) in [("", "x"), ("a:b", "x"), ("a b", "x"), ("ä", "x"), ("a", "x\ny"), ("a", "x\0")] {
            assert!(headers.push(name, value).is_err(), "{name:?}: {value:?}");
        }
        assert!(headers.is_empty());
    }
}
