//! [`Encode`]: typed rows become records, with their subject and headers.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use bytes::Bytes;

use super::Format;
use crate::{
    Batch, Cause, Code, Headers, Operator, Outbox, Parts, PortType, Record, Rejected, Result, Side, SizeLimit, Turn,
    check_subject, check_token,
};

/// Rows become [`Record`]s by a [`Format`], ready for a sink, each with the time and the message of its row.
///
/// ```text
/// rows (to owner.{row}, as JSON)   a              x.y                b              (empty)
/// given                            owner.a: "a"                      owner.b: "b"
/// rejected                                        x.y: holds a dot                  (empty)
/// ```
///
/// Nothing is kept.
///
/// # Errors
/// A row goes to the side output `rejected` when no server would take its subject or headers (the code is
/// [`Address`](crate::Code::Address)), when it has more bytes than are allowed, headers included
/// ([`Oversize`](crate::Code::Oversize)), and when it cannot be written, or cannot be a line where it has to be one
/// ([`Operator`](crate::Code::Operator)).
pub struct Encode<T, F> {
    format: F,
    address: Address<T>,
    headers: Option<SetHeaders<T>>,
    keep_headers: bool,
    max_size: usize,
    limit: SizeLimit,
    // The lower of both, for a batch.
    most: usize,
    lines: bool,
    rejected: Side<Rejected<T>>,
}

/// Why a row cannot be a line.
pub(crate) const BREAKS_LINE: &str = "it holds a line break, and each message becomes a line here";

/// Whether a message would be more than a line, or not be read back as it was.
pub(crate) fn breaks_line(message: &[u8]) -> bool {
    message.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
}

/// Puts the tokens of a row's subject.
pub type MakeSubject<T> = Arc<dyn Fn(&T, &mut Tokens<'_>) + Send + Sync>;

/// Sets the headers of a row.
pub type SetHeaders<T> = Arc<dyn Fn(&T, &mut Headers) -> std::result::Result<(), crate::InvalidHeader> + Send + Sync>;

/// The subject of a row.
pub enum Address<T> {
    /// None: for sinks that have no subjects.
    None,
    /// The same for all rows.
    Constant(String),
    /// Made of the row, token by token.
    Of(MakeSubject<T>),
}

/// Takes the tokens of a subject one by one. Each is validated: none can add a token or be a wildcard.
#[derive(Debug)]
pub struct Tokens<'a> {
    text: &'a mut String,
    refused: Option<(&'static str, String)>,
}

impl Tokens<'_> {
    /// Adds a token.
    pub fn token(&mut self, token: impl fmt::Display) -> &mut Self {
        if !self.text.is_empty() {
            self.text.push('.');
        }
        let start = self.text.len();
        // Writing to a string does not fail.
        let _ = write!(self.text, "{token}");
        let token = self.text.get(start..).unwrap_or_default();
        if let (Err(why), None) = (check_token(token), &self.refused) {
            self.refused = Some((why, token.chars().take(64).collect()));
        }
        self
    }
}

impl<T> Clone for Address<T> {
    fn clone(&self) -> Self {
        match self {
            Address::None => Address::None,
            Address::Constant(subject) => Address::Constant(subject.clone()),
            Address::Of(make) => Address::Of(Arc::clone(make)),
        }
    }
}

impl<T> fmt::Debug for Address<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::None => f.write_str("no subject"),
            Address::Constant(subject) => f.write_str(subject),
            Address::Of(_) => f.write_str("a subject of the row"),
        }
    }
}

impl<T> Address<T> {
    /// What is wrong with it, as far as that can be told without a row.
    ///
    /// # Errors
    /// What is wrong with the subject.
    pub fn check(&self) -> Result<(), &'static str> {
        match self {
            Address::Constant(subject) => check_subject(subject),
            _ => Ok(()),
        }
    }
}

