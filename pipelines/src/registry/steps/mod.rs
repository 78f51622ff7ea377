//! The steps of a pipeline file: each is a verb of [`Frame`](crate::dsl::Frame).

mod window;

use schemars::JsonSchema;
use serde::Deserialize;

use self::window::Window;
use super::common::EventTimeKeys;
use super::join::Join;
use super::{Ordered, Registry, Span, Spec, Wiring};

pub(super) fn all(registry: Registry) -> Registry {
    let registry = registry.step::<Filter>().step::<Set>().step::<Select>().step::<Drop>();
    let registry = registry
        .step::<Explode>()
        .step::<Route>()
        .step::<Merge>()
        .step::<Throttle>()
        .step::<Sample>()
        .step::<Rebalance>();
    registry
        .step::<EventTime>()
        .step::<ProcessingTime>()
        .step::<Window>()
        .step::<Dedup>()
        .step::<Distinct>()
        .step::<Join>()
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

/// Each row gets the time of the clock when it comes: windows, joins and timers behind it go by the clock.
#[derive(Deserialize, JsonSchema)]
struct ProcessingTime {
    /// `{ every = "100ms" }`.
    processing_time: ClockKeys,
}

#[derive(Deserialize, JsonSchema)]
struct ClockKeys {
    /// How often the clock is looked at when nothing comes: so much later at most does a window close.
    every: Span,
}

impl Spec for ProcessingTime {
    const KIND: &'static str = "processing_time";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let rows = wiring.input().processing_time(wiring.name(), self.processing_time.every.0);
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

/// Each key once, as a row of its columns: it goes on with its first row, and again only if none of it came for long.
#[derive(Deserialize, JsonSchema)]
struct Distinct {
    /// `{ by = ["customer"], ttl = "1d" }`.
    distinct: Keys,
}

#[derive(Deserialize, JsonSchema)]
struct Keys {
    /// The columns that make a key.
    by: Vec<String>,
    /// A key of which no row has come for so much event time is forgotten, and goes on again when one comes.
    ttl: Span,
}

impl Spec for Distinct {
    const KIND: &'static str = "distinct";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let Keys { by, ttl } = self.distinct;
        if by.is_empty() {
            let help = "say `{ by = [\"id\"], ttl = \"1d\" }`";
            wiring
                .problem(wiring.wrong("it is not said which columns make a key").in_setting("distinct.by").help(help));
        }
        let rows = wiring.input().key_by(by).distinct(wiring.name(), ttl.0);
        wiring.output(rows);
    }
}
