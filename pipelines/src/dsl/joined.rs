//! [`Join`]: rows of two streams with the same key, put together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millstream_operators::join::{
    Both, Gathered, Interval, IntervalJoin, Pair, RowVersions, Sided, TemporalJoin, Unbounded, UntilInterval, unbounded,
};
use millstream_operators::window::{KeyOf, SessionWindows, TimeWindows, Until, Windowed, Windows};
use millstream_operators::{Key, Operator, Problem, Rejected, Result, StateKey, StateValue, Timestamp};

use super::pipeline::of_node;
use super::windowed::Late;
use super::{KeyedStream, Stream};
use crate::graph::{InPort, OutPort, Subtask};

/// Rows of two streams that have the same key: the verbs say which of them belong together, and what is given.
///
/// `how` says which times belong together, so that what is kept is bounded:
///
/// | how | rows of the right that belong to a row of the left |
/// |---|---|
/// | `within(before, after)` | those that are no more than so much earlier or later |
/// | `until(\|left\| time)` | those from its own time, or [`earlier`](Until::earlier), until the time that it tells |
/// | `tumbling(d)`, `sliding(d, every)`, `session(gap)` | those of the same window: rows that are together in several sliding windows are joined in each |
/// | `unbounded(ttl)` | all that are not forgotten; for `inner` and `semi`, as it is never known that none will come |
///
/// Times are event times, which both sides must have. For timelines see
/// [`IntervalJoin`] (`within`, `until`), [`unbounded`](millstream_operators::join::unbounded) and [`TemporalJoin`]
/// ([`as_of`](Join::as_of)); in windows the pairs are given when the window closes.
///
/// # Examples
/// Orders with their payments of the hour behind them, those that nobody has paid for, and each with the price of its time:
///
/// ```
/// use std::time::Duration;
/// use millstream_operators::{Timestamp, join::within, watermarks::ascending};
/// # use millstream_pipelines::{dsl::{Pipeline, Stream}, graph::{Node, OutPort, Role}};
/// # fn declared<T: Send + 'static>(pipeline: &Pipeline, name: &str) -> Stream<T> {
/// #     let never = || millstream_operators::Fault::bug("only declared");
/// #     let mut node = Node::new(name, "list", Role::Source(std::sync::Arc::new(move |_| Err(never()))));
/// #     node.outputs = vec![millstream_operators::PortType::of::<Vec<T>>("out")];
/// #     Stream::at(pipeline.clone(), OutPort { node: pipeline.add(node), port: 0 })
/// # }
///
/// # fn timed(pipeline: &Pipeline, name: &str) -> Stream<Row> {
/// #     let (rows, refused) = declared::<Row>(pipeline, name).event_time(&format!("{name}_at"), |row: &Row| row.1, ascending());
/// #     refused.stop(&format!("{name}_refused"));
/// #     rows
/// # }
///
/// /// A number of an order or an article, and a time.
/// type Row = (u64, Timestamp);
///
/// let pipeline = Pipeline::new("orders");
/// # let [orders, payments, prices] = ["orders", "payments", "prices"].map(|name| timed(&pipeline, name));
/// let by_number = |row: &Row| row.0;
/// let hour = within(Duration::ZERO, Duration::from_secs(3_600));
/// let both = || orders.clone().key_by(by_number).join(payments.clone().key_by(by_number));
/// both().inner("paid", hour).discard("paid_out");
/// both().anti("unpaid", hour).discard("unpaid_out");
/// orders.clone().key_by(by_number).join(prices.key_by(by_number)).as_of("priced").discard("priced_out");
/// pipeline.build().unwrap();
/// ```
pub struct Join<K, L, R> {
    left: KeyedStream<K, L>,
    right: KeyedStream<K, R>,
    late: Option<Late<Sided<L, R>>>,
    row_versions: RowVersions<L, R>,
}