impl<T: Send + 'static, F: Format<T>> Encode<T, F> {
    /// The operator that encodes by `format` and addresses by `address`.
    pub fn new(format: F, address: Address<T>) -> Self {
        let rejected = Side::rejected(1);
        let (max_size, limit) = (1 << 20, SizeLimit::default());
        Encode {
            format,
            address,
            headers: None,
            keep_headers: false,
            max_size,
            limit,
            most: max_size,
            lines: false,
            rejected,
        }
    }

    /// The same, but records of more bytes, headers included, are rejected; 1 MiB unless this is called.
    #[must_use]
    pub fn max_size(mut self, bytes: usize) -> Self {
        self.max_size = bytes;
        self
    }

    /// The same, where the sink may set a lower limit.
    #[must_use]
    pub fn limit(mut self, limit: SizeLimit) -> Self {
        self.limit = limit;
        self
    }

    /// The same, where each message becomes a line of a file: one that holds a line break is rejected.
    #[must_use]
    pub fn lines(mut self, lines: bool) -> Self {
        self.lines = lines;
        self
    }

    /// The same, with headers made of the row.
    #[must_use]
    pub fn headers(mut self, set: Option<SetHeaders<T>>) -> Self {
        self.headers = set;
        self
    }

    /// The same, with the headers of the message that the row came from; reserved ones (`Nats-*`) never pass.
    #[must_use]
    pub fn keep_headers(mut self, keep: bool) -> Self {
        self.keep_headers = keep;
        self
    }
}

/// Where the parts of a record lie, until the batch's bytes are frozen.
struct Placed {
    payload: std::ops::Range<usize>,
    subject: std::ops::Range<usize>,
    headers: Headers,
    row: usize,
}

impl<T: Send + 'static, F: Format<T>> Operator for Encode<T, F> {
    type In = Vec<T>;
    type Out = Vec<Record>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<Record>>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        self.most = self.max_size.min(self.limit.get());
        // One piece of memory for the payloads of a batch, and one for its subjects.
        let mut bytes = Vec::with_capacity(weight.max(rows.len() * 32));
        let mut subjects = String::new();
        if let Address::Constant(subject) = &self.address {
            subjects.push_str(subject);
        }
        let mut placed = Vec::with_capacity(rows.len());
        for (at, (row, time)) in rows.into_iter().zip(times.iter().copied()).enumerate() {
            let origin = origins.as_ref().and_then(|origins| origins.get(at));
            let inherited = match origin {
                Some(origin) if self.keep_headers => origin.headers.filtered(|name| !Headers::is_reserved(name)),
                _ => Headers::NONE,
            };
            match self.place(&row, inherited, &mut bytes, &mut subjects) {
                Ok((payload, subject, headers)) => placed.push(Placed { payload, subject, headers, row: at }),
                Err(cause) => {
                    out.push_side_from(&self.rejected, time, Rejected { row, cause }, origins.as_ref(), at);
                }
            }
        }
        let weight = bytes.len();
        let (bytes, subjects) = (Bytes::from(bytes), Bytes::from(subjects));
        let given_times = match placed.len() == times.len() {
            true => times,
            false => times.select(placed.iter().map(|placed| placed.row)),
        };
        let origins = origins.map(|all| match placed.len() == all.len() {
            true => all,
            false => all.select(placed.iter().map(|placed| placed.row)),
        });
        let records = placed.into_iter().map(|placed| Record {
            subject: subjects.slice(placed.subject),
            headers: placed.headers,
            payload: bytes.slice(placed.payload),
        });
        let rows = records.collect();
        out.send(Batch::from_parts(Parts { times: given_times, rows, origins, weight })?);
        Ok(Turn::Done)
    }

    fn sides(&self) -> Vec<PortType> {
        vec![self.rejected.port_type()]
    }
}

/// A record's payload and subject as places in the batch's bytes, and its headers.
type Place = (std::ops::Range<usize>, std::ops::Range<usize>, Headers);

impl<T, F: Format<T>> Encode<T, F> {
    fn place(&self, row: &T, headers: Headers, bytes: &mut Vec<u8>, subjects: &mut String) -> Result<Place, Cause> {
        let (payload, subject) = (bytes.len(), subjects.len());
        let result = self.write(row, headers, bytes, subjects);
        if result.is_err() {
            bytes.truncate(payload);
            subjects.truncate(subject);
        }
        result
    }

