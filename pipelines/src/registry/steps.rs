//! The steps of a pipeline file: each is a verb of [`Frame`](crate::dsl::Frame).

use schemars::JsonSchema;
use serde::Deserialize;

use millstream_operators::window::{sliding, tumbling};

use super::common::EventTimeKeys;
use super::join::Join;
use super::{Ordered, Registry, RejectedWord, Span, Spec, Wiring};

pub(super) fn all(registry: Registry) -> Registry {
    let registry = registry.step::<Filter>().step::<Set>().step::<Select>().step::<Drop>();
    let registry = registry
        .step::<Explode>()
        .step::<Route>()
        .step::<Merge>()
        .step::<Throttle>()
        .step::<Sample>()
        .step::<Rebalance>();
    registry.step::<EventTime>().step::<Window>().step::<Dedup>().step::<Join>()
}

/// Rows for which an expression is true go on.
#[derive(Deserialize, JsonSchema)]
struct Filter {
    /// An SQL expression that is true or false: `amount >= 10`.
    filter: String,
}

impl Spec for Filter {
    const KIND: &'static str = "filter";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let rows = wiring.input().filter(wiring.name(), &self.filter);
        wiring.output(rows);
    }
}

/// Columns are computed and set; the others stay.
#[derive(Deserialize, JsonSchema)]
struct Set {
    /// Columns and their SQL expressions: `{ total = "price * count" }`.
    set: Ordered<String>,
}

impl Spec for Set {
    const KIND: &'static str = "set";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let rows = wiring.input().set(wiring.name(), self.set.0);
        wiring.output(rows);
    }
}

/// These columns and no others, in this order.
#[derive(Deserialize, JsonSchema)]
struct Select {
    /// Columns and their SQL expressions: `{ id = "id", total = "price * count" }`.
    select: Ordered<String>,
}

impl Spec for Select {
    const KIND: &'static str = "select";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let rows = wiring.input().select(wiring.name(), self.select.0);
        wiring.output(rows);
    }
}

/// All columns but these.
#[derive(Deserialize, JsonSchema)]
struct Drop {
    /// The columns that go.
    drop: Vec<String>,
}

impl Spec for Drop {
    const KIND: &'static str = "drop";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let rows = wiring.input().drop(wiring.name(), self.drop);
        wiring.output(rows);
    }
}

/// One row for each item of a list.
#[derive(Deserialize, JsonSchema)]
struct Explode {
    /// The column that holds lists, by its name or in a table.
    explode: List,
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
enum List {
    Column(String),
    With {
        /// The column that holds lists.
        column: String,
        /// A list that is null or empty gives one row with null in its place.
        #[serde(default)]
        keep_empty: bool,
        /// Items are structs, whose fields become columns.
        #[serde(default)]
        flatten: bool,
    },
}

impl Spec for Explode {
    const KIND: &'static str = "explode";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let (column, keep_empty, flatten) = match self.explode {
            List::Column(column) => (column, false, false),
            List::With { column, keep_empty, flatten } => (column, keep_empty, flatten),
        };
        let rows = wiring.input().explode(wiring.name(), &column, keep_empty, flatten);
        wiring.output(rows);
    }
}

/// Rows part: each goes to the first output whose expression is true; `step.output` names it in a `from`, and `step`
/// alone names the rest.
#[derive(Deserialize, JsonSchema)]
struct Route {
    /// Outputs and their SQL expressions: `{ europe = "region = 'eu'" }`.
    route: Ordered<String>,
}

impl Spec for Route {
    const KIND: &'static str = "route";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let names: Vec<String> = self.route.0.iter().map(|(name, _)| name.clone()).collect();
        if let Some(odd) = names.iter().find(|name| name.contains('.')) {
            wiring.problem(wiring.wrong(format!("the output `{odd}` cannot be named by a `from`")).in_setting("route"));
        }
        let (routes, rest) = wiring.input().route(wiring.name(), self.route.0);
        names.into_iter().zip(routes).for_each(|(name, rows)| wiring.side(name, rows));
        wiring.output(rest);
    }
}

/// Several inputs with the same columns become one.
#[derive(Deserialize, JsonSchema)]
struct Merge {
    /// Says that it is a merge: `true`.
    merge: bool,
}

impl Spec for Merge {
    const KIND: &'static str = "merge";

    fn wire(self, wiring: &mut Wiring<'_>) {
        if !self.merge {
            wiring.problem(wiring.wrong("`merge` is `true`, or is not there").in_setting("merge"));
        }
        // The other inputs of a node are connected by whoever reads the file.
        let rows = wiring.input().merge(wiring.name(), []);
        wiring.output(rows);
    }
}

/// No more than so many rows pass in a span of time.
#[derive(Deserialize, JsonSchema)]
struct Throttle {
    /// How many rows, in what time: `{ rows = 100, per = "1s" }`; with `drop = true` the others are dropped.
    throttle: Rate,
}

#[derive(Deserialize, JsonSchema)]
struct Rate {
    /// How many rows.
    #[schemars(range(min = 1))]
    rows: u64,
    /// In what time.
    per: Span,
    /// Drops and counts what is too much, in place of letting it wait.
    #[serde(default)]
    drop: bool,
}