/// Which rows of two streams belong together: see [`Join`].
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not say which rows of two streams belong together",
    note = "say it with `within(before, after)`, `until(|left: &Left| time)`, windows such as `tumbling(minute)`, or `unbounded(ttl)`"
)]
pub trait How<L: StateValue, R: StateValue>: Sized {
    /// The pairs, and the rows without a partner that are wanted.
    fn pairs<K: StateKey>(self, join: Join<K, L, R>, wanted: Wanted<'_>) -> Stream<Pair<L, R>>;
}

/// What a join is to give, and the name of its node.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'n> {
    name: &'n str,
    // Rows of the left, and of the right, that have no partner.
    alone: (bool, bool),
    // A row of the left is paired once at most.
    once: bool,
}

/// A bound that comes to an end, so that it is known when a row has no partner.
#[diagnostic::on_unimplemented(
    message = "with `{Self}` it is never known that a row has no partner",
    note = "bound the join by `within(before, after)`, `until(|left: &Left| time)` or windows such as `tumbling(minute)`"
)]
pub trait Bounded<L: StateValue, R: StateValue>: How<L, R> {}

impl<K: StateKey, L: StateValue, R: StateValue> Join<K, L, R> {
    pub(super) fn new(left: KeyedStream<K, L>, right: KeyedStream<K, R>) -> Join<K, L, R>
    where
        K: Key,
    {
        Join { left, right, late: None, row_versions: RowVersions::default() }
    }

    /// What becomes of rows that come too late to be joined; they are counted and dropped unless this says otherwise.
    #[must_use]
    pub fn late(mut self, late: impl FnOnce(Stream<Rejected<Sided<L, R>>>) + 'static) -> Self {
        self.late = Some(Box::new(late));
        self
    }

    /// Of which versions the types of the rows are, where an older program held others: see [`RowVersions`]. Without it state
    /// whose rows have other fields now cannot be read, and the start is refused.
    #[must_use]
    pub fn row_versions(mut self, versions: RowVersions<L, R>) -> Self {
        self.row_versions = versions;
        self
    }

    /// Rows that have partners, with each of them; given when the second of both has come, or the window closes.
    pub fn inner(self, name: &str, how: impl How<L, R>) -> Stream<(L, R)> {
        how.pairs(self, Wanted::new(name, (false, false))).filter_map(&pairs_of(name), Pair::inner).boxed()
    }

    /// All rows of the left, with their partners; or with none, when event time says that none will come.
    pub fn left(self, name: &str, how: impl Bounded<L, R>) -> Stream<(L, Option<R>)> {
        how.pairs(self, Wanted::new(name, (true, false))).filter_map(&pairs_of(name), Pair::left).boxed()
    }

    /// All rows of the right, with their partners or none.
    pub fn right(self, name: &str, how: impl Bounded<L, R>) -> Stream<(Option<L>, R)> {
        how.pairs(self, Wanted::new(name, (false, true))).filter_map(&pairs_of(name), Pair::right).boxed()
    }

    /// All rows of both sides, with their partners or none.
    pub fn full(self, name: &str, how: impl Bounded<L, R>) -> Stream<(Option<L>, Option<R>)> {
        how.pairs(self, Wanted::new(name, (true, true))).map(&pairs_of(name), Pair::full).boxed()
    }

    /// The rows of the left that have a partner, each once; in sliding windows, once in each window in which it has one.
    pub fn semi(self, name: &str, how: impl How<L, R>) -> Stream<L> {
        let pairs = how.pairs(self, Wanted { once: true, ..Wanted::new(name, (false, false)) });
        pairs.filter_map(&pairs_of(name), |pair| pair.inner().map(|(left, _)| left)).boxed()
    }

    /// The rows of the left that have no partner; in sliding windows, once for each window in which it has none, whatever it
    /// has in others.
    pub fn anti(self, name: &str, how: impl Bounded<L, R>) -> Stream<L> {
        let alone = |pair| match pair {
            Pair::Left(left) => Some(left),
            Pair::Both(..) | Pair::Right(_) => None,
        };
        how.pairs(self, Wanted::new(name, (true, false))).filter_map(&pairs_of(name), alone).boxed()
    }

