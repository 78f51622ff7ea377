//! [`Route`]: rows part by predicate.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::{Batch, Operator, Outbox, PortType, Result, Side, Turn};

/// A predicate of rows.
pub type Predicate<T> = Arc<dyn Fn(&T) -> bool + Send + Sync>;

/// Each row goes to the first named output whose predicate holds, and to port 0 if none does.
///
/// ```text
/// rows                      0   1   2   3   4   5   6   7
/// `small` (below 3)         0   1   2
/// `even`                                    4       6
/// port 0, all others                    3       5       7
/// ```
///
/// Nothing is kept. Rows of one output stay in order, with their times and messages.
pub struct Route<T> {
    routes: Vec<(Side<T>, Predicate<T>)>,
    to: Vec<u32>,
}

impl<T: Send + 'static> Route<T> {
    /// An operator with an output for each name, at ports 1, 2, … in order.
    pub fn new(routes: impl IntoIterator<Item = (Cow<'static, str>, Predicate<T>)>) -> Self {
        let routes = routes.into_iter().enumerate().map(|(i, (name, holds))| (Side::new(i + 1, name), holds));
        Route { routes: routes.collect(), to: Vec::new() }
    }
}

impl<T: Send + 'static> Operator for Route<T> {
    type In = Vec<T>;
    type Out = Vec<T>;

    fn on_batch(&mut self, batch: Batch<Vec<T>>, out: &mut Outbox<'_, Vec<T>>) -> Result<Turn> {
        self.to.clear();
        let Route { routes, to } = self;
        to.extend(batch.rows().iter().map(|row| {
            let first = routes.iter().position(|(_, holds)| holds(row));
            first.map_or(0, |at| u32::try_from(at + 1).unwrap_or(0))
        }));
        for (port, part) in batch.scatter(to, routes.len() + 1).into_iter().enumerate() {
            match port {
                0 => out.send(part),
                port => out.send_port(port, part),
            }
        }
        Ok(Turn::Done)
    }

    fn sides(&self) -> Vec<PortType> {
        self.routes.iter().map(|(side, _)| side.port_type()).collect()
    }
}

impl<T> fmt::Debug for Route<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|(side, _)| side)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Bench, cuts_do_not_matter, timed};

    fn route() -> Route<i64> {
        Route::new([
            ("small".into(), Arc::new(|n: &i64| *n < 3) as Predicate<i64>),
            ("even".into(), Arc::new(|n: &i64| n % 2 == 0)),
        ])
    }

    #[test]
    fn a_row_goes_to_the_first_route_that_takes_it() {
        assert_eq!(cuts_do_not_matter(route, &timed(0..8)), [3, 5, 7]);
        let mut bench = Bench::new(route());
        bench.rows(0..8);
        assert_eq!((bench.take_side::<i64>(1), bench.take_side::<i64>(2)), (vec![0, 1, 2], vec![4, 6]));
    }
}
