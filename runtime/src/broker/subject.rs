//! [`Subject`]: a name to publish to or listen on, cheap to clone; and how patterns match names.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use bytes::Bytes;

/// A subject or subject pattern. Cloning copies no text.
///
/// Nothing is checked when it is made: the connection refuses to publish to what [`is_publishable`] refuses.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject(Text);

/// With the client on board its own type is used, so that nothing is converted on the way in or out.
#[cfg(feature = "jetstream")]
type Text = async_nats::Subject;
#[cfg(not(feature = "jetstream"))]
type Text = shared::Text;

#[cfg(not(feature = "jetstream"))]
mod shared {
    //! Text by reference, without the client's type.

    use std::ops::Deref;
    use std::sync::Arc;

    #[derive(Clone)]
    pub(super) enum Text {
        Static(&'static str),
        Shared(Arc<str>),
    }

    impl Text {
        pub(super) const fn from_static(text: &'static str) -> Self {
            Text::Static(text)
        }
    }

    impl Deref for Text {
        type Target = str;
        fn deref(&self) -> &str {
            match self {
                Text::Static(text) => text,
                Text::Shared(text) => text,
            }
        }
    }

    impl From<String> for Text {
        fn from(text: String) -> Self {
            Text::Shared(text.into())
        }
    }

    impl PartialEq for Text {
        fn eq(&self, other: &Self) -> bool {
            **self == **other
        }
    }

    impl Eq for Text {}

    impl PartialOrd for Text {
        fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Text {
        fn cmp(&self, other: &Self) -> std::cmp::Ordering {
            (**self).cmp(&**other)
        }
    }
}

impl Subject {
    /// A subject that is known when the program is written.
    pub const fn from_static(text: &'static str) -> Self {
        Subject(Text::from_static(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text as bytes. The text of a received message, which nobody else holds, is not copied.
    pub fn into_bytes(self) -> Bytes {
        #[cfg(feature = "jetstream")]
        return Bytes::from(self.0.into_string());
        #[cfg(not(feature = "jetstream"))]
        return Bytes::copy_from_slice(self.0.as_bytes());
    }

    #[cfg(feature = "jetstream")]
    pub(super) fn into_nats(self) -> async_nats::Subject {
        self.0
    }

    #[cfg(feature = "jetstream")]
    pub(super) fn from_nats(subject: async_nats::Subject) -> Self {
        Subject(subject)
    }
}

impl From<&'static str> for Subject {
    fn from(text: &'static str) -> Self {
        Subject::from_static(text)
    }
}

impl From<String> for Subject {
    fn from(text: String) -> Self {
        Subject(Text::from(text))
    }
}

/// Shares the bytes; only the embedded broker alone copies them.
impl TryFrom<Bytes> for Subject {
    type Error = std::str::Utf8Error;

    fn try_from(text: Bytes) -> Result<Self, Self::Error> {
        #[cfg(feature = "jetstream")]
        return Text::try_from(text).map(Subject);
        #[cfg(not(feature = "jetstream"))]
        return std::str::from_utf8(&text).map(|text| Subject::from(text.to_owned()));
    }
}

impl From<&String> for Subject {
    fn from(text: &String) -> Self {
        Subject::from(text.clone())
    }
}

impl Deref for Subject {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Subject {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl std::borrow::Borrow<str> for Subject {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

// By hand, because `Borrow<str>` promises the hash of the text.
impl Hash for Subject {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Whether a message can be published to `subject`: tokens that are not empty, no white space, no control
/// characters, no wildcard token.
pub fn is_publishable(subject: &str) -> bool {
    !subject.is_empty()
        && subject.split('.').all(|token| {
            !token.is_empty() && token != "*" && token != ">" && token.bytes().all(|b| b > b' ' && b != 0x7f)
        })
}

/// Whether `pattern` (where `*` is any one token and a last `>` is one token or more) matches `subject`.
pub fn matches(pattern: &str, subject: &str) -> bool {
    // Most patterns are literal; this is the quick way to see that one is.
    if pattern == subject {
        return true;
    }
    let mut tokens = subject.split('.');
    for want in pattern.split('.') {
        match (want, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (want, Some(token)) if want == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Whether everything that `narrow` matches is matched by `wide`.
pub fn is_subset(narrow: &str, wide: &str) -> bool {
    let mut tokens = narrow.split('.');
    for want in wide.split('.') {
        match (want, tokens.next()) {
            (">", Some(_)) => return true,
            (_, Some(">")) => return false,
            ("*", Some(_)) => {}
            (want, Some(token)) if want == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Whether some subject is matched by both patterns.
pub fn overlaps(one: &str, other: &str) -> bool {
    let (mut left, mut right) = (one.split('.'), other.split('.'));
    loop {
        match (left.next(), right.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_whole_tokens() {
        for (pattern, subject, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a.b.c", false),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            ("*.b", "a.b", true),
            ("a*", "ab", false),
            ("a.b", "a", false),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} {subject}");
        }
    }

    #[test]
    fn patterns_overlap_when_one_subject_fits_both() {
        assert!(overlaps("a.*", "*.b"));
        assert!(overlaps("a.>", "a.b.c"));
        assert!(!overlaps("a.*", "a.b.c"));
        assert!(!overlaps("a", "b"));
        assert!(!overlaps("a.>", "a"));
    }

    #[test]
    fn a_subject_that_would_break_the_wire_is_not_publishable() {
        for bad in ["", ".", "a.", "a b", "a.\r\nPUB x", "a.*", ">", "a\tb"] {
            assert!(!is_publishable(bad), "{bad:?}");
        }
        assert!(is_publishable("orders.ä.$x"));
    }

    #[test]
    fn a_pattern_contains_narrower_ones() {
        for (narrow, wide, expected) in [
            ("a.b", "a.*", true),
            ("a.*", "a.*", true),
            ("a.*", "a.>", true),
            ("a.>", "a.*", false),
            ("a.>", "a.>", true),
            ("a.*", "a.b", false),
            ("a", "a.>", false),
        ] {
            assert_eq!(is_subset(narrow, wide), expected, "{narrow} {wide}");
        }
    }
}
