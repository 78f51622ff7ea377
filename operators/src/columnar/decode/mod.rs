//! [`Decode`]: from the bytes of messages to rows of declared columns.

mod column;
mod columns;
#[cfg(any(test, feature = "testkit"))]
mod corpus;
mod ipc;
mod meta;
mod number;
mod row;
#[cfg(test)]
mod tests;
mod values;

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;

#[cfg(any(test, feature = "testkit"))]
pub use self::corpus::{HOSTILE_COLUMNS, HostileJson, hostile_json};
pub use self::meta::Meta;

use self::column::Shape;
use self::columns::Columns;
use self::row::{Refused, json, msgpack};
use super::ExprError;
use super::schema::describe_type;
use crate::{
    Batch, Cause, Code, Fault, Operator, Origins, Outbox, Parts, PortType, Rejected, Result, Side, Times, Turn,
};

/// How rows are written in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeFormat {
    /// One JSON object a message.
    Json,
    /// One JSON object a line, any number of lines a message; a bad line leaves the others alone.
    Ndjson,
    /// An Arrow IPC stream a message. Columns are cast where nothing is lost.
    ArrowIpc,
    /// One MessagePack map a message.
    Msgpack,
    /// The message is the value of one text column, called `value` unless the schema says otherwise.
    Text,
    /// The message is the value of one binary column, called `value` unless the schema says otherwise.
    Raw,
}

impl DecodeFormat {
    /// All of them.
    pub const ALL: [DecodeFormat; 6] = [
        DecodeFormat::Json,
        DecodeFormat::Ndjson,
        DecodeFormat::ArrowIpc,
        DecodeFormat::Msgpack,
        DecodeFormat::Text,
        DecodeFormat::Raw,
    ];

    /// The word for it, as in a pipeline file.
    pub fn word(self) -> &'static str {
        match self {
            DecodeFormat::Json => "json",
            DecodeFormat::Ndjson => "ndjson",
            DecodeFormat::ArrowIpc => "arrow",
            DecodeFormat::Msgpack => "msgpack",
            DecodeFormat::Text => "text",
            DecodeFormat::Raw => "raw",
        }
    }
}

/// Reads messages into rows, which have the time and the origin of their message.
///
/// ```text
/// messages (n int64)   {"n":1}   {"n":"x"}   {"n":3,"m":4}
/// given                n: 1                  n: 3             strict: this one is rejected, too
/// rejected                       {"n":"x"}
/// ```
///
/// What the declared types take from JSON:
/// - a key that is absent or null is null, unless its column is `not null`; other keys are skipped, but checked for
///   syntax; of a key that comes twice, the last value counts;
/// - whole numbers may be written as `1.0` or `1e3` up to 2^53; none is ever rounded or wrapped to fit;
/// - `timestamp` takes RFC 3339 text with a zone, or microseconds; `date` takes `2026-01-31`; `duration` microseconds;
/// - `decimal` takes numbers and text, with all their digits; `binary` takes base64; `utf8` takes text and nothing else;
/// - nesting is at most 128 deep.
///
/// Nothing is kept from batch to batch. Many rows are given some thousand at a time, as there is room for them.
///
/// # Errors
/// A message, or a line of one, that is not what the format and the schema say goes to the port
/// [`REJECTED`](super::REJECTED), number 1: as it came, with the byte where the trouble is. So does what stands in the place of
/// messages that are gone. It is never a fault of the run.
pub struct Decode {
    format: DecodeFormat,
    payload: SchemaRef,
    columns: Columns,
    meta: Vec<Meta>,
    schema: SchemaRef,
    strict: bool,
    open: Option<Open>,
}

/// A batch of messages that is being read.
struct Open {
    times: Times,
    messages: Vec<Bytes>,
    origins: Option<Origins>,
    weight: usize,
    // The next byte to read, and the rows that are ready, each with its message.
    message: usize,
    byte: usize,
    of_row: Vec<usize>,
    // Messages that were read when the last rows were sent.
    sent: usize,
    // Rows of formats that come as whole batches.
    batches: Vec<RecordBatch>,
    rejected: Vec<(usize, Rejected<Bytes>)>,
}

/// What came of messages that are a row each.
pub(super) struct Each {
    pub(super) rows: RecordBatch,
    /// The message of each row.
    pub(super) of_row: Vec<usize>,
    /// Messages that are no row, with what is wrong.
    pub(super) refused: Vec<(usize, String)>,
}

/// How many rows make a batch, where messages hold many.
const BATCH_ROWS: usize = 8_192;

