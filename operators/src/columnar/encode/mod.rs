//! [`Encode`]: from rows to messages, with the subject and headers that they go to.

mod address;
mod encoding;

use std::fmt;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;

use self::address::Address;
pub use self::encoding::{EncodeError, EncodeFormat, EncodeTimes, Encoding};
use super::cells::Rows;
use super::rows::{rejected_port, rejected_rows};
use crate::rows::{BREAKS_LINE, breaks_line};
use crate::{Batch, Cause, Code, Fault, Headers, Operator, Outbox, Parts, PortType, Record, Result, SizeLimit, Turn};

/// Writes rows into messages, each with the time and the origin of its row; or, with the formats `ndjson` and `arrow`, all
/// rows of a batch into one, with the latest of their times.
///
/// ```text
/// rows (id, n)                         a, 1              b.c, 2         null, 3   d, null
/// given (to out.{id}, header: {n})     out.a, header 1
/// rejected                                               b.c: a dot     null      null
/// ```
///
/// Nothing is kept. One message for many is written as two, of half the rows each, while it is too large.
///
/// # Errors
/// Rows go to the port [`REJECTED`](super::REJECTED), number 1, as JSON text: with [`Code::Address`] if the subject or a header
/// would not be legal, with [`Code::Oversize`] if the message has more bytes than are allowed, headers included, and with
/// [`Code::Operator`] if it cannot be a line where it has to be one.
pub struct Encode {
    format: EncodeFormat,
    times: EncodeTimes,
    lines: bool,
    // The column that is the message, for text and raw bytes.
    column: usize,
    address: Address,
    max_size: usize,
    limit: SizeLimit,
    // The lower of both, for a batch.
    most: usize,
    schema: SchemaRef,
}

impl Encode {
    /// An encoder of rows with these columns.
    ///
    /// # Errors
    /// Everything that is wrong: columns that there are not, reserved or illegal headers, a format that does not go
    /// with the columns, with a subject that differs from row to row, or with lines.
    pub fn new(schema: &SchemaRef, encoding: Encoding) -> Result<Self, Vec<EncodeError>> {
        let Encoding { format, times, subject, headers, max_size, limit, lines } = encoding;
        let wrong = |setting: &str, what: String, help: Option<&str>| {
            let (setting, help) = (setting.to_owned(), help.map(str::to_owned));
            vec![EncodeError { setting, within: None, what, help }]
        };
        let address = Address::new(subject, headers, schema);
        if lines && matches!(format, EncodeFormat::ArrowIpc | EncodeFormat::Msgpack) {
            let what = format!("each message becomes a line here, which `{}` cannot be", format.word());
            let error = wrong("format", what, Some("use json or ndjson, or text for one column"));
            return Err(error.into_iter().chain(address.err().into_iter().flatten()).collect());
        }
        let address = address?;
        if format.is_of_many() && !address.is_constant() {
            let what = "many rows share one message, so no column can be in its subject or headers".to_owned();
            return Err(wrong("format", what, Some("use json or msgpack, or one subject for all")));
        }
        if format == EncodeFormat::ArrowIpc && times != EncodeTimes::Usual {
            let what = "Arrow has a type for times, which are not written as numbers".to_owned();
            return Err(wrong("times", what, Some("take it out, or use json or msgpack")));
        }
        let column = match format {
            EncodeFormat::Text => whole_message(schema, &address, &DataType::Utf8),
            EncodeFormat::Raw => whole_message(schema, &address, &DataType::Binary),
            _ => Ok(0),
        };
        let help = "keep one column with `select`, besides those that subject and headers name";
        let column = column.map_err(|what| wrong("format", what, Some(help)))?;
        let (schema, most) = (SchemaRef::clone(schema), max_size);
        Ok(Encode { format, times, lines, column, address, max_size, limit, most, schema })
    }

    /// The columns that it takes.
    pub fn input(&self) -> &SchemaRef {
        &self.schema
    }

