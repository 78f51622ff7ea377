//! [`Key`]: what rows are grouped by, and the key group that each falls into.

use std::hash::Hash;

/// A key: rows of one key keep their order and meet in one subtask.
///
/// A key has canonical bytes, because `std::hash::Hash` promises nothing across builds, and because the server's
/// `{{partition(n, token)}}` mapping must agree with us: strings are their UTF-8, numbers their decimal digits, a
/// tuple its parts one after the other, and a missing key is a key of its own.
///
/// ```
/// use millstream_operators::{Key, KeyGroup};
/// assert_eq!(KeyGroup::of(&"customer-7", 128), KeyGroup::of(&String::from("customer-7"), 128));
/// assert_eq!(KeyGroup::of(&42_u64, 128), KeyGroup::of(&"42", 128));
/// ```
pub trait Key: Hash + Eq + Clone + Send + 'static {
    /// Writes the canonical bytes.
    fn write_to(&self, to: &mut impl KeyWriter);

    /// The canonical bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write_to(&mut bytes);
        bytes
    }
}

/// Takes the canonical bytes of a [`Key`], piece by piece.
pub trait KeyWriter {
    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]);
}

impl KeyWriter for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// The 32-bit FNV-1a hash, as nats-server computes it for subject partitions
/// (<http://www.isthe.com/chongo/tech/comp/fnv/>).
#[derive(Clone, Copy, Debug)]
pub struct Fnv1a32(u32);

impl Default for Fnv1a32 {
    fn default() -> Self {
        Fnv1a32(0x811c_9dc5)
    }
}

impl Fnv1a32 {
    /// The hash of what was written.
    pub fn finish(self) -> u32 {
        self.0
    }
}

impl KeyWriter for Fnv1a32 {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    }
}

/// The unit in which keyed rows and keyed state are shared out: `fnv1a32(key) % groups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyGroup(pub u32);

impl KeyGroup {
    /// How many key groups a pipeline has unless it says otherwise.
    pub const DEFAULT_COUNT: u32 = 128;

    /// The group of `key` among `groups`.
    pub fn of(key: &impl Key, groups: u32) -> KeyGroup {
        let mut hash = Fnv1a32::default();
        key.write_to(&mut hash);
        KeyGroup(hash.finish() % groups.max(1))
    }

    /// Which of `subtasks` owns this group: each owns a contiguous range, as even as can be.
    pub fn owner(self, groups: u32, subtasks: u32) -> u32 {
        let (group, groups, subtasks) = (u64::from(self.0), u64::from(groups.max(1)), u64::from(subtasks.max(1)));
        u32::try_from(group * subtasks / groups).unwrap_or(0)
    }
}

impl Key for String {
    fn write_to(&self, to: &mut impl KeyWriter) {
        to.write(self.as_bytes());
    }
}

impl Key for &'static str {
    fn write_to(&self, to: &mut impl KeyWriter) {
        to.write(self.as_bytes());
    }
}

impl Key for std::sync::Arc<str> {
    fn write_to(&self, to: &mut impl KeyWriter) {
        to.write(self.as_bytes());
    }
}

impl Key for bytes::Bytes {
    fn write_to(&self, to: &mut impl KeyWriter) {
        to.write(self);
    }
}

impl Key for Vec<u8> {
    fn write_to(&self, to: &mut impl KeyWriter) {
        to.write(self);
    }
}

impl Key for bool {
    fn write_to(&self, to: &mut impl KeyWriter) {
        to.write(if *self { b"true" } else { b"false" });
    }
}

impl Key for char {
    fn write_to(&self, to: &mut impl KeyWriter) {
        to.write(self.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

impl<K: Key> Key for Option<K> {
    fn write_to(&self, to: &mut impl KeyWriter) {
        match self {
            Some(key) => key.write_to(to),
            // No subject token holds a NUL, so a missing key meets no other.
            None => to.write(b"\0"),
        }
    }
}

impl Key for () {
    fn write_to(&self, _: &mut impl KeyWriter) {}
}

macro_rules! decimal_keys {
    ($($int:ty),*) => {$(
        impl Key for $int {
            fn write_to(&self, to: &mut impl KeyWriter) {
                // 40 digits hold any 128-bit number with its sign.
                let (mut digits, mut at, mut rest) = ([0u8; 40], 40, *self);
                loop {
                    at -= 1;
                    // A digit is at most 9 whatever the sign.
                    let digit = (rest % 10).unsigned_abs_digit();
                    if let Some(place) = digits.get_mut(at) { *place = b'0' + digit }
                    rest /= 10;
                    if rest == 0 { break }
                }
                if self.is_below_zero() { to.write(b"-") }
                to.write(digits.get(at..).unwrap_or_default());
            }
        }
    )*};
}

trait Digit: Copy {
    fn unsigned_abs_digit(self) -> u8;
    fn is_below_zero(self) -> bool;
}

macro_rules! digits {
    (signed $($int:ty),*) => {$(impl Digit for $int {
        fn unsigned_abs_digit(self) -> u8 { u8::try_from(self.unsigned_abs()).unwrap_or(0) }
        fn is_below_zero(self) -> bool { self < 0 }
    })*};
    (unsigned $($int:ty),*) => {$(impl Digit for $int {
        fn unsigned_abs_digit(self) -> u8 { u8::try_from(self).unwrap_or(0) }
        fn is_below_zero(self) -> bool { false }
    })*};
}
digits!(signed i8, i16, i32, i64, i128, isize);
digits!(unsigned u8, u16, u32, u64, u128, usize);
decimal_keys!(i8, i16, i32, i64, i128, isize, u8, u16, u32, u64, u128, usize);

macro_rules! tuple_keys {
    ($(($($part:ident),+))*) => {$(
        #[expect(non_snake_case, reason = "a part's variable is named as its type")]
        impl<$($part: Key),+> Key for ($($part,)+) {
            fn write_to(&self, to: &mut impl KeyWriter) {
                let ($($part,)+) = self;
                $($part.write_to(to);)+
            }
        }
    )*};
}
tuple_keys!((A, B)(A, B, C)(A, B, C, D));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_as_the_published_vectors_say() {
        // From the FNV reference test suite.
        for (text, hash) in [("", 0x811c_9dc5), ("a", 0xe40c_292c), ("foobar", 0xbf9c_f968)] {
            let mut fnv = Fnv1a32::default();
            fnv.write(text.as_bytes());
            assert_eq!(fnv.finish(), hash, "{text}");
        }
    }

    #[test]
    fn numbers_are_their_digits() {
        assert_eq!(0u8.to_bytes(), b"0");
        assert_eq!(i64::MIN.to_bytes(), b"-9223372036854775808");
        assert_eq!(u128::MAX.to_bytes(), b"340282366920938463463374607431768211455");
        assert_eq!((7, "x", Some('y')).to_bytes(), b"7xy");
    }

    #[test]
    fn a_missing_key_is_a_key_of_its_own() {
        assert_ne!(None::<String>.to_bytes(), Some(String::new()).to_bytes());
    }

    #[test]
    fn subtasks_own_contiguous_and_even_ranges() {
        let owners: Vec<u32> = (0..128).map(|group| KeyGroup(group).owner(128, 3)).collect();
        assert!(owners.is_sorted());
        let share = |of| owners.iter().filter(|owner| **owner == of).count();
        assert_eq!((share(0), share(1), share(2)), (43, 43, 42));
    }
}