impl Decode {
    /// A decoder of one format. Text and raw bytes need no schema.
    ///
    /// # Errors
    /// A schema that is missing, or that does not go with the format.
    pub fn new(format: DecodeFormat, declared: Option<&SchemaRef>) -> Result<Self, ExprError> {
        let whole = match format {
            DecodeFormat::Text => Some(DataType::Utf8),
            DecodeFormat::Raw => Some(DataType::Binary),
            _ => None,
        };
        let payload = match (declared, &whole) {
            (None, Some(whole)) => Arc::new(Schema::new(vec![Field::new("value", whole.clone(), false)])),
            (None, None) => return Err(ExprError::new("this format needs a schema")),
            (Some(declared), None) => Arc::clone(declared),
            (Some(declared), Some(whole)) => match declared.fields().as_ref() {
                [field] if field.data_type() == whole => Arc::clone(declared),
                _ => {
                    let what = format!("the schema of this format is one column of {}", describe_type(whole));
                    return Err(ExprError::new(what));
                }
            },
        };
        let Some(columns) = Columns::new(payload.fields(), "") else {
            return Err(ExprError::new(format!("no message can be read as ({})", super::describe(&payload))));
        };
        let schema = Arc::clone(&payload);
        Ok(Decode { format, payload, columns, meta: Vec::new(), schema, strict: false, open: None })
    }

    /// The same decoder, which rejects messages that have what the schema does not name.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// The same decoder, with columns about the message behind the others.
    ///
    /// # Errors
    /// A name that another column has.
    pub fn with_meta(mut self, meta: Vec<(String, Meta)>) -> Result<Self, ExprError> {
        let mut fields = self.payload.fields().to_vec();
        for (name, meta) in &meta {
            if fields.iter().any(|field| field.name() == name) {
                return Err(ExprError::new(format!("there would be two columns called `{name}`")));
            }
            fields.push(Arc::new(meta.field(name)));
        }
        self.schema = Arc::new(Schema::new(fields));
        self.meta = meta.into_iter().map(|(_, meta)| meta).collect();
        Ok(self)
    }

    /// The columns that it gives.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Reads messages that are a row each, and nothing beside them: for formats whose messages hold no more.
    pub(super) fn each(&mut self, messages: &[Bytes]) -> Result<Each> {
        let (mut of_row, mut refused) = (Vec::with_capacity(messages.len()), Vec::new());
        for (place, message) in messages.iter().enumerate() {
            match self.read_row(of_row.len(), message) {
                Ok(()) => of_row.push(place),
                Err(Refused { what, .. }) => refused.push((place, what)),
            }
        }
        let bug = |error| Fault::bug("cannot put decoded columns together").because(error);
        let columns = self.columns.finish().map_err(bug)?;
        let options = RecordBatchOptions::new().with_row_count(Some(of_row.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.payload), columns, &options).map_err(bug)?;
        Ok(Each { rows, of_row, refused })
    }

    /// Reads on in the open batch, until it is at its end or there are enough rows to send.
    fn read(&mut self, open: &mut Open) {
        while open.ready() < BATCH_ROWS {
            let Some(message) = open.messages.get(open.message).cloned() else { return };
            match self.format {
                DecodeFormat::Ndjson => {
                    if self.read_lines(open, &message) {
                        open.next_message();
                    }
                }
                DecodeFormat::ArrowIpc => {
                    match ipc::batches(&message, &self.payload, self.strict) {
                        Ok(batches) => {
                            let rows = batches.iter().map(RecordBatch::num_rows).sum::<usize>();
                            open.of_row.extend(std::iter::repeat_n(open.message, rows));
                            open.batches.extend(batches);
                        }
                        Err(refused) => open.reject(message, 0, refused),
                    }
                    open.next_message();
                }
                _ => {
                    match self.read_row(open.of_row.len(), &message) {
                        Ok(()) => open.of_row.push(open.message),
                        Err(refused) => open.reject(message, 0, refused),
                    }
                    open.next_message();
                }
            }
        }
    }

    fn read_row(&mut self, row: usize, bytes: &[u8]) -> Result<(), Refused> {
        let columns = &mut self.columns;
        let refused = |what| Refused { what, at: 0 };
        match self.format {
            DecodeFormat::Json | DecodeFormat::Ndjson => json(columns, row, self.strict, bytes),
            DecodeFormat::Msgpack => msgpack(columns, row, self.strict, bytes),
            DecodeFormat::Text => {
                let text = std::str::from_utf8(bytes).map_err(|error| Refused {
                    what: "the text is not valid UTF-8".to_owned(),
                    at: error.valid_up_to(),
                })?;
                let put = columns.begin(0, row).map_or(Ok(()), |column| match column.shape() {
                    Shape::Json => column.put_json(text),
                    _ => column.put_text(text),
                });
                put.map_err(refused).inspect_err(|_| columns.truncate(row))
            }
            DecodeFormat::Raw | DecodeFormat::ArrowIpc => {
                let put = columns.begin(0, row).map_or(Ok(()), |column| column.put_bytes(bytes));
                put.map_err(refused).inspect_err(|_| columns.truncate(row))
            }
        }
    }

