//! [`Span`], [`Size`] and [`Ordered`]: values of a pipeline file that serde has no words for.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

/// A span of time, written as numbers with units: `250ms`, `5s`, `1m30s`, `2h`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// Bytes, written as a number or as text with a unit: `1048576`, `"1MiB"`, `"500kB"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub usize);

/// Named values in the order in which they are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered<T>(pub Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Ordered(Vec::new())
    }
}

/// The values of `format` in a schema that the pipeline file checks.
pub(crate) const DURATION: &str = "duration";
pub(crate) const SIZE: &str = "size";

const TIMES: [(&str, u64); 6] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)];
const SIZES: [(&str, u64); 8] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("", 1),
];

/// Reads a sum of whole numbers with units.
fn sum(text: &str, units: &[(&str, u64)], many: bool) -> Option<u64> {
    let (mut rest, mut total, mut pieces) = (text.trim(), 0_u64, 0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, behind) = rest.split_at_checked(digits)?;
        let behind = behind.trim_start();
        let letters = behind.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(behind.len());
        let (unit, behind) = behind.split_at_checked(letters)?;
        let (_, factor) = units.iter().find(|(word, _)| *word == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*factor)?)?;
        rest = behind.trim_start();
        pieces += 1;
    }
    (pieces == 1 || (many && pieces > 0)).then_some(total)
}

impl Span {
    /// Reads a span of time.
    ///
    /// # Errors
    /// What it should look like.
    ///
    /// ```
    /// use millstream_pipelines::registry::Span;
    /// assert_eq!(Span::parse("1m30s").unwrap().0.as_secs(), 90);
    /// assert!(Span::parse("soon").unwrap_err().contains("such as `5s`"));
    /// ```
    pub fn parse(text: &str) -> Result<Self, String> {
        let micros = sum(text, &TIMES, true);
        let help = || format!("`{text}` is no span of time, such as `5s`, `250ms` or `1m30s`");
        micros.map(|micros| Span(Duration::from_micros(micros))).ok_or_else(help)
    }
}

impl Size {
    /// Reads a number of bytes.
    ///
    /// # Errors
    /// What it should look like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = sum(text, &SIZES, false).and_then(|bytes| usize::try_from(bytes).ok());
        bytes.map(Size).ok_or_else(|| format!("`{text}` is no number of bytes, such as `1048576`, `1MiB` or `500kB`"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Span::parse(&Cow::<str>::deserialize(from)?).map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes")
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                usize::try_from(bytes).map(Size).map_err(|_| E::custom("a number of bytes is not negative"))
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                usize::try_from(bytes).map(Size).map_err(|_| E::custom("so many bytes cannot be counted"))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                Size::parse(text).map_err(E::custom)
            }
        }
        from.deserialize_any(Bytes)
    }
}

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": DURATION, "examples": ["5s", "250ms", "1m30s"] })
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "minimum": 0, "format": SIZE, "examples": ["1MiB", 1_048_576] })
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        from.deserialize_map(Entries(std::marker::PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for Ordered<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Ordered_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let values = generator.subschema_for::<T>();
        json_schema!({ "type": "object", "additionalProperties": values })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_sums_of_numbers_with_units() {
        for (text, micros) in [("250ms", 250_000), ("1m 30s", 90_000_000), ("7d", 604_800_000_000), ("10us", 10)] {
            assert_eq!(Span::parse(text).unwrap().0.as_micros(), micros, "{text}");
        }
        for (text, bytes) in [("1MiB", 1 << 20), ("500 kB", 500_000), ("17", 17)] {
            assert_eq!(Size::parse(text).unwrap().0, bytes, "{text}");
        }
        for bad in ["", "5", "s", "5 parsecs", "-5s", "1.5s", "99999999999999999999s", "999999999999d"] {
            assert!(Span::parse(bad).is_err(), "{bad}");
        }
        assert!(Size::parse("1MiB2B").is_err() && Size::parse("ä").is_err());
    }

    #[test]
    fn named_values_keep_their_order() {
        let ordered: Ordered<i64> = toml::from_str("b = 1\na = 2").unwrap();
        assert_eq!(ordered.0, [("b".to_owned(), 1), ("a".to_owned(), 2)]);
    }
}
