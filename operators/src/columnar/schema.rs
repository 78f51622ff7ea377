//! The columns that a pipeline file declares: names, and types as text.
//!
//! | type | holds |
//! |---|---|
//! | `utf8`, `string`, `text` | text |
//! | `bool` | true or false |
//! | `int8` to `int64`, `uint8` to `uint64` | whole numbers |
//! | `float32`, `float64` | floating-point numbers |
//! | `decimal(p, s)` | exact numbers of up to `p` digits (38 at most), `s` of them behind the point |
//! | `date` | days |
//! | `timestamp` | points in time, to the microsecond, in UTC; numbers in messages are microseconds |
//! | `timestamp(ms)` | the same, where numbers in messages are milliseconds; or `s`, `us` |
//! | `duration` | spans of time, to the microsecond |
//! | `binary` | bytes |
//! | `json` | any JSON value, kept as its text |
//! | `list<T>` | any number of `T` |
//! | `struct<a: T, b: T>` | named values |
//!
//! Behind each may stand `not null`. Case does not matter in the names of types; it does in those of columns.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};

use crate::suggest;

/// What is wrong with the text of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeError {
    /// The bytes of the text that are to blame.
    pub within: Range<usize>,
    /// What is wrong.
    pub what: String,
    /// The way out.
    pub help: Option<String>,
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.help.iter().try_for_each(|help| write!(f, " ({help})"))
    }
}

impl std::error::Error for TypeError {}

/// The zone of every timestamp.
pub(super) const UTC: &str = "UTC";

/// The type of a `timestamp`.
pub(super) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
}

// Arrow's canonical extension type for JSON text (https://arrow.apache.org/docs/format/CanonicalExtensions.html).
const EXTENSION: &str = "ARROW:extension:name";
const JSON: &str = "arrow.json";

// In what units numbers stand for times in messages, where these are not microseconds.
const TIME_UNIT: &str = "millstream:time_unit";