    fn write(&self, row: &T, mut headers: Headers, bytes: &mut Vec<u8>, subjects: &mut String) -> Result<Place, Cause> {
        let subject = match &self.address {
            Address::None | Address::Constant(_) => 0..subjects.len(),
            Address::Of(make) => {
                let start = subjects.len();
                let mut text = String::new();
                let mut tokens = Tokens { text: &mut text, refused: None };
                make(row, &mut tokens);
                let refused = tokens.refused.take();
                if let Some((why, token)) = refused {
                    let words = format!("a token of its subject {why} ({token:?})");
                    return Err(Cause::new(Code::Address, words));
                }
                if text.is_empty() {
                    return Err(Cause::new(Code::Address, "its subject is empty"));
                }
                subjects.push_str(&text);
                start..subjects.len()
            }
        };
        if let Some(set) = &self.headers {
            set(row, &mut headers).map_err(|error| Cause::new(Code::Address, error.to_string()))?;
        }
        let start = bytes.len();
        self.format.encode(row, bytes)?;
        if self.lines && bytes.get(start..).is_some_and(breaks_line) {
            return Err(Cause::operator(BREAKS_LINE));
        }
        let size = bytes.len() - start + headers.wire_len();
        if size > self.most {
            let words = format!("the message has {size} bytes and the limit is {}", self.most);
            return Err(Cause::new(Code::Oversize, words));
        }
        Ok((start..bytes.len(), subject, headers))
    }
}

impl<T, F: fmt::Debug> fmt::Debug for Encode<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encode({:?} to {:?})", self.format, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Json;
    use crate::testkit::{Bench, cuts_do_not_matter, timed};

    fn to_owner(max: usize) -> Encode<String, Json> {
        let of = Address::Of(Arc::new(|row: &String, to: &mut Tokens<'_>| {
            to.token("owner").token(row);
        }));
        Encode::new(Json, of).max_size(max)
    }

    #[test]
    fn each_row_goes_to_its_subject() {
        // Those that have none are rejected, alike wherever batches are cut.
        let rows = timed(["a", "x.y", "b", ""].map(String::from));
        let given = cuts_do_not_matter(|| to_owner(100), &rows);
        assert_eq!(given.iter().map(Record::subject).collect::<Vec<_>>(), ["owner.a", "owner.b"]);
        assert_eq!(given[1].payload.as_ref(), br#""b""#);
    }

    #[test]
    fn bad_addresses_and_oversize_rows_are_rejected() {
        let mut bench = Bench::new(to_owner(5));
        bench.rows(["x.y", "", "ok", "toolong", ">"].map(String::from));
        assert_eq!(bench.take().len(), 1);
        let codes: Vec<_> = bench.take_side::<Rejected<String>>(1).into_iter().map(|r| r.cause.code).collect();
        assert_eq!(codes, [Code::Address, Code::Address, Code::Oversize, Code::Address]);
    }

    #[test]
    fn a_row_that_would_be_more_than_a_line_is_rejected_where_it_has_to_be_one() {
        let make = |lines| Encode::new(crate::rows::Text, Address::None).lines(lines);
        for (lines, fits) in [(true, 1), (false, 3)] {
            let mut bench = Bench::new(make(lines));
            bench.rows(["a", "a\nb", "a\n"].map(String::from));
            assert_eq!((bench.take().len(), bench.take_side::<Rejected<String>>(1).len()), (fits, 3 - fits));
        }
    }

    #[test]
    fn reserved_headers_do_not_pass_from_input() {
        let mut headers = Headers::NONE;
        for name in ["Nats-Msg-Id", "nats-expected-stream", "traceparent"] {
            headers.push(name, "x").unwrap();
        }
        let origin = crate::Origin { headers, ..crate::Origin::default() };
        let origins = crate::Origins::one_each(Arc::default(), vec![origin]);
        let batch = Batch::at(crate::Timestamp::MIN, vec![1u8]).with_origins(origins).unwrap();
        let mut bench = Bench::new(Encode::new(Json, Address::Constant("s".into())).keep_headers(true));
        bench.batch(batch);
        assert_eq!(bench.take()[0].headers.iter().collect::<Vec<_>>(), [("traceparent", "x")]);
    }
}