    fn write_payload(&self, rows: &Rows<'_>, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
        match self.format {
            EncodeFormat::Json if self.lines => write_line(rows, row, out).map_err(|error| error.to_string()),
            EncodeFormat::Json => rows.write_json(row, out).map_err(|error| error.to_string()),
            EncodeFormat::Msgpack => rmp_serde::encode::write(out, &rows.at(row)).map_err(|error| error.to_string()),
            EncodeFormat::Text | EncodeFormat::Raw | EncodeFormat::Ndjson | EncodeFormat::ArrowIpc => {
                let message = rows.column(self.column).and_then(|cells| cells.bytes(row)).unwrap_or_default();
                if self.lines && breaks_line(message) {
                    return Err(BREAKS_LINE.to_owned());
                }
                out.extend_from_slice(message);
                Ok(())
            }
        }
    }

    /// One message a row: payloads share one allocation, and so do subjects.
    fn write_rows(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, Vec<Record>>) -> Result<Turn> {
        let Parts { times, rows: columns, origins, .. } = batch.into_parts();
        let rows = Rows::with(&columns, self.times);
        let (mut payloads, mut subjects) = (Vec::new(), String::new());
        let mut written: Vec<(usize, usize, usize, Headers)> = Vec::with_capacity(times.len());
        let mut rejected = Vec::new();
        let mut weight = 0;
        for row in 0..times.len() {
            let (payload, subject) = (payloads.len(), subjects.len());
            match self.write_row(&rows, row, &mut payloads, &mut subjects) {
                Ok((headers, bytes)) => {
                    weight += bytes;
                    written.push((row, payloads.len(), subjects.len(), headers));
                }
                Err(cause) => {
                    payloads.truncate(payload);
                    subjects.truncate(subject);
                    rejected.push((row, cause));
                }
            }
        }
        let refused = rejected_rows(&columns, &times, origins.as_ref(), rejected)?;
        let (payloads, subjects) = (Bytes::from(payloads), Bytes::from(subjects));
        let (mut payload, mut subject) = (0, 0);
        let mut kept = Vec::with_capacity(written.len());
        let records = written.into_iter().map(|(row, payload_end, subject_end, headers)| {
            kept.push(row);
            let record = Record {
                subject: self.address.same().cloned().unwrap_or_else(|| subjects.slice(subject..subject_end)),
                headers,
                payload: payloads.slice(payload..payload_end),
            };
            (payload, subject) = (payload_end, subject_end);
            record
        });
        let records: Vec<_> = records.collect();
        let (times, origins) = if kept.len() == times.len() {
            (times, origins)
        } else {
            let times = times.select(kept.iter().copied());
            (times, origins.map(|origins| origins.select(kept)))
        };
        out.send_port(1, refused);
        out.send(Batch::from_parts(Parts { times, rows: records, origins, weight })?);
        Ok(Turn::Done)
    }

    /// The headers of a row, and how many bytes it has in all.
    fn write_row(
        &mut self,
        rows: &Rows<'_>,
        row: usize,
        payloads: &mut Vec<u8>,
        subjects: &mut String,
    ) -> Result<(Headers, usize), Cause> {
        let start = payloads.len();
        self.address.write_subject(rows, row, subjects)?;
        let headers = self.address.headers(rows, row)?;
        self.write_payload(rows, row, payloads).map_err(Cause::operator)?;
        let bytes = headers.wire_len() + payloads.len() - start;
        match self.oversize(bytes) {
            Some(cause) => Err(cause),
            None => Ok((headers, bytes)),
        }
    }

    fn oversize(&self, bytes: usize) -> Option<Cause> {
        let words = || format!("the message has {bytes} bytes and the limit is {}", self.most);
        (bytes > self.most).then(|| Cause::new(Code::Oversize, words()))
    }