/// The words for units of time, and their microseconds.
const TIME_UNITS: [(&str, i64); 3] = [("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// The microseconds that 1 stands for in a column of times.
pub(super) fn time_unit(field: &Field) -> i64 {
    let word = field.metadata().get(TIME_UNIT);
    let unit = word.and_then(|word| TIME_UNITS.iter().find(|(unit, _)| unit == word));
    unit.map_or(1, |(_, micros)| *micros)
}

/// Whether the text of this column is JSON.
pub(super) fn is_json(field: &Field) -> bool {
    field.data_type() == &DataType::Utf8 && field.metadata().get(EXTENSION).is_some_and(|name| name == JSON)
}

const NAMES: [&str; 21] = [
    "utf8",
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float32",
    "float64",
    "decimal",
    "date",
    "timestamp",
    "duration",
    "binary",
    "json",
    "list",
    "struct",
    "string",
];

/// What other systems call a type of ours.
const FOREIGN: [(&str, &str); 16] = [
    ("int", "int64"),
    ("integer", "int64"),
    ("long", "int64"),
    ("bigint", "int64"),
    ("smallint", "int16"),
    ("float", "float64"),
    ("double", "float64"),
    ("real", "float32"),
    ("number", "float64"),
    ("varchar", "utf8"),
    ("char", "utf8"),
    ("str", "utf8"),
    ("boolean", "bool"),
    ("datetime", "timestamp"),
    ("bytes", "binary"),
    ("array", "list<T>"),
];

/// Lists in lists, and so on, may be this deep.
const MAX_DEPTH: usize = 32;

/// Reads a type such as `decimal(12, 2) not null`; the flag says whether it may be null.
///
/// # Errors
/// A name that is not known, a bracket without its partner, or anything else that is not a type.
///
/// ```
/// use arrow::datatypes::DataType;
/// use millstream_operators::columnar::parse_type;
/// assert_eq!(parse_type("int64 not null"), Ok((DataType::Int64, false)));
/// assert_eq!(parse_type("strng").unwrap_err().help.unwrap(), "did you mean `string`?");
/// ```
pub fn parse_type(text: &str) -> Result<(DataType, bool), TypeError> {
    let field = parse_field("", text)?;
    Ok((field.data_type().clone(), field.is_nullable()))
}

/// Reads a type as [`parse_type`] does, into a field called `name`; it also remembers which text is JSON.
///
/// # Errors
/// As [`parse_type`].
pub fn parse_field(name: &str, text: &str) -> Result<Field, TypeError> {
    let mut reader = Reader { text, at: 0 };
    let field = reader.field(name, 0)?;
    match reader.rest().trim_start() {
        "" => Ok(field),
        rest => Err(reader.wrong(
            text.len() - rest.len()..text.trim_end().len(),
            format!("`{}` does not belong behind a type", rest.trim_end()),
            Some("only `not null` may stand there".to_owned()),
        )),
    }
}

/// Puts named columns together into a schema, in order.
///
/// # Errors
/// Every column that is wrong, with what is wrong with its type; a name that is empty or comes twice counts as such.
pub fn schema<'a>(
    columns: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<SchemaRef, Vec<(String, TypeError)>> {
    let (mut fields, mut wrong) = (Vec::<Field>::new(), Vec::new());
    for (name, text) in columns {
        let known = fields.iter().any(|field| field.name() == name);
        let field = match name {
            "" => Err("a column needs a name"),
            _ if known => Err("there are two columns of this name"),
            _ => Ok(()),
        };
        let refused = |what: &str| TypeError { within: 0..text.len(), what: what.to_owned(), help: None };
        match field.map_err(refused).and_then(|()| parse_field(name, text)) {
            Ok(field) => fields.push(field),
            Err(error) => wrong.push((name.to_owned(), error)),
        }
    }
    if wrong.is_empty() { Ok(Arc::new(Schema::new(fields))) } else { Err(wrong) }
}

/// A schema in words: `id: utf8 not null, amount: float64`.
pub fn describe(schema: &Schema) -> String {
    let columns = schema.fields().iter().map(|field| format!("{}: {}", field.name(), describe_field(field)));
    columns.collect::<Vec<_>>().join(", ")
}

/// A type in words: the ones that it was declared with, where it was.
pub(super) fn describe_field(field: &Field) -> String {
    let name = match field.metadata().get(TIME_UNIT) {
        Some(unit) if matches!(field.data_type(), DataType::Timestamp(..)) => format!("timestamp({unit})"),
        _ if is_json(field) => "json".to_owned(),
        _ => describe_type(field.data_type()),
    };
    if field.is_nullable() { name } else { format!("{name} not null") }
}

pub(super) fn describe_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "utf8".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "binary".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Timestamp(..) => "timestamp".to_owned(),
        DataType::Duration(_) => "duration".to_owned(),
        DataType::Interval(_) => "interval".to_owned(),
        DataType::Decimal128(precision, scale) => format!("decimal({precision}, {scale})"),
        DataType::List(item) => format!("list<{}>", describe_field(item)),
        DataType::Struct(fields) => {
            let fields = fields.iter().map(|field| format!("{}: {}", field.name(), describe_field(field)));
            format!("struct<{}>", fields.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string().to_lowercase(),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn wrong(&self, within: Range<usize>, what: impl Into<String>, help: Option<String>) -> TypeError {
        TypeError { within, what: what.into(), help }
    }

    /// The letters, digits and underscores that follow, and where they are.
    fn word(&mut self) -> (&'a str, Range<usize>) {
        self.skip_space();
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        let start = self.at;
        self.at += end;
        (rest.get(..end).unwrap_or(""), start..self.at)
    }

    fn take(&mut self, symbol: char) -> bool {
        self.skip_space();
        let taken = self.rest().starts_with(symbol);
        self.at += if taken { symbol.len_utf8() } else { 0 };
        taken
    }

    fn expect(&mut self, symbol: char, help: &str) -> Result<(), TypeError> {
        if self.take(symbol) {
            return Ok(());
        }
        let width = self.rest().chars().next().map_or(0, char::len_utf8);
        Err(self.wrong(self.at..self.at + width, format!("`{symbol}` is missing here"), Some(help.to_owned())))
    }

    fn number(&mut self, least: u8, most: u8, help: &str) -> Result<u8, TypeError> {
        let (digits, within) = self.word();
        match digits.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(self.wrong(
                within,
                format!("`{digits}` is not a number from {least} to {most}"),
                Some(help.to_owned()),
            )),
        }
    }

    fn field(&mut self, name: &str, depth: usize) -> Result<Field, TypeError> {
        let (word, within) = self.word();
        if depth > MAX_DEPTH {
            return Err(self.wrong(within, format!("types are nested more than {MAX_DEPTH} deep"), None));
        }
        let data_type = match word.to_ascii_lowercase().as_str() {
            "utf8" | "string" | "text" | "json" => DataType::Utf8,
            "bool" => DataType::Boolean,
            "int8" => DataType::Int8,
            "int16" => DataType::Int16,
            "int32" => DataType::Int32,
            "int64" => DataType::Int64,
            "uint8" => DataType::UInt8,
            "uint16" => DataType::UInt16,
            "uint32" => DataType::UInt32,
            "uint64" => DataType::UInt64,
            "float32" => DataType::Float32,
            "float64" => DataType::Float64,
            "date" => DataType::Date32,
            "timestamp" => timestamp(),
            "duration" => DataType::Duration(TimeUnit::Microsecond),
            "binary" => DataType::Binary,
            "decimal" => self.decimal()?,
            "list" => {
                self.expect('<', "write `list<utf8>`")?;
                let item = self.field(Field::LIST_FIELD_DEFAULT_NAME, depth + 1)?;
                self.expect('>', "write `list<utf8>`")?;
                DataType::List(Arc::new(item))
            }
            "struct" => self.fields(depth)?,
            unknown => return Err(self.unknown(unknown, within)),
        };
        let mut metadata = HashMap::new();
        if word.eq_ignore_ascii_case("json") {
            metadata.insert(EXTENSION.to_owned(), JSON.to_owned());
        }
        if word.eq_ignore_ascii_case("timestamp") && self.take('(') {
            let unit = self.time_unit()?;
            self.expect(')', "write `timestamp(ms)`")?;
            // Microseconds are what a timestamp without a unit has.
            if unit != "us" {
                metadata.insert(TIME_UNIT.to_owned(), unit.to_owned());
            }
        }
        Ok(Field::new(name, data_type, !self.not_null()?).with_metadata(metadata))
    }

    fn time_unit(&mut self) -> Result<&'static str, TypeError> {
        let (word, within) = self.word();
        match TIME_UNITS.iter().find(|(unit, _)| word.eq_ignore_ascii_case(unit)) {
            Some((unit, _)) => Ok(unit),
            None => {
                let help = "the units are `s`, `ms` and `us`: write `timestamp(ms)`".to_owned();
                Err(self.wrong(within, format!("`{word}` is no unit of time"), Some(help)))
            }
        }
    }

    fn decimal(&mut self) -> Result<DataType, TypeError> {
        let help = "write `decimal(12, 2)`: digits in all, at most 38, and how many of them are behind the point";
        self.expect('(', help)?;
        let precision = self.number(1, 38, help)?;
        self.expect(',', help)?;
        let scale = self.number(0, precision, help)?;
        self.expect(')', help)?;
        Ok(DataType::Decimal128(precision, i8::try_from(scale).unwrap_or(0)))
    }

    fn fields(&mut self, depth: usize) -> Result<DataType, TypeError> {
        let help = "write `struct<street: utf8, number: int32>`";
        self.expect('<', help)?;
        let mut fields = Vec::<Field>::new();
        loop {
            let (name, within) = self.word();
            if name.is_empty() {
                return Err(self.wrong(within, "the name of a field is missing here", Some(help.to_owned())));
            }
            if fields.iter().any(|field| field.name() == name) {
                return Err(self.wrong(within, format!("there are two fields called `{name}`"), None));
            }
            self.expect(':', help)?;
            fields.push(self.field(name, depth + 1)?);
            if !self.take(',') {
                break;
            }
        }
        self.expect('>', help)?;
        Ok(DataType::Struct(Fields::from(fields)))
    }

    fn not_null(&mut self) -> Result<bool, TypeError> {
        let before = self.at;
        let (word, _) = self.word();
        if !word.eq_ignore_ascii_case("not") {
            self.at = before;
            return Ok(false);
        }
        let (word, within) = self.word();
        if word.eq_ignore_ascii_case("null") {
            return Ok(true);
        }
        Err(self.wrong(within, "`null` is missing behind `not`", None))
    }

    fn unknown(&self, word: &str, within: Range<usize>) -> TypeError {
        let names = NAMES.iter().filter(|name| **name != "string").map(|name| format!("`{name}`"));
        let all = || format!("the types are {}", names.collect::<Vec<_>>().join(", "));
        if word.is_empty() {
            return self.wrong(within, "the name of a type is missing here", Some(all()));
        }
        let meant = FOREIGN.iter().find(|(foreign, _)| *foreign == word).map(|(_, ours)| *ours);
        let help = match meant.or_else(|| suggest::nearest(word, NAMES)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => all(),
        };
        self.wrong(within, format!("there is no type `{word}`"), Some(help))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_declared_is_described_in_the_same_words() {
        for text in [
            "utf8",
            "bool",
            "int8",
            "uint64",
            "float32",
            "decimal(12, 2)",
            "date",
            "timestamp",
            "timestamp(ms)",
            "timestamp(s) not null",
            "duration",
            "binary",
            "json",
            "list<json not null>",
            "struct<a: int64 not null, b: list<struct<c: utf8>>>",
            "int32 not null",
        ] {
            assert_eq!(describe_field(&parse_field("x", text).unwrap()), text);
        }
        let schema = schema([("id", "string"), ("at", " TIMESTAMP  not  NULL ")]).unwrap();
        assert_eq!(describe(&schema), "id: utf8, at: timestamp not null");
        assert_eq!(schema.field(1).data_type(), &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
    }

    #[test]
    fn a_type_that_is_wrong_is_refused_with_its_place_and_a_way_out() {
        for (text, blamed, help) in [
            ("strng", "strng", "`string`"),
            ("list<flot64>", "flot64", "`float64`"),
            ("varchar", "varchar", "`utf8`"),
            ("zzz", "zzz", "the types are `utf8`, `bool`"),
            ("", "", "the types are"),
            ("list<utf8", "", "write `list<utf8>`"),
            ("list", "", "write `list<utf8>`"),
            ("decimal(39,2)", "39", "write `decimal(12, 2)`"),
            ("decimal(3,4)", "4", "write `decimal(12, 2)`"),
            ("struct<>", "", "write `struct<"),
            ("struct<a int64>", "i", "write `struct<"),
            ("int64 nullable", "nullable", "only `not null`"),
            ("timestamp(min)", "min", "`s`, `ms` and `us`"),
            ("timestamp(ms", "", "write `timestamp(ms)`"),
        ] {
            let error = parse_type(text).unwrap_err();
            assert_eq!(&text[error.within.clone()], blamed, "{text}: {error}");
            assert!(error.help.as_ref().unwrap().contains(help), "{text}: {error}");
        }
        assert!(parse_type("int64 not").unwrap_err().what.contains("`null` is missing"));
        assert!(parse_type("struct<a: utf8, a: utf8>").unwrap_err().what.contains("two fields called `a`"));
        assert!(parse_type(&"list<".repeat(10_000)).unwrap_err().what.contains("nested"));
        assert!(parse_type("é<").is_err());
    }

    #[test]
    fn a_schema_lists_every_wrong_column() {
        let wrong = schema([("a", "int64"), ("a", "int64"), ("", "utf8"), ("b", "intt")]).unwrap_err();
        assert_eq!(wrong.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "", "b"]);
    }
}