    /// Reads lines of a message from where it stands; whether it is at its end.
    fn read_lines(&mut self, open: &mut Open, message: &Bytes) -> bool {
        if message.iter().all(u8::is_ascii_whitespace) {
            open.reject(message.clone(), 0, Refused { what: "the message is empty".to_owned(), at: 0 });
            return true;
        }
        while let Some(rest) = message.get(open.byte..).filter(|rest| !rest.is_empty()) {
            if open.ready() >= BATCH_ROWS {
                return false;
            }
            let len = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            let line = rest.get(..len).unwrap_or_default();
            if !line.iter().all(u8::is_ascii_whitespace) {
                match self.read_row(open.of_row.len(), line) {
                    Ok(()) => open.of_row.push(open.message),
                    Err(refused) => open.reject(message.slice(open.byte..open.byte + len), open.byte, refused),
                }
            }
            open.byte += len + 1;
        }
        true
    }

    /// Makes a batch of the rows that are ready.
    fn finish(&mut self, open: &mut Open) -> Result<Batch<RecordBatch>> {
        let bug = |error| Fault::bug("cannot put decoded columns together").because(error);
        let of_row = std::mem::take(&mut open.of_row);
        let mut columns = if self.format == DecodeFormat::ArrowIpc {
            let batches = std::mem::take(&mut open.batches);
            concat_batches(&self.payload, &batches).map_err(bug)?.columns().to_vec()
        } else {
            self.columns.finish().map_err(bug)?
        };
        columns.extend(self.meta.iter().map(|meta| meta.column(open.origins.as_ref(), &of_row)));
        let options = RecordBatchOptions::new().with_row_count(Some(of_row.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options).map_err(bug)?;
        let in_one = open.sent == 0 && open.message == open.messages.len();
        let one_each = in_one && of_row.len() == open.messages.len() && of_row.iter().enumerate().all(|(i, m)| i == *m);
        let weight =
            if in_one { open.weight } else { open.weight / open.messages.len().max(1) * (open.message - open.sent) };
        open.sent = open.message;
        if one_each {
            let times = std::mem::take(&mut open.times);
            return Batch::from_parts(Parts { times, rows, origins: open.origins.take(), weight });
        }
        let times = open.times.select(of_row.iter().copied());
        let origins = open.origins.as_ref().map(|origins| origins.select(of_row));
        Batch::from_parts(Parts { times, rows, origins, weight })
    }
}

impl Open {
    fn ready(&self) -> usize {
        self.of_row.len() + self.rejected.len()
    }

    fn next_message(&mut self) {
        self.message += 1;
        self.byte = 0;
    }

    fn reject(&mut self, row: Bytes, start: usize, refused: Refused) {
        let at = u64::try_from(start + refused.at).unwrap_or(u64::MAX);
        let cause = Cause::new(Code::Decode, refused.what).at_byte(at);
        self.rejected.push((self.message, Rejected { row, cause }));
    }

    fn rejected(&mut self) -> Result<Batch<Vec<Rejected<Bytes>>>> {
        let (of_row, rows): (Vec<usize>, Vec<_>) = std::mem::take(&mut self.rejected).into_iter().unzip();
        let times = self.times.select(of_row.iter().copied());
        let weight = rows.iter().map(|rejected| rejected.row.len()).sum();
        let origins = self.origins.as_ref().map(|origins| origins.select(of_row));
        Batch::from_parts(Parts { times, rows, origins, weight })
    }
}

impl Operator for Decode {
    type In = Vec<Bytes>;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<Vec<Bytes>>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let Parts { times, rows: messages, origins, weight } = batch.into_parts();
        if let Some(cause) = Cause::of_gap(origins.as_ref()) {
            let rows: Vec<_> = messages.into_iter().map(|row| Rejected { row, cause: cause.clone() }).collect();
            out.send_port(1, Batch::from_parts(Parts { times, rows, origins, weight })?);
            return Ok(Turn::Done);
        }
        self.open = Some(Open {
            times,
            messages,
            origins,
            weight,
            message: 0,
            byte: 0,
            of_row: Vec::new(),
            sent: 0,
            batches: Vec::new(),
            rejected: Vec::new(),
        });
        self.on_more(out)
    }

    fn on_more(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let Some(mut open) = self.open.take() else { return Ok(Turn::Done) };
        loop {
            self.read(&mut open);
            out.send_port(1, open.rejected()?);
            let rest = open.message < open.messages.len();
            if !open.of_row.is_empty() {
                out.send(self.finish(&mut open)?);
            }
            if !rest {
                return Ok(Turn::Done);
            }
            if !out.has_room() {
                self.open = Some(open);
                return Ok(Turn::Again);
            }
        }
    }

    fn sides(&self) -> Vec<PortType> {
        vec![Side::<Rejected<Bytes>>::rejected(1).port_type()]
    }
}

impl fmt::Debug for Decode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decode({:?} to {})", self.format, super::describe(&self.schema))
    }
}