    /// Each row of the left with the newest row of the right that is not later than it, when event time has passed it: the
    /// right is a table, and its rows are versions. See [`TemporalJoin`] for a timeline.
    ///
    /// The newest version of each key is kept for ever: where new keys come without end, say
    /// [`as_of_within`](Join::as_of_within).
    pub fn as_of(self, name: &str) -> Stream<(L, Option<R>)> {
        self.versions(name, None)
    }

    /// As [`as_of`](Join::as_of), where a version is valid for `ttl` and no longer, also if no newer one comes: then a row of the
    /// left that is later has none.
    pub fn as_of_within(self, name: &str, ttl: Duration) -> Stream<(L, Option<R>)> {
        self.wrong(name, unbounded(ttl).problem());
        self.versions(name, Some(ttl))
    }

    fn versions(self, name: &str, ttl: Option<Duration>) -> Stream<(L, Option<R>)> {
        let versions = self.row_versions.clone();
        let make = move |key| {
            let join = TemporalJoin::new(key).row_versions(versions.clone());
            if let Some(ttl) = ttl { join.valid_for(ttl) } else { join }
        };
        let pairs = self.operator(name, "temporal_join", String::new(), make);
        pairs.filter_map(&pairs_of(name), Pair::left).boxed()
    }

    /// Both sides as one stream of sided rows that go by key.
    fn sided(self, name: &str) -> BothSides<K, L, R> {
        let key = Sided::key_of(Arc::clone(&self.left.key), Arc::clone(&self.right.key));
        let left = self.left.stream.map(&format!("{name}/left"), Sided::Left).boxed();
        let right = self.right.stream.map(&format!("{name}/right"), Sided::Right).boxed();
        (KeyedStream::new(left, Arc::clone(&key)), right.hashed(key), self.late)
    }

    /// The pairs of a join that holds rows.
    fn held(
        self,
        wanted: Wanted<'_>,
        detail: String,
        make: impl Fn(KeyOf<Sided<L, R>, K>) -> IntervalJoin<L, R, K> + Send + Sync + 'static,
    ) -> Stream<Pair<L, R>> {
        let once = wanted.once;
        let versions = self.row_versions.clone();
        let make = move |key| make(key).row_versions(versions.clone());
        let make = move |key| if once { make(key).once() } else { make(key) };
        self.operator(wanted.name, "interval_join", detail, make)
    }

    /// Notes what is wrong with how it is bounded.
    fn wrong(&self, name: &str, problems: impl IntoIterator<Item = Problem>) {
        let pipeline = self.left.stream.pipeline();
        of_node(name, "", problems.into_iter().collect()).for_each(|problem| pipeline.problem(problem));
    }

