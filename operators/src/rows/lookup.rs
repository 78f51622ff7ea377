//! [`Lookup`]: each row with what a table has for it now.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Batch, Cause, Code, Operator, Outbox, Parts, PortType, Rejected, Result, Side, Table, Turn};

/// Puts to each row what a [`Table`] has for its key at that moment:
///
/// ```text
/// table    ann = gold            ann = silver
/// rows                 ann  bob                ann
/// given                ann+gold  bob+nothing   ann+silver
/// ```
///
/// Rows keep their times and messages. The table is no state: what is given depends on when it is looked up, so a replay may
/// give something else.
///
/// # Errors
/// A row whose entry cannot be read goes to the side output `rejected`, with the code [`Decode`](Code::Decode).
pub struct Lookup<T, V, K, F> {
    table: Table,
    key: Arc<K>,
    read: Arc<F>,
    rejected: Side<Rejected<T>>,
    types: PhantomData<fn(T) -> V>,
}

impl<T, V, K, F> Lookup<T, V, K, F>
where
    T: Send + 'static,
    K: Fn(&T) -> String,
    F: Fn(&Bytes) -> Result<V, String>,
{
    /// The operator that looks `key` up in `table`, and reads what stands there with `read`.
    pub fn new(table: Table, key: Arc<K>, read: Arc<F>) -> Self {
        Lookup { table, key, read, rejected: Side::rejected(1), types: PhantomData }
    }
}

impl<T, V, K, F> Operator for Lookup<T, V, K, F>
where
    T: Send + 'static,
    V: Send + 'static,
    K: Fn(&T) -> String + Send + Sync + 'static,
    F: Fn(&Bytes) -> Result<V, String> + Send + Sync + 'static,
{
    type In = Vec<T>;
    type Out = Vec<(T, Option<V>)>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let keys: Vec<String> = rows.iter().map(|row| (self.key)(row)).collect();
        let found = self.table.look_up(keys.iter().map(|key| Some(key.as_str())));
        let total = rows.len();
        let (mut given, mut given_times, mut of) = (Vec::with_capacity(total), Vec::with_capacity(total), Vec::new());
        for (at, (((row, time), key), found)) in rows.into_iter().zip(times).zip(keys).zip(found).enumerate() {
            match found.map(|entry| (self.read)(&entry)).transpose() {
                Ok(value) => {
                    given.push((row, value));
                    given_times.push(time);
                    of.push(at);
                }
                Err(why) => {
                    let cause =
                        Cause::new(Code::Decode, format!("what the table has for `{key}` cannot be read: {why}"));
                    out.push_side_from(&self.rejected, time, Rejected { row, cause }, origins.as_ref(), at);
                }
            }
        }
        let weight = crate::batch::scaled_to(weight, given.len(), total);
        let origins = origins.map(|origins| if of.len() == total { origins } else { origins.select(of) });
        out.send(Batch::from_parts(Parts { times: given_times.into(), rows: given, origins, weight })?);
        Ok(Turn::Done)
    }

    fn sides(&self) -> Vec<PortType> {
        vec![self.rejected.port_type()]
    }
}

impl<T, V, K, F> fmt::Debug for Lookup<T, V, K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lookup({:?})", self.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Bench, cuts_do_not_matter, timed, with_origins};

    fn number(entry: &Bytes) -> Result<i64, String> {
        std::str::from_utf8(entry).unwrap().parse().map_err(|error| format!("{error}"))
    }

    type Key = fn(&i64) -> String;
    type Read = fn(&Bytes) -> Result<i64, String>;

    fn lookup(table: &Table) -> Lookup<i64, i64, Key, Read> {
        Lookup::new(table.clone(), Arc::new(ToString::to_string), Arc::new(number))
    }

    #[test]
    fn each_row_is_given_what_the_table_has_at_that_moment() {
        let table = Table::of([("1", "10"), ("2", "20")]);
        assert_eq!(cuts_do_not_matter(|| lookup(&table), &timed(1..4)), [(1, Some(10)), (2, Some(20)), (3, None)]);
        let mut bench = Bench::new(lookup(&table));
        bench.rows([1, 2]);
        table.put("1", "11");
        table.remove("2");
        bench.rows([1, 2]);
        assert_eq!(bench.take(), [(1, Some(10)), (2, Some(20)), (1, Some(11)), (2, None)]);
    }

    #[test]
    fn a_row_whose_entry_cannot_be_read_is_rejected_whole() {
        let table = Table::of([("1", "ten")]);
        let mut bench = Bench::new(lookup(&table));
        bench.batch(with_origins(timed(1..3)));
        assert_eq!(bench.take(), [(2, None)]);
        let rejected = bench.take_side_batches::<Rejected<i64>>(1).remove(0);
        assert_eq!(rejected.rows()[0].row, 1);
        assert!(rejected.rows()[0].cause.to_string().contains("`1`"), "{}", rejected.rows()[0].cause);
        assert_eq!(rejected.origins().unwrap().get(0).unwrap().sequence, 1);
    }
}
