//! [`ordered`]: keys as bytes whose order is that of the keys.

use std::fmt;

use serde::ser::{self, Serialize, Serializer};

use super::long_keys::{LONGEST, hashed};

/// Bytes for a key, in the order of the keys where that is the order of what they are made of, one thing behind the other, as
/// it is where it is derived. `encoded` is the key as it is saved: other keys have other bytes in any case.
pub(super) fn ordered(key: &impl Serialize, encoded: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    if key.serialize(Ordered(&mut bytes)).is_err() {
        bytes = [&[1], encoded].concat();
    }
    if bytes.len() > LONGEST {
        bytes.truncate(LONGEST);
        bytes.extend(hashed(encoded));
    }
    bytes
}

/// Things of many parts put an end behind them that is less than another part.
const END: u8 = 0;
const MORE: u8 = 1;

struct Ordered<'a>(&'a mut Vec<u8>);

impl Ordered<'_> {
    fn again(&mut self) -> Ordered<'_> {
        Ordered(self.0)
    }

    fn add(self, bytes: &[u8]) -> fmt::Result {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn variant(self, index: u32) -> Self {
        self.0.extend_from_slice(&index.to_be_bytes());
        self
    }
}

macro_rules! unsigned {
    ($($name:ident $type:ty),*) => { $(
        fn $name(self, value: $type) -> fmt::Result {
            self.add(&value.to_be_bytes())
        }
    )* };
}

macro_rules! signed {
    ($($name:ident $type:ty),*) => { $(
        fn $name(self, value: $type) -> fmt::Result {
            self.add(&(value ^ <$type>::MIN).to_be_bytes())
        }
    )* };
}

impl<'a> Serializer for Ordered<'a> {
    type Ok = ();
    type Error = fmt::Error;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    unsigned!(serialize_u8 u8, serialize_u16 u16, serialize_u32 u32, serialize_u64 u64, serialize_u128 u128);
    signed!(serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64, serialize_i128 i128);

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_bool(self, value: bool) -> fmt::Result {
        self.add(&[u8::from(value)])
    }

    fn serialize_f32(self, value: f32) -> fmt::Result {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> fmt::Result {
        let bits = value.to_bits();
        let flip = if value.is_sign_negative() { u64::MAX } else { 1 << 63 };
        self.add(&(bits ^ flip).to_be_bytes())
    }

    fn serialize_char(self, value: char) -> fmt::Result {
        self.serialize_u32(u32::from(value))
    }

    fn serialize_str(self, value: &str) -> fmt::Result {
        self.serialize_bytes(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> fmt::Result {
        for byte in value {
            self.0.push(*byte);
            if *byte == 0 {
                self.0.push(0xff);
            }
        }
        self.add(&[0, 0])
    }

    fn serialize_none(self) -> fmt::Result {
        self.add(&[END])
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> fmt::Result {
        self.0.push(MORE);
        value.serialize(self)
    }

    fn serialize_unit(self) -> fmt::Result {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> fmt::Result {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, index: u32, _: &'static str) -> fmt::Result {
        self.variant(index);
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> fmt::Result {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        value: &T,
    ) -> fmt::Result {
        value.serialize(self.variant(index))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, fmt::Error> {
        Ok(self.variant(index))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, fmt::Error> {
        Ok(self)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, fmt::Error> {
        Ok(self.variant(index))
    }
}

macro_rules! parts {
    ($($trait:ident $method:ident),*) => { $(
        impl ser::$trait for Ordered<'_> {
            type Ok = ();
            type Error = fmt::Error;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> fmt::Result {
                value.serialize(self.again())
            }

            fn end(self) -> fmt::Result {
                Ok(())
            }
        }
    )* };
}

parts!(SerializeTuple serialize_element, SerializeTupleStruct serialize_field, SerializeTupleVariant serialize_field);

impl ser::SerializeSeq for Ordered<'_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> fmt::Result {
        self.again().serialize_some(value)
    }

    fn end(self) -> fmt::Result {
        self.add(&[END])
    }
}

impl ser::SerializeMap for Ordered<'_> {
    type Ok = ();
    type Error = fmt::Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> fmt::Result {
        self.again().serialize_some(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> fmt::Result {
        value.serialize(self.again())
    }

    fn end(self) -> fmt::Result {
        self.add(&[END])
    }
}

macro_rules! fields {
    ($($trait:ident),*) => { $(
        impl ser::$trait for Ordered<'_> {
            type Ok = ();
            type Error = fmt::Error;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, _: &'static str, value: &T) -> fmt::Result {
                self.again().serialize_some(value)
            }

            fn skip_field(&mut self, _: &'static str) -> fmt::Result {
                self.again().serialize_none()
            }

            fn end(self) -> fmt::Result {
                Ok(())
            }
        }
    )* };
}

fields!(SerializeStruct, SerializeStructVariant);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    enum Kind {
        None,
        Named(String),
        Pair(i16, Option<u8>),
        Fields { list: Vec<i8>, map: BTreeMap<u8, char>, flag: bool },
    }

    fn kind() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::None),
            "[\u{0}-\u{2}a-b]{0,3}".prop_map(Kind::Named),
            (any::<i16>(), any::<Option<u8>>()).prop_map(|(a, b)| Kind::Pair(a, b)),
            (
                prop::collection::vec(-2..2_i8, 0..3),
                prop::collection::btree_map(0..2_u8, any::<char>(), 0..2),
                any::<bool>()
            )
                .prop_map(|(list, map, flag)| Kind::Fields { list, map, flag }),
        ]
    }

    fn bytes(key: &impl Serialize) -> Vec<u8> {
        ordered(key, &rmp_serde::to_vec(key).unwrap())
    }

    proptest! {
        #[test]
        fn bytes_have_the_order_of_keys(a in (kind(), any::<i64>()), b in (kind(), any::<i64>())) {
            prop_assert_eq!(bytes(&a).cmp(&bytes(&b)), a.cmp(&b));
        }
    }

    #[test]
    fn numbers_with_a_point_have_their_order_too() {
        let sorted = [f64::NEG_INFINITY, -1.5, -0.0, 0.0, 1e-300, 2.0, f64::INFINITY];
        assert!(sorted.iter().map(bytes).is_sorted());
    }

    #[test]
    fn long_keys_have_bytes_that_are_not_as_long_and_not_the_same() {
        let long = |end: &str| format!("{}{end}", "k".repeat(100_000));
        let (a, b) = (bytes(&long("a")), bytes(&long("b")));
        assert!(a != b && a.len() < 2_000);
    }
}
