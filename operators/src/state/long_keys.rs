//! Keys that are too long for a table, which takes less than 64 kB: a hash stands for one there, and the key is with the value.

use std::borrow::Cow;

use sha2::{Digest, Sha256};

/// A longer key is kept with its value.
pub(super) const LONGEST: usize = 1_024;
/// No encoded key begins with it: MessagePack never uses it.
const HASHED: u8 = 0xc1;
const LENGTH: usize = size_of::<u32>();

/// What tells long keys apart: nobody finds two that are alike.
pub(super) fn hashed(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// What stands for a key group and an encoded key in a table.
pub(super) fn placed(key: &[u8]) -> Cow<'_, [u8]> {
    match key {
        [high, low, rest @ ..] if rest.len() > LONGEST => {
            Cow::Owned([&[*high, *low, HASHED][..], &hashed(rest)].concat())
        }
        _ => Cow::Borrowed(key),
    }
}

/// An entry as it is in a table.
pub(super) fn entry(key: Vec<u8>, value: Vec<u8>) -> (Vec<u8>, Vec<u8>) {
    match placed(&key) {
        Cow::Borrowed(_) => (key, value),
        Cow::Owned(place) => {
            let rest = key.get(2..).unwrap_or_default();
            let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            (place, [&length.to_be_bytes()[..], rest, &value].concat())
        }
    }
}

/// An entry of a table taken apart: the key group, the encoded key, the encoded value.
pub(super) fn apart<'a>(place: &'a [u8], value: &'a [u8]) -> (u32, &'a [u8], &'a [u8]) {
    let (group, key) = group_of(place);
    if key.first() != Some(&HASHED) {
        return (group, key, value);
    }
    let (length, rest) = value.split_first_chunk::<LENGTH>().unwrap_or((&[0; LENGTH], value));
    let (key, value) = rest.split_at_checked(u32::from_be_bytes(*length) as usize).unwrap_or_default();
    (group, key, value)
}

/// The key group, and what follows it.
pub(super) fn group_of(key: &[u8]) -> (u32, &[u8]) {
    match key {
        [high, low, key @ ..] => (u32::from(u16::from_be_bytes([*high, *low])), key),
        _ => (0, key),
    }
}
