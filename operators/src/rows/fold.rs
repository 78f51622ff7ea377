//! [`Fold`]: a value a key, changed by every row of the key.

use std::fmt;
use std::sync::Arc;

use crate::{Batch, Keyed, Operator, Outbox, Parts, Result, StateKey, StateValue, StateVisitor, Turn};

/// Keeps a value for each key; every row changes that of its key, and the key with its new value goes on.
///
/// The state is in memory unless the pipeline has a budget for it. It goes where its keys go when the number of subtasks
/// changes.
pub struct Fold<T, K, S, KF, F> {
    key: Arc<KF>,
    first: S,
    change: Arc<F>,
    values: Keyed<K, S>,
    rows: std::marker::PhantomData<fn(T)>,
}

impl<T, K: StateKey, S, KF, F> Fold<T, K, S, KF, F>
where
    KF: Fn(&T) -> K,
    F: Fn(&mut S, T),
{
    /// The operator that starts each key at `first` and lets `change` take in each row.
    pub fn new(key: Arc<KF>, first: S, change: Arc<F>) -> Self {
        Fold { key, first, change, values: Keyed::default(), rows: std::marker::PhantomData }
    }
}

impl<T, K, S, KF, F> Operator for Fold<T, K, S, KF, F>
where
    T: Send + 'static,
    K: StateKey,
    S: StateValue,
    KF: Fn(&T) -> K + Send + Sync + 'static,
    F: Fn(&mut S, T) + Send + Sync + 'static,
{
    type In = Vec<T>;
    type Out = Vec<(K, S)>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Self::Out>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let Fold { key, first, change, values, .. } = self;
        let rows = rows.into_iter().map(|row| {
            let key = key(&row);
            let value = values.entry(key.clone()).or_insert_with(|| first.clone());
            change(value, row);
            (key, value.clone())
        });
        let rows = rows.collect();
        out.send(Batch::from_parts(Parts { times, rows, origins, weight })?);
        Ok(Turn::Done)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        visit.keyed("values", &mut self.values)
    }
}

impl<T, K, S, KF, F> fmt::Debug for Fold<T, K, S, KF, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fold({:?})", self.values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Bench, cuts_do_not_matter, timed};

    fn sums() -> impl Operator<In = Vec<i64>, Out = Vec<(i64, i64)>> {
        Fold::new(Arc::new(|n: &i64| n % 2), 0, Arc::new(|sum: &mut i64, n: i64| *sum += n))
    }

    #[test]
    fn each_key_has_a_value_of_its_own() {
        let given = cuts_do_not_matter(sums, &timed(0..5));
        assert_eq!(given, [(0, 0), (1, 1), (0, 2), (1, 4), (0, 6)]);
    }

    #[test]
    fn values_survive_a_restart() {
        let mut bench = Bench::new(sums());
        bench.rows([1, 2]);
        let saved = bench.save();
        let mut bench = Bench::restored(sums(), &saved);
        bench.rows([3]);
        assert_eq!(bench.take(), [(1, 4)]);
    }
}
