//! One object of JSON or MessagePack into one row of [`Columns`], without a tree in between.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::column::{Column, Refusal, Shape};
use super::columns::Columns;

/// Objects and lists in a message may be this deep.
const MAX_DEPTH: usize = 128;

/// Why a message, or a line of it, was refused: the words, and how many bytes into it.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) what: String,
    pub(super) at: usize,
}

/// Reads one JSON object into row `row`, and takes back what it wrote when that fails.
pub(super) fn json(columns: &mut Columns, row: usize, strict: bool, bytes: &[u8]) -> Result<(), Refused> {
    let text = json_text(bytes)?;
    let mut from = serde_json::Deserializer::from_str(text);
    let read = RowSeed { columns, row, strict }.deserialize(&mut from).and_then(|()| from.end());
    let read = read.map_err(|error| {
        let at = if error.is_eof() { text.len() } else { offset(text, error.line(), error.column()) };
        let what = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let what = what.strip_suffix(&place).unwrap_or(&what);
        let is_json = !error.is_syntax() && !error.is_eof();
        Refused { what: if is_json { what.to_owned() } else { format!("this is not valid JSON: {what}") }, at }
    });
    let closed = read.and_then(|()| columns.close_row(row).map_err(|what| Refused { what, at: text.len() }));
    closed.inspect_err(|_| columns.truncate(row))
}

fn json_text(bytes: &[u8]) -> Result<&str, Refused> {
    let refuse = |what: &str, at| Err(Refused { what: what.to_owned(), at });
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => return refuse("the text is not valid UTF-8", error.valid_up_to()),
    };
    if text.starts_with('\u{feff}') {
        return refuse("there is a byte order mark, which JSON does not allow", 0);
    }
    if text.bytes().all(|byte| byte.is_ascii_whitespace()) {
        return refuse("the message is empty", 0);
    }
    match too_deep(bytes) {
        Some(at) => refuse("objects and lists are nested more than 128 deep", at),
        None => Ok(text),
    }
}

/// Where brackets are nested too deep. (The parser has a limit of its own, but not for what it skips.)
fn too_deep(bytes: &[u8]) -> Option<usize> {
    if bytes.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= MAX_DEPTH {
        return None;
    }
    let (mut depth, mut in_text, mut escaped) = (0usize, false, false);
    bytes.iter().position(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > MAX_DEPTH
    })
}

/// The byte of a place that is counted in lines and bytes.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
    (start + column.saturating_sub(1)).min(text.len())
}

/// Reads one MessagePack map into row `row`, and takes back what it wrote when that fails.
pub(super) fn msgpack(columns: &mut Columns, row: usize, strict: bool, bytes: &[u8]) -> Result<(), Refused> {
    if bytes.is_empty() {
        return Err(Refused { what: "the message is empty".to_owned(), at: 0 });
    }
    let mut from = rmp_serde::Deserializer::new(std::io::Cursor::new(bytes));
    from.set_max_depth(MAX_DEPTH);
    let read = RowSeed { columns, row, strict }.deserialize(&mut from).map_err(|error| match error {
        rmp_serde::decode::Error::InvalidMarkerRead(_) | rmp_serde::decode::Error::InvalidDataRead(_) => {
            "the message ends too early".to_owned()
        }
        error => error.to_string(),
    });
    let at = usize::try_from(from.position()).unwrap_or(0).min(bytes.len());
    let read = match read {
        Ok(()) if at < bytes.len() => Err("there are bytes behind the object".to_owned()),
        Ok(()) => columns.close_row(row),
        Err(what) => Err(what),
    };
    read.map_err(|what| Refused { what, at }).inspect_err(|_| columns.truncate(row))
}

/// An object that becomes a row.
struct RowSeed<'c> {
    columns: &'c mut Columns,
    row: usize,
    strict: bool,
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        fields(self.columns, self.row, self.strict, &mut map)
    }
}

/// The entries of an object into the columns of their names.
fn fields<'de, A: MapAccess<'de>>(
    columns: &mut Columns,
    row: usize,
    strict: bool,
    map: &mut A,
) -> Result<(), A::Error> {
    while let Some(key) = map.next_key_seed(KeySeed { columns, strict })? {
        match key.map(|place| columns.begin(place, row)) {
            Some(Some(column)) => map.next_value_seed(ValueSeed { column, strict })?,
            _ => {
                map.next_value::<IgnoredAny>()?;
            }
        }
    }
    Ok(())
}

/// A key: the place of its column, if there is one.
struct KeySeed<'c> {
    columns: &'c mut Columns,
    strict: bool,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that is text")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        match self.columns.find(key) {
            None if self.strict => {
                let shown: String = key.chars().take(64).collect();
                Err(E::custom(format_args!("there is no column {shown:?}, and the schema is strict")))
            }
            found => Ok(found),
        }
    }
}