impl Spec for Throttle {
    const KIND: &'static str = "throttle";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let Rate { rows, per, drop } = self.throttle;
        let input = wiring.input();
        wiring.output(match drop {
            true => input.throttle_drop(wiring.name(), rows, per.0),
            false => input.throttle(wiring.name(), rows, per.0),
        });
    }
}

/// One row of so many passes.
#[derive(Deserialize, JsonSchema)]
struct Sample {
    /// The first of every so many rows passes.
    #[schemars(range(min = 1))]
    sample: u64,
}

impl Spec for Sample {
    const KIND: &'static str = "sample";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let rows = wiring.input().sample(wiring.name(), self.sample);
        wiring.output(rows);
    }
}

/// Rows are shared out evenly to the instances of the next node.
#[derive(Deserialize, JsonSchema)]
struct Rebalance {
    /// Says that it rebalances: `true`.
    rebalance: bool,
}

impl Spec for Rebalance {
    const KIND: &'static str = "rebalance";

    fn wire(self, wiring: &mut Wiring<'_>) {
        if !self.rebalance {
            wiring.problem(wiring.wrong("`rebalance` is `true`, or is not there").in_setting("rebalance"));
        }
        let rows = wiring.input().merge(wiring.name(), []).rebalance();
        wiring.output(rows);
    }
}

/// Rows get the event time that stands in one of their columns, and watermarks follow.
#[derive(Deserialize, JsonSchema)]
struct EventTime {
    /// `{ column = "placed_at", max_lateness = "5s", idle_after = "30s" }`.
    event_time: EventTimeKeys,
}

impl Spec for EventTime {
    const KIND: &'static str = "event_time";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let keys = self.event_time;
        let rows = wiring.input().event_time(wiring.name(), &keys.column, keys.watermarks());
        wiring.output(rows);
    }
}

/// Rows are aggregated by key in windows of event time. What comes of it has the columns of `key_by`, `window_start`,
/// `window_end` and those of `aggregate`.
#[derive(Deserialize, JsonSchema)]
struct Window {
    /// The columns whose values make a group; none for one group of all rows.
    #[serde(default)]
    key_by: Vec<String>,
    /// The windows: `{ tumbling = "1m" }`, or `{ sliding = "5m", every = "1m" }`.
    window: Windows,
    /// Columns and their SQL expressions over aggregates: `{ orders = "count(*)", total = "sum(amount)" }`.
    aggregate: Ordered<String>,
    /// What becomes of rows that come after their windows are closed; they are counted and dropped if not given.
    #[serde(default)]
    late: Option<RejectedWord>,
}

#[derive(Deserialize, JsonSchema)]
struct Windows {
    /// The length of windows that follow each other.
    #[serde(default)]
    tumbling: Option<Span>,
    /// The length of windows that overlap.
    #[serde(default)]
    sliding: Option<Span>,
    /// How long after each other sliding windows begin.
    #[serde(default)]
    every: Option<Span>,
    /// How long after the watermark has passed their end rows may still change them.
    #[serde(default)]
    allowed_lateness: Option<Span>,
    /// How long after midnight (UTC) they begin.
    #[serde(default)]
    offset: Option<Span>,
}

impl Spec for Window {
    const KIND: &'static str = "window";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let keys = self.window;
        let windows = match (keys.tumbling, keys.sliding, keys.every) {
            (Some(size), None, None) => tumbling(size.0),
            (None, Some(size), Some(every)) => sliding(size.0, every.0),
            _ => {
                let help = "say `{ tumbling = \"1m\" }`, or `{ sliding = \"5m\", every = \"1m\" }`";
                let problem = wiring.wrong("windows are either tumbling, or sliding with `every`");
                wiring.problem(problem.in_setting("window").help(help));
                tumbling(std::time::Duration::from_secs(1))
            }
        };
        let windows = windows.offset(keys.offset.map_or_else(Default::default, |span| span.0));
        let windows = windows.allowed_lateness(keys.allowed_lateness.map_or_else(Default::default, |span| span.0));
        let late = self.late.map(|word| wiring.rejected_to("late", &word));
        let windowed = wiring.input().key_by(self.key_by).window(windows);
        let windowed = match late {
            Some(late) => windowed.late(late),
            None => windowed,
        };
        let rows = windowed.aggregate(wiring.name(), self.aggregate.0);
        wiring.output(rows);
    }
}

/// The first row of a key passes; those of the same key that are near it in event time are dropped.
#[derive(Deserialize, JsonSchema)]
struct Dedup {
    /// `{ by = ["id"], within = "1h" }`.
    dedup: Repeats,
}

#[derive(Deserialize, JsonSchema)]
struct Repeats {
    /// The columns whose values make rows repeats of each other.
    by: Vec<String>,
    /// How near in event time they must be.
    within: Span,
}

impl Spec for Dedup {
    const KIND: &'static str = "dedup";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let Repeats { by, within } = self.dedup;
        if by.is_empty() {
            let help = "say `{ by = [\"id\"], within = \"1h\" }`";
            wiring.problem(wiring.wrong("by no column all rows are repeats").in_setting("dedup.by").help(help));
        }
        let rows = wiring.input().key_by(by).dedup(wiring.name(), within.0);
        wiring.output(rows);
    }
}
