//! [`Decode`]: raw payloads become typed rows.

use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;

use super::Format;
use crate::{Batch, Cause, Operator, Outbox, Parts, PortType, Rejected, Result, Side, Turn};

/// Raw payloads become rows by a [`Format`]: one, or any number, with the time and the message of the payload.
///
/// ```text
/// payloads (JSON)   1   x                  3
/// given             1                      3
/// rejected              x: not the JSON
/// ```
///
/// Nothing is kept.
///
/// # Errors
/// What does not decode goes to the side output `rejected`: the payload as it came, with the code
/// [`Decode`](crate::Code::Decode) and the byte where the trouble is. So does what stands in the place of messages that are
/// gone, with the code [`Gap`](crate::Code::Gap). It is never a fault of the run.
pub struct Decode<T, F> {
    format: F,
    rejected: Side<Rejected<Bytes>>,
    rows: PhantomData<fn() -> T>,
}

impl<T, F: Format<T>> Decode<T, F> {
    /// The operator that decodes by `format`.
    pub fn new(format: F) -> Self {
        Decode { format, rejected: Side::rejected(1), rows: PhantomData }
    }
}

impl<T: Send + 'static, F: Format<T>> Operator for Decode<T, F> {
    type In = Vec<Bytes>;
    type Out = Vec<T>;

    fn on_batch(&mut self, batch: Batch<Vec<Bytes>>, out: &mut Outbox<'_, Vec<T>>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        if let Some(cause) = Cause::of_gap(origins.as_ref()) {
            let rows = rows.into_iter().map(|row| Rejected { row, cause: cause.clone() }).collect();
            out.send_side(&self.rejected, Batch::from_parts(Parts { times, rows, origins, weight })?);
            return Ok(Turn::Done);
        }
        let total = rows.len();
        let (mut given_times, mut given) = (Vec::with_capacity(total), Vec::with_capacity(total));
        let mut of = Vec::with_capacity(total);
        for (at, (message, time)) in rows.into_iter().zip(times).enumerate() {
            self.format.decode(&message, &mut |row| match row {
                Ok(row) => {
                    given.push(row);
                    given_times.push(time);
                    of.push(at);
                }
                Err(cause) => {
                    let rejected = Rejected { row: message.clone(), cause };
                    out.push_side_from(&self.rejected, time, rejected, origins.as_ref(), at);
                }
            });
        }
        let origins = origins.map(|origins| origins.select(of));
        out.send(Batch::from_parts(Parts { times: given_times.into(), rows: given, origins, weight })?);
        Ok(Turn::Done)
    }

    fn sides(&self) -> Vec<PortType> {
        vec![self.rejected.port_type()]
    }
}

impl<T, F: fmt::Debug> fmt::Debug for Decode<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Decode({:?})", self.format)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Code;
    use crate::Origins;
    use crate::rows::{Json, Ndjson};
    use crate::testkit::{Bench, cuts_do_not_matter, timed, with_origins};

    fn messages(texts: &[&'static str]) -> Vec<(crate::Timestamp, Bytes)> {
        timed(texts.iter().map(|text| Bytes::from_static(text.as_bytes())))
    }

    #[test]
    fn good_rows_go_on_and_bad_ones_are_rejected_with_their_origin() {
        let mut bench = Bench::new(Decode::<i64, _>::new(Json));
        bench.batch(with_origins(messages(&["1", "x", "3"])));
        let good = bench.take_batches().remove(0);
        assert_eq!(good.rows(), &[1, 3]);
        assert_eq!(good.origins().unwrap().get(1).unwrap().sequence, 3);
        let bad = bench.take_side_batches::<Rejected<Bytes>>(1).remove(0);
        assert_eq!((bad.rows()[0].row.as_ref(), bad.origins().unwrap().get(0).unwrap().sequence), (&b"x"[..], 2));
    }

    #[test]
    fn what_stands_in_the_place_of_messages_that_are_gone_is_rejected_whatever_it_is() {
        let mut bench = Bench::new(Decode::<i64, _>::new(Json));
        let origin = crate::Origin { sequence: 7, ..crate::Origin::default() };
        let origins = Origins::of_gap(Arc::default(), origin, "7 to 9 are gone");
        bench.batch(messages(&["1"]).into_iter().collect::<Batch<_>>().with_origins(origins).unwrap());
        assert!(bench.take_batches().is_empty());
        let bad = bench.take_side_batches::<Rejected<Bytes>>(1).remove(0);
        assert_eq!((bad.rows()[0].cause.code, bad.rows()[0].cause.message.as_str()), (Code::Gap, "7 to 9 are gone"));
        assert_eq!(bad.origins().unwrap().get(0).unwrap().sequence, 7);
    }

    #[test]
    fn many_rows_may_come_of_one_message() {
        let given = cuts_do_not_matter(|| Decode::<i64, _>::new(Ndjson), &messages(&["1\n2", "", "x\ny", "3\n"]));
        assert_eq!(given, [1, 2, 3]);
    }
}