/// A value that goes into a column.
struct ValueSeed<'c> {
    column: &'c mut Column,
    strict: bool,
}

impl<'de> DeserializeSeed<'de> for ValueSeed<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        let column = self.column;
        match column.shape() {
            Shape::Text | Shape::Nested => from.deserialize_any(ValueSeed { column, strict: self.strict }),
            Shape::Scalar if !from.is_human_readable() => {
                from.deserialize_any(ValueSeed { column, strict: self.strict })
            }
            // The text of a number says more than the number that a parser makes of it.
            Shape::Scalar => {
                let raw = <&RawValue>::deserialize(from)?;
                put_raw(column, raw.get()).map_err(D::Error::custom)
            }
            Shape::Json if from.is_human_readable() => {
                let raw = <&RawValue>::deserialize(from)?;
                put_json(column, raw.get()).map_err(D::Error::custom)
            }
            Shape::Json => {
                let value = serde_json::Value::deserialize(from)?;
                put_json(column, &value.to_string()).map_err(D::Error::custom)
            }
        }
    }
}

fn put_json(column: &mut Column, json: &str) -> Result<(), Refusal> {
    if json == "null" { column.put_null() } else { column.put_json(json) }
}

/// A JSON value by its text, which is known to be one.
fn put_raw(column: &mut Column, raw: &str) -> Result<(), Refusal> {
    match raw.as_bytes().first() {
        Some(b'n') => column.put_null(),
        Some(b't') => column.put_bool(true),
        Some(b'f') => column.put_bool(false),
        Some(b'[') => Err(column.refuse("a list")),
        Some(b'{') => Err(column.refuse("an object")),
        Some(b'"') if raw.contains('\\') => {
            let text: String =
                serde_json::from_str(raw).map_err(|_| "an escape in the text is not valid".to_owned())?;
            column.put_text(&text)
        }
        Some(b'"') => column.put_text(raw.get(1..raw.len() - 1).unwrap_or("")),
        _ => column.put_number(raw),
    }
}

impl<'de> Visitor<'de> for ValueSeed<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.column.put_null().map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.column.put_bool(value).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.column.put_int(value.into()).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.column.put_int(value.into()).map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.column.put_float(value).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.column.put_text(value).map_err(E::custom)
    }

    fn visit_bytes<E: Error>(self, value: &[u8]) -> Result<(), E> {
        self.column.put_bytes(value).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some(items) = self.column.items() else { return Err(A::Error::custom(self.column.refuse("a list"))) };
        while list.next_element_seed(ValueSeed { column: &mut *items, strict: self.strict })?.is_some() {}
        self.column.close_list().map_err(A::Error::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let row = self.column.len();
        let Some(columns) = self.column.fields() else { return Err(A::Error::custom(self.column.refuse("an object"))) };
        fields(columns, row, self.strict, &mut map)?;
        self.column.close_struct().map_err(A::Error::custom)
    }

    /// An extension of MessagePack: a timestamp, or nothing that we know.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        match from.deserialize_any(ExtensionVisitor)? {
            Some(micros) => self.column.put_micros(micros).map_err(D::Error::custom),
            None => Err(D::Error::custom(self.column.refuse("a MessagePack extension"))),
        }
    }
}

/// The microseconds of a MessagePack timestamp
/// (<https://github.com/msgpack/msgpack/blob/master/spec.md#timestamp-extension-type>).
struct ExtensionVisitor;

impl<'de> Visitor<'de> for ExtensionVisitor {
    type Value = Option<i128>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a MessagePack extension")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Self::Value, A::Error> {
        let tag = parts.next_element::<i8>()?;
        let Some(data) = parts.next_element_seed(ExtensionData)? else { return Ok(None) };
        Ok(if tag == Some(-1) { timestamp(&data) } else { None })
    }
}

fn timestamp(data: &[u8]) -> Option<i128> {
    let (seconds, nanos) = match data.len() {
        4 => (i128::from(u32::from_be_bytes(data.try_into().ok()?)), 0),
        8 => {
            let both = u64::from_be_bytes(data.try_into().ok()?);
            (i128::from(both & 0x3_ffff_ffff), i128::from(both >> 34))
        }
        12 => {
            let (nanos, seconds) = data.split_first_chunk::<4>()?;
            (i128::from(i64::from_be_bytes(seconds.try_into().ok()?)), i128::from(u32::from_be_bytes(*nanos)))
        }
        _ => return None,
    };
    (nanos < 1_000_000_000).then_some(seconds * 1_000_000 + nanos / 1_000)
}

struct ExtensionData;

impl<'de> DeserializeSeed<'de> for ExtensionData {
    type Value = Vec<u8>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Vec<u8>, D::Error> {
        from.deserialize_bytes(self)
    }
}

impl Visitor<'_> for ExtensionData {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }
}
