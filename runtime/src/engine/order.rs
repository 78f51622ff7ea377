//! [`Order`]: in a simulation a seed decides which of the tasks that can go on goes on next.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

/// Dice for the tasks of a runtime of one thread, which takes them one behind the other as they are woken: a task whose turn
/// it is may be passed over, and goes behind all others then.
///
/// ```text
/// woken        a b c        a b c
/// passed over    b            b b
/// go on        a c b        a c b      how lazy a task is, it is told when it begins, and now and then again
/// ```
#[derive(Clone, Debug)]
pub(crate) struct Order(Arc<AtomicU64>);

impl Order {
    /// The order that a seed decides.
    pub(crate) fn of(seed: u64) -> Self {
        Order(Arc::new(AtomicU64::new(seed)))
    }

    /// The same future as a task in this order.
    pub(crate) fn task<F: Future>(&self, future: F) -> Task<F> {
        Task { future: Box::pin(future), order: self.clone(), laziness: self.laziness() }
    }

    /// Of eight turns a task lets pass so many: most none or few, some nearly all.
    fn laziness(&self) -> u64 {
        match self.next() % 8 {
            0..3 => 0,
            3 | 4 => 1,
            5 => 2,
            6 => 4,
            _ => 7,
        }
    }

    /// The next number: splitmix64 (Steele, Lea and Flood, 2014).
    fn next(&self) -> u64 {
        let mut number = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ number >> 31
    }
}

/// A task that may be passed over.
pub(crate) struct Task<F> {
    future: Pin<Box<F>>,
    order: Order,
    laziness: u64,
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let number = self.order.next();
        if number % 8 < self.laziness {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if (number >> 32).is_multiple_of(64) {
            self.laziness = self.order.laziness();
        }
        self.future.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use tokio::task::{JoinSet, yield_now};

    use super::*;

    /// In which order three tasks come by, twice each.
    async fn came_by(seed: u64) -> Vec<u32> {
        let (order, came) = (Order::of(seed), Arc::new(Mutex::new(Vec::new())));
        let mut tasks = JoinSet::new();
        for task in 0..3 {
            let came = Arc::clone(&came);
            tasks.spawn(order.task(async move {
                for _ in 0..2 {
                    came.lock().unwrap().push(task);
                    yield_now().await;
                }
            }));
        }
        while tasks.join_next().await.is_some() {}
        Arc::into_inner(came).unwrap().into_inner().unwrap()
    }

    #[tokio::test]
    async fn tasks_come_by_in_many_orders_and_in_the_same_one_for_the_same_seed() {
        let mut orders = BTreeSet::new();
        for seed in 0..200 {
            let order = came_by(seed).await;
            assert_eq!(order, came_by(seed).await);
            orders.insert(order);
        }
        // Of the 90 that there are; left alone, they come by in one.
        assert!(orders.len() > 15, "{}", orders.len());
    }
}