    /// One message for all rows; halves of them while that is too large.
    fn write_stream(&self, batch: &Batch<RecordBatch>, out: &mut Outbox<'_, Vec<Record>>) -> Result<Turn> {
        let headers = self.address.first();
        let mut open = vec![(0, batch.len())];
        let (mut times, mut records, mut rejected, mut weight) = (Vec::new(), Vec::new(), Vec::new(), 0);
        while let Some((from, len)) = open.pop() {
            let rows = batch.rows().slice(from, len);
            let payload = if self.format == EncodeFormat::Ndjson { lines(&rows, self.times)? } else { ipc(&rows)? };
            let bytes = payload.len() + headers.wire_len();
            match self.oversize(bytes) {
                Some(cause) if len <= 1 => rejected.push((from, cause)),
                // In reverse, as the last is taken first.
                Some(_) => open.extend([(from + len / 2, len - len / 2), (from, len / 2)]),
                None => {
                    weight += bytes;
                    times.extend(batch.times().get(from..from + len).and_then(|times| times.iter().max().copied()));
                    let subject = self.address.same().cloned().unwrap_or_default();
                    records.push(Record { subject, headers: headers.clone(), payload: payload.into() });
                }
            }
        }
        out.send_port(1, rejected_rows(batch.rows(), batch.times(), batch.origins(), rejected)?);
        out.send(Batch::from_parts(Parts { times: times.into(), rows: records, origins: None, weight })?);
        Ok(Turn::Done)
    }
}

/// The column that is the whole message.
fn whole_message(schema: &Schema, address: &Address, data_type: &DataType) -> Result<usize, String> {
    let named: Vec<usize> = address.columns().collect();
    let fields = || schema.fields().iter().enumerate();
    let mut left: Vec<_> = fields().filter(|(place, _)| !named.contains(place)).collect();
    if left.is_empty() {
        left = fields().collect();
    }
    match left.as_slice() {
        [(place, field)] if field.data_type() == data_type => Ok(*place),
        _ => {
            let wanted = super::schema::describe_type(data_type);
            Err(format!("this format takes one column of {wanted}, and the rows are ({})", super::describe(schema)))
        }
    }
}

/// Appends a row as JSON without line breaks: a value that is JSON text may hold some, between its parts.
fn write_line(rows: &Rows<'_>, row: usize, out: &mut Vec<u8>) -> serde_json::Result<()> {
    let start = out.len();
    rows.write_json(row, out)?;
    for byte in out.iter_mut().skip(start).filter(|byte| matches!(byte, b'\n' | b'\r')) {
        *byte = b' ';
    }
    Ok(())
}

fn lines(rows: &RecordBatch, times: EncodeTimes) -> Result<Vec<u8>> {
    let (cells, mut lines) = (Rows::with(rows, times), Vec::new());
    for row in 0..rows.num_rows() {
        let written = write_line(&cells, row, &mut lines);
        written.map_err(|error| Fault::operator("cannot write a row as JSON").because(error))?;
        lines.push(b'\n');
    }
    Ok(lines)
}

fn ipc(rows: &RecordBatch) -> Result<Vec<u8>> {
    let written = || {
        let mut writer = StreamWriter::try_new(Vec::new(), rows.schema_ref())?;
        writer.write(rows)?;
        writer.into_inner()
    };
    written().map_err(|error| Fault::operator("cannot write an Arrow stream").because(error))
}

impl Operator for Encode {
    type In = RecordBatch;
    type Out = Vec<Record>;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, Vec<Record>>) -> Result<Turn> {
        self.most = self.max_size.min(self.limit.get());
        if self.format.is_of_many() { self.write_stream(&batch, out) } else { self.write_rows(batch, out) }
    }

    fn sides(&self) -> Vec<PortType> {
        vec![rejected_port(1, true)]
    }
}