    fn operator<U, O, M>(self, name: &str, kind: &'static str, detail: String, make: M) -> Stream<U>
    where
        U: Send + 'static,
        O: Operator<In = Vec<Sided<L, R>>, Out = Vec<U>>,
        M: Fn(KeyOf<Sided<L, R>, K>) -> O + Send + Sync + 'static,
    {
        let (left, right, late) = self.sided(name);
        let key = Arc::clone(&left.key);
        let make = move |_: &Subtask| -> Result<O> { Ok(make(Arc::clone(&key))) };
        let node = left.rows().node(name, kind, make).detailed(detail);
        node.pipeline.change(node.id, |node| node.by_event_time = true);
        right.enter(InPort { node: node.id, port: 0 });
        if let Some(late) = late {
            late(Stream::at(node.pipeline.clone(), OutPort { node: node.id, port: 1 }));
        }
        node.main()
    }
}

/// The left with its key, the right on its way to the same node, and what becomes of late rows.
type BothSides<K, L, R> = (KeyedStream<K, Sided<L, R>>, Stream<Sided<L, R>>, Option<Late<Sided<L, R>>>);

/// The name of the node that picks what is given of the pairs.
fn pairs_of(name: &str) -> String {
    format!("{name}/pairs")
}

impl<'n> Wanted<'n> {
    fn new(name: &'n str, alone: (bool, bool)) -> Self {
        Wanted { name, alone, once: false }
    }
}

/// A setting by which results would come more than once.
fn given_once(setting: &str) -> Problem {
    let what = "a join gives what belongs together once, when that is known";
    let help = match setting {
        "emit" => "take `emit` out",
        _ => "take it out, and let event time wait for late rows: a larger lateness where it begins",
    };
    Problem::at("", what).in_setting(setting).help(help)
}

impl<L: StateValue, R: StateValue> How<L, R> for Interval {
    fn pairs<K: StateKey>(self, join: Join<K, L, R>, wanted: Wanted<'_>) -> Stream<Pair<L, R>> {
        let alone = wanted.alone;
        join.held(wanted, self.to_string(), move |key| IntervalJoin::new(self, alone, key))
    }
}

impl<L, R, F> How<L, R> for UntilInterval<F>
where
    L: StateValue,
    R: StateValue,
    F: Fn(&L) -> Timestamp + Clone + Send + Sync + 'static,
{
    fn pairs<K: StateKey>(self, join: Join<K, L, R>, wanted: Wanted<'_>) -> Stream<Pair<L, R>> {
        join.wrong(wanted.name, self.emits().then(|| given_once("emit")));
        let (detail, alone) = (self.to_string(), wanted.alone);
        let (interval, until) = self.into_parts();
        let until: Arc<dyn Fn(&L) -> Timestamp + Send + Sync> = Arc::new(until);
        join.held(wanted, detail, move |key| IntervalJoin::new(interval, alone, key).until(Arc::clone(&until)))
    }
}

impl<L, R, F> How<L, R> for Until<F>
where
    L: StateValue,
    R: StateValue,
    F: Fn(&L) -> Timestamp + Clone + Send + Sync + 'static,
{
    fn pairs<K: StateKey>(self, join: Join<K, L, R>, wanted: Wanted<'_>) -> Stream<Pair<L, R>> {
        self.earlier(Duration::ZERO).pairs(join, wanted)
    }
}

impl<L: StateValue, R: StateValue> How<L, R> for Unbounded {
    fn pairs<K: StateKey>(self, join: Join<K, L, R>, wanted: Wanted<'_>) -> Stream<Pair<L, R>> {
        join.wrong(wanted.name, self.problem());
        // Not for verbs that ask for rows without partner.
        join.held(wanted, self.to_string(), move |key| IntervalJoin::unbounded(self, key))
    }
}

macro_rules! in_windows {
    ($($windows:ty),*) => {$(impl<L: StateValue, R: StateValue> How<L, R> for $windows {
        fn pairs<K: StateKey>(self, join: Join<K, L, R>, wanted: Wanted<'_>) -> Stream<Pair<L, R>> {
            join.wrong(wanted.name, self.repeats().into_iter().map(given_once));
            join.wrong(wanted.name, self.problems());
            let (detail, once) = (self.to_string(), wanted.once);
            let gathered = Arc::new(Gathered::new(join.row_versions.clone()));
            let make = move |key| Windows::<Sided<L, R>>::operator(self, key, Arc::clone(&gathered));
            let gathered = join.operator(wanted.name, "window_join", detail, make);
            // What is without partner in a window is told in any case, and picked or not.
            let of_window = move |window: Windowed<K, Both<L, R>>| {
                let mut both = window.value;
                if once {
                    both.right.truncate(1);
                }
                both.pairs()
            };
            gathered.flat_map(&format!("{}/rows", wanted.name), of_window).boxed()
        }
    })*};
}
in_windows!(TimeWindows, SessionWindows);

impl<L: StateValue, R: StateValue> Bounded<L, R> for Interval {}
impl<L: StateValue, R: StateValue> Bounded<L, R> for TimeWindows {}
impl<L: StateValue, R: StateValue> Bounded<L, R> for SessionWindows {}
impl<L: StateValue, R: StateValue, F> Bounded<L, R> for Until<F> where Until<F>: How<L, R> {}
impl<L: StateValue, R: StateValue, F> Bounded<L, R> for UntilInterval<F> where UntilInterval<F>: How<L, R> {}

impl<K, L, R> fmt::Debug for Join<K, L, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Join({:?}, {:?})", self.left, self.right)
    }
}
