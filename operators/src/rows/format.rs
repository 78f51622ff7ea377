//! [`Format`]: how a typed row becomes bytes and comes back: JSON, NDJSON, MessagePack, text, raw.

use std::fmt;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Cause, Code};

/// Bytes to rows of type `T`, and back.
pub trait Format<T>: Clone + Send + Sync + fmt::Debug + 'static {
    /// The format's word: `json`.
    const NAME: &'static str;

    /// Whether what it writes is no text, and so cannot be a line of a file.
    const BINARY: bool = false;

    /// Gives each row of a message, or why there is none, to `emit`.
    fn decode(&self, message: &Bytes, emit: &mut impl FnMut(Result<T, Cause>));

    /// Appends a row's bytes.
    ///
    /// # Errors
    /// Why the row has no such form; what was appended is taken back by the caller.
    fn encode(&self, row: &T, to: &mut Vec<u8>) -> Result<(), Cause>;
}

/// One JSON value a message, by serde.
#[derive(Clone, Copy, Debug, Default)]
pub struct Json;

/// One JSON value a line; a message holds many. A bad line does not spoil the others. Empty lines are passed over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ndjson;

/// One MessagePack value a message, structs as maps, by serde.
#[derive(Clone, Copy, Debug, Default)]
pub struct MsgPack;

/// UTF-8 text, a `String` a message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Text;

/// The bytes as they are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl<T: Serialize + DeserializeOwned + 'static> Format<T> for Json {
    const NAME: &'static str = "json";

    fn decode(&self, message: &Bytes, emit: &mut impl FnMut(Result<T, Cause>)) {
        emit(from_json(message, 0));
    }

    fn encode(&self, row: &T, to: &mut Vec<u8>) -> Result<(), Cause> {
        serde_json::to_writer(to, row).map_err(|error| Cause::operator(format!("cannot be written as JSON: {error}")))
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Format<T> for Ndjson {
    const NAME: &'static str = "ndjson";

    fn decode(&self, message: &Bytes, emit: &mut impl FnMut(Result<T, Cause>)) {
        let mut start = 0;
        for line in message.split_inclusive(|byte| *byte == b'\n') {
            let text = line.trim_ascii();
            if !text.is_empty() {
                emit(from_json(text, start + line.len() - line.trim_ascii_start().len()));
            }
            start += line.len();
        }
    }

    fn encode(&self, row: &T, to: &mut Vec<u8>) -> Result<(), Cause> {
        Json.encode(row, to)
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Format<T> for MsgPack {
    const NAME: &'static str = "msgpack";
    const BINARY: bool = true;

    fn decode(&self, message: &Bytes, emit: &mut impl FnMut(Result<T, Cause>)) {
        let mut rest: &[u8] = message;
        let row = T::deserialize(&mut rmp_serde::Deserializer::new(&mut rest));
        let at = (message.len() - rest.len()) as u64;
        emit(match row {
            Ok(_) if !rest.is_empty() => {
                Err(Cause::new(Code::Decode, "more follows the MessagePack value").at_byte(at))
            }
            Ok(row) => Ok(row),
            Err(error) => Err(Cause::new(Code::Decode, format!("not the MessagePack expected: {error}")).at_byte(at)),
        });
    }

    fn encode(&self, row: &T, to: &mut Vec<u8>) -> Result<(), Cause> {
        rmp_serde::encode::write_named(to, row)
            .map_err(|error| Cause::operator(format!("cannot be written as MessagePack: {error}")))
    }
}

impl Format<String> for Text {
    const NAME: &'static str = "text";

    fn decode(&self, message: &Bytes, emit: &mut impl FnMut(Result<String, Cause>)) {
        emit(match std::str::from_utf8(message) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => Err(Cause::new(Code::Decode, "not valid UTF-8").at_byte(error.valid_up_to() as u64)),
        });
    }

    fn encode(&self, row: &String, to: &mut Vec<u8>) -> Result<(), Cause> {
        to.extend_from_slice(row.as_bytes());
        Ok(())
    }
}

impl Format<Bytes> for Raw {
    const NAME: &'static str = "raw";

    fn decode(&self, message: &Bytes, emit: &mut impl FnMut(Result<Bytes, Cause>)) {
        emit(Ok(message.clone()));
    }

    fn encode(&self, row: &Bytes, to: &mut Vec<u8>) -> Result<(), Cause> {
        to.extend_from_slice(row);
        Ok(())
    }
}

fn from_json<T: DeserializeOwned>(text: &[u8], offset: usize) -> Result<T, Cause> {
    serde_json::from_slice(text).map_err(|error| {
        let before: usize =
            text.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
        let within = (before + error.column().saturating_sub(1)).min(text.len());
        // serde_json ends its words with the place, which is given as an offset here.
        let words = error.to_string();
        let words = words.split(" at line ").next().unwrap_or_default();
        Cause::new(Code::Decode, format!("not the JSON expected: {words}")).at_byte((offset + within) as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded<T, F: Format<T>>(format: &F, message: &'static [u8]) -> Vec<Result<T, Cause>> {
        let mut rows = Vec::new();
        format.decode(&Bytes::from_static(message), &mut |row| rows.push(row));
        rows
    }

    #[test]
    fn a_row_that_does_not_decode_says_where() {
        let rows: Vec<Result<(u8, u8), _>> = decoded(&Json, b"[1,\n x]");
        let cause = rows[0].clone().unwrap_err();
        assert_eq!((cause.code, cause.offset), (Code::Decode, Some(5)));
        assert_eq!(cause.message, "not the JSON expected: expected value");
        let cause = decoded::<String, _>(&Text, b"ab\xff").remove(0).unwrap_err();
        assert_eq!(cause.offset, Some(2));
        assert!(decoded::<u8, _>(&MsgPack, &[1, 2]).remove(0).unwrap_err().message.contains("more follows"));
        assert!(decoded::<u8, _>(&Json, b"").remove(0).is_err());
    }

    #[test]
    fn a_bad_line_does_not_spoil_the_others() {
        let rows: Vec<Result<u8, _>> = decoded(&Ndjson, b"1\n x\r\n\n3");
        assert_eq!(rows[0], Ok(1));
        assert_eq!(rows[1].clone().unwrap_err().offset, Some(3));
        assert_eq!(rows[2], Ok(3));
    }

    #[test]
    fn what_is_written_reads_back() {
        let row = (7u8, "text".to_owned(), Some(1.5f64));
        let mut bytes = Vec::new();
        MsgPack.encode(&row, &mut bytes).unwrap();
        let mut back = None;
        MsgPack.decode(&bytes.into(), &mut |row: Result<(u8, String, Option<f64>), _>| back = Some(row.unwrap()));
        assert_eq!(back, Some(row));
    }
}