impl fmt::Debug for Encode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encode({:?} of {})", self.format, super::describe(&self.schema))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::columnar::schema;
    use crate::columnar::steps::{Step, steps_do_not_matter};
    use crate::columnar::tests::{at_port, rejected, rows, run};
    use crate::origin::tests::numbered;
    use crate::testkit::Bench;
    use crate::{Rejected, Template};

    const COLUMNS: [(&str, &str); 4] = [("id", "utf8"), ("n", "int64"), ("raw", "json"), ("data", "binary")];

    fn encoding(format: EncodeFormat, subject: &str, headers: &[(&str, &str)]) -> Encoding {
        let header = |(name, value): &(&str, &str)| ((*name).to_owned(), Template::header(value).unwrap());
        let subject = Some(Template::subject(subject).unwrap());
        Encoding {
            format,
            times: EncodeTimes::Usual,
            subject,
            headers: headers.iter().map(header).collect(),
            max_size: 1_000,
            limit: SizeLimit::default(),
            lines: false,
        }
    }

    fn input() -> Batch<RecordBatch> {
        let lines = [r#"{"id":"a","n":1}"#, r#"{"id":"b.c","n":2}"#, r#"{"n":3}"#, r#"{"id":"d"}"#];
        rows(&COLUMNS, &lines).with_origins(numbered(4)).unwrap()
    }

    fn records(encode: &mut Encode, batch: Batch<RecordBatch>) -> (Vec<Record>, Vec<(String, String)>) {
        let mut taken = run(encode, [batch]);
        let records = at_port::<Vec<Record>>(&mut taken, 0).into_iter().flat_map(|batch| batch.into_parts().rows);
        let records = records.collect();
        (records, rejected(&mut taken, 1))
    }

    #[test]
    fn each_row_becomes_a_message_with_its_own_address() {
        let encoding = encoding(EncodeFormat::Json, "out.{id}", &[("kind", "row"), ("n", "no {n}")]);
        let mut bench = Bench::new(Encode::new(&schema(COLUMNS).unwrap(), encoding).unwrap());
        bench.batch(input());
        let sent = bench.take_batches().remove(0);
        let record = &sent.rows()[0];
        assert_eq!(
            (record.subject(), record.headers.get("kind"), record.headers.get("n")),
            ("out.a", Some("row"), Some("no 1"))
        );
        assert_eq!(record.payload, r#"{"id":"a","n":1,"raw":null,"data":null}"#);
        assert_eq!(sent.weight(), record.headers.wire_len() + record.payload.len());
        assert_eq!((sent.len(), sent.origins().unwrap().get(0).unwrap().sequence), (1, 0));
        let refused = bench.take_side_batches::<Rejected<Bytes>>(1).remove(0);
        assert!(refused.rows().iter().all(|row| row.cause.code == Code::Address));
        assert_eq!(
            (0..3).map(|row| refused.origins().unwrap().get(row).unwrap().sequence).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        for (row, words) in refused.rows().iter().zip([
            "holds a dot",
            "`id` cannot be part of the subject `out.{id}`: it is null",
            "header `no {n}`: it is null",
        ]) {
            assert!(row.cause.message.contains(words), "{}", row.cause.message);
        }
    }

    #[test]
    fn constant_subjects_are_shared() {
        let mut encode =
            Encode::new(&schema(COLUMNS).unwrap(), encoding(EncodeFormat::Json, "out", &[("a", "b")])).unwrap();
        let (records, refused) = records(&mut encode, input());
        assert!(refused.is_empty());
        assert!(records.iter().all(|record| record.subject.as_ptr() == records[0].subject.as_ptr()));
        assert_eq!(records.iter().map(|record| record.headers.get("a")).collect::<Vec<_>>(), [Some("b"); 4]);
    }

    #[test]
    fn what_is_too_large_is_rejected_with_headers_counted() {
        for (max_size, fits) in [(73, true), (72, false)] {
            let encoding = Encoding { max_size, ..encoding(EncodeFormat::Json, "out", &[("name", "value of it")]) };
            // NATS/1.0\r\n + name: value of it\r\n + \r\n = 10 + 19 + 2 bytes, and 42 of payload.
            let mut encode = Encode::new(&schema([("text", "utf8")]).unwrap(), encoding).unwrap();
            let line = format!(r#"{{"text":"{}"}}"#, "x".repeat(31));
            let (records, refused) = records(&mut encode, rows(&[("text", "utf8")], &[&line]));
            assert_eq!((records.len(), refused.len()), if fits { (1, 0) } else { (0, 1) });
            assert!(fits || refused[0] == (line, "the message has 73 bytes and the limit is 72".to_owned()));
        }
    }

    #[test]
    fn one_column_can_be_the_message() {
        let columns = [("key", "utf8"), ("body", "utf8")];
        let mut encode =
            Encode::new(&schema(columns).unwrap(), encoding(EncodeFormat::Text, "out.{key}", &[])).unwrap();
        let (sent, _) = records(&mut encode, rows(&columns, &[r#"{"key":"k","body":"é\n"}"#, r#"{"key":"l"}"#]));
        assert_eq!((&sent[0].payload[..], &sent[1].payload[..]), ("é\n".as_bytes(), &b""[..]));
        assert!(Encode::new(&schema(columns).unwrap(), encoding(EncodeFormat::Text, "out", &[])).is_err());
        assert!(Encode::new(&schema(columns).unwrap(), encoding(EncodeFormat::Raw, "out.{key}", &[])).is_err());
    }

    #[test]
    fn message_pack_says_the_same_as_json() {
        let mut packed = Encode::new(&schema(COLUMNS).unwrap(), encoding(EncodeFormat::Msgpack, "out", &[])).unwrap();
        let (sent, _) = records(&mut packed, input());
        let value: Value = rmp_serde::from_slice(&sent[1].payload).unwrap();
        assert_eq!(value, json!({"id": "b.c", "n": 2, "raw": null, "data": null}));
    }

    #[test]
    fn a_stream_is_cut_until_its_parts_fit() {
        let lines: Vec<String> =
            (0..100).map(|n| format!(r#"{{"t":"{}"}}"#, "x".repeat(if n == 50 { 5_000 } else { 10 }))).collect();
        let batch = rows(&[("t", "utf8")], &lines.iter().map(String::as_str).collect::<Vec<_>>());
        let mut encode = Encode::new(&batch.rows().schema(), encoding(EncodeFormat::ArrowIpc, "out", &[])).unwrap();
        let (sent, refused) = records(&mut encode, batch);
        assert!(sent.len() > 1 && sent.iter().all(|record| record.payload.len() <= 1_000));
        let read = sent
            .iter()
            .flat_map(|record| arrow::ipc::reader::StreamReader::try_new(&record.payload[..], None).unwrap());
        assert_eq!(read.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 99);
        assert!(refused.len() == 1 && refused[0].0.len() > 5_000, "{}", refused.len());
    }

    #[test]
    fn lines_share_a_message() {
        let batch = rows(&[("n", "int64")], &[r#"{"n":1}"#, r#"{"n":2}"#]);
        let mut encode = Encode::new(&batch.rows().schema(), encoding(EncodeFormat::Ndjson, "out", &[])).unwrap();
        let (sent, refused) = records(&mut encode, batch);
        assert_eq!(sent.iter().map(|record| &record.payload[..]).collect::<Vec<_>>(), [b"{\"n\":1}\n{\"n\":2}\n"]);
        assert!(refused.is_empty());
    }

    #[test]
    fn what_becomes_a_line_holds_no_line_breaks() {
        let encode = |columns: &[(&'static str, &'static str)], format| {
            let encoding = Encoding { lines: true, ..encoding(format, "out", &[]) };
            Encode::new(&schema(columns.iter().copied()).unwrap(), encoding)
        };
        for (columns, format) in [([("t", "utf8")], EncodeFormat::Text), ([("t", "binary")], EncodeFormat::Raw)] {
            let lines = match format {
                EncodeFormat::Text => [r#"{"t":"a"}"#, r#"{"t":"a\nb"}"#, r#"{"t":"a\r"}"#],
                _ => [r#"{"t":"61"}"#, r#"{"t":"610a62"}"#, r#"{"t":"610d"}"#],
            };
            let (sent, refused) = records(&mut encode(&columns, format).unwrap(), rows(&columns, &lines));
            assert_eq!(sent.iter().map(|record| &record.payload[..]).collect::<Vec<_>>(), [b"a"]);
            assert!(refused.len() == 2 && refused[0].1.contains("line break"), "{refused:?}");
        }
        let columns = [("j", "json")];
        for format in [EncodeFormat::Json, EncodeFormat::Ndjson] {
            let batch = rows(&columns, &[r#"{"j":"{\"a\":\r\n[1,\n2]}"}"#]);
            let (sent, _) = records(&mut encode(&columns, format).unwrap(), batch);
            let line = String::from_utf8(sent[0].payload.to_vec()).unwrap();
            assert_eq!(line.lines().count(), 1, "{line:?}");
            assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), json!({"j": {"a": [1, 2]}}));
        }
        for format in [EncodeFormat::Msgpack, EncodeFormat::ArrowIpc] {
            let wrong = encode(&columns, format).unwrap_err();
            assert!(wrong[0].to_string().contains("use json or ndjson"), "{}", wrong[0]);
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        let schema = schema([("id", "utf8"), ("list", "list<utf8>")]).unwrap();
        for (format, subject, header, setting, words) in [
            (EncodeFormat::Json, "out.{idd}", ("a", "b"), "subject", "there is no column `idd` (did you mean `id`?)"),
            (EncodeFormat::Json, "out.{list}", ("a", "b"), "subject", "`list` is list<utf8>"),
            (EncodeFormat::Json, "out", ("nats-Msg-Id", "b"), "headers.nats-Msg-Id", "`Nats-`"),
            (EncodeFormat::Json, "out", ("a:b", "b"), "headers.a:b", "holds a colon"),
            (EncodeFormat::Json, "out", ("a", "b\r\nc: d"), "headers.a", "CR, LF or NUL"),
            (EncodeFormat::ArrowIpc, "out.{id}", ("a", "b"), "format", "no column can be in its subject"),
            (EncodeFormat::ArrowIpc, "out", ("a", "{id}"), "format", "no column can be in its subject"),
            (EncodeFormat::Ndjson, "out.{id}", ("a", "b"), "format", "no column can be in its subject"),
        ] {
            let wrong = Encode::new(&schema, encoding(format, subject, &[header])).unwrap_err();
            assert_eq!(wrong[0].setting, setting);
            assert!(wrong[0].to_string().contains(words), "{}", wrong[0]);
        }
        let wrong = Encode::new(&schema, encoding(EncodeFormat::Json, "out.{idd}", &[("Nats-X", "")])).unwrap_err();
        assert_eq!((wrong.len(), wrong[0].within.clone()), (2, Some(5..8)));
    }

    proptest! {
        #[test]
        fn it_does_not_matter_where_batches_are_cut_and_where_it_is_restarted(seed: u64) {
            let lines: Vec<String> = (0..40).map(|n| format!(r#"{{"id":"{}","n":{n}}}"#, if n % 5 == 0 { "a b" } else { "x" })).collect();
            let batch = rows(&COLUMNS, &lines.iter().map(String::as_str).collect::<Vec<_>>());
            let encode = || Encode::new(&schema(COLUMNS).unwrap(), encoding(EncodeFormat::Json, "o.{id}", &[("n", "{n}")])).unwrap();
            let batch = batch.with_origins(numbered(40)).unwrap();
            let told = steps_do_not_matter(encode, &[Step::Rows(batch)], seed);
            prop_assert_eq!((told.port(0).len(), told.port(1).len()), (32, 8));
        }
    }
}
