//! [`AsSaved`]: a part of a value that is read as it was saved, to be made into what it is now.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// What goes wrong when saved bytes are read.
pub(crate) type ReadError = rmp_serde::decode::Error;

/// Any part of a saved value, whatever its type was: what is around it is read while that is not known.
#[derive(Debug)]
pub(crate) struct AsSaved(rmpv::Value);

impl AsSaved {
    /// The part, which was an `S`.
    ///
    /// # Errors
    /// It was something else.
    pub(crate) fn read<S: DeserializeOwned>(self) -> Result<S, ReadError> {
        rmp_serde::from_slice(&self.bytes()?)
    }

    /// The bytes that it was saved as.
    ///
    /// # Errors
    /// None today.
    pub(super) fn bytes(self) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &self.0).map_err(|error| ReadError::Uncategorized(error.to_string()))?;
        Ok(bytes)
    }
}

impl<'de> Deserialize<'de> for AsSaved {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        rmpv::Value::deserialize(from).map(AsSaved)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Serialize;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    enum Kind {
        None,
        Named(String),
        Both { a: i64, b: Option<f32> },
    }

    #[test]
    fn a_part_of_any_type_comes_back_as_it_was() {
        let map: BTreeMap<String, Vec<Kind>> = [
            ("a".to_owned(), vec![Kind::None, Kind::Named("ä".into())]),
            ("b".to_owned(), vec![Kind::Both { a: i64::MIN, b: Some(0.1) }]),
        ]
        .into();
        let saved = rmp_serde::to_vec(&(7_u8, &map, u64::MAX)).unwrap();
        let (seven, part, last): (u8, AsSaved, u64) = rmp_serde::from_slice(&saved).unwrap();
        assert_eq!((seven, part.read::<BTreeMap<String, Vec<Kind>>>().unwrap(), last), (7, map, u64::MAX));
        let (_, part, _): (u8, AsSaved, u64) = rmp_serde::from_slice(&saved).unwrap();
        assert!(part.read::<Vec<u8>>().is_err());
    }
}
