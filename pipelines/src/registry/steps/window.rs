//! The step `window`: rows by key in windows, and what comes of them.

use std::time::Duration;

use millstream_operators::columnar::OwnWindows;
use millstream_operators::window::{Emit, global, sliding, tumbling};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::dsl::{Best, ColumnWindows, best};
use crate::registry::{Ordered, RejectedWord, Span, Spec, Wiring};

/// Rows are aggregated by key in windows of event time. What comes of it has the columns of `key_by`, `window_start`,
/// `window_end` and those of `aggregate`; or it is the best of the rows, as `top` says.
#[derive(Deserialize, JsonSchema)]
pub(super) struct Window {
    /// The columns whose values make a group; none for one group of all rows.
    #[serde(default)]
    key_by: Vec<String>,
    /// The windows: `{ tumbling = "1m" }`, `{ sliding = "5m", every = "1m" }`, `{ session = "5m" }`, `{ until = "expires" }`,
    /// `{ count = 100 }`, `{ last = 10, order_by = ["id"] }`, or `{ global = true, every_rows = 100 }`.
    window: Windows,
    /// When there are results: when a window closes, if not given. `{ every = "1s" }` also gives them at an interval of event
    /// time, and `"update"` behind each batch that changed them: then the last one of a key is its result.
    #[serde(default)]
    emit: Option<EmitWord>,
    /// Columns and their SQL expressions over aggregates: `{ orders = "count(*)", total = "sum(amount)" }`. A result that one of
    /// them cannot be computed for, as by a division by zero or where a sum of whole numbers does not fit into 64 bits, is
    /// rejected.
    #[serde(default)]
    aggregate: Option<Ordered<String>>,
    /// The best rows, which keep their columns: `{ rows = 3, by = "price desc", ties = true }`. `window_start` and
    /// `window_end` stand behind these, unless the rows have columns of these names.
    #[serde(default)]
    top: Option<Top>,
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
    /// How long after each other sliding windows begin: no longer than they are, so that no row is between them.
    #[serde(default)]
    every: Option<Span>,
    /// Windows end when no row of the key has come for so long.
    #[serde(default)]
    session: Option<Span>,
    /// A column of timestamps: windows last until the latest time in it, that included.
    #[serde(default)]
    until: Option<String>,
    /// Windows of so many rows, in the order in which they come.
    #[serde(default)]
    #[schemars(range(min = 1))]
    count: Option<u64>,
    /// For each row, so many of the newest rows of its key including itself, in the order of event time and then of
    /// `order_by`. Results have the columns of `key_by`, of `order_by` and of `aggregate`. The last rows of a key are kept for
    /// ever.
    #[serde(default)]
    #[schemars(range(min = 1))]
    last: Option<usize>,
    /// The columns that decide between the last rows that are of one time.
    #[serde(default)]
    order_by: Option<Vec<String>>,
    /// One window for ever: `true`. What is kept of each key is kept for ever, too.
    #[serde(default)]
    global: Option<bool>,
    /// The result so far of a `global` window is given with every so many rows of its key. It is computed of all that is kept of
    /// the key: where that is all values, as for `array_agg` or `count(distinct ...)`, let these be many.
    #[serde(default)]
    #[schemars(range(min = 1))]
    every_rows: Option<u64>,
    /// How long after the watermark has passed their end rows may still change them: their results are given again, and are
    /// late for windows behind that do not allow for as much.
    #[serde(default)]
    allowed_lateness: Option<Span>,
    /// How long after midnight (UTC) they begin, where their distance divides a day. They are counted from 1970-01-01, a Thursday:
    /// weeks that begin on Mondays have `offset = "4d"`.
    #[serde(default)]
    offset: Option<Span>,
}

/// When there are results.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum EmitWord {
    /// When a window closes.
    Close,
    /// Also behind each batch, for the keys that it changed.
    Update,
    /// Also when event time passes a multiple of this span, for the keys that have changed.
    Every(Span),
}

/// The best rows of a window.
#[derive(Deserialize, JsonSchema)]
struct Top {
    /// How many.
    #[schemars(range(min = 1))]
    rows: usize,
    /// SQL expressions with `asc` or `desc` behind each: `price desc, id`. Nulls are the worst.
    by: String,
    /// Also gives the rows that are equal to the last one.
    #[serde(default)]
    ties: bool,
}

impl From<EmitWord> for Emit {
    fn from(word: EmitWord) -> Self {
        match word {
            EmitWord::Close => Emit::OnClose,
            EmitWord::Update => Emit::OnChange,
            EmitWord::Every(span) => Emit::Every(span.0),
        }
    }
}

const KINDS: &str = "say one of `{ tumbling = \"1m\" }`, `{ sliding = \"5m\", every = \"1m\" }`, `{ session = \"5m\" }`, \
    `{ until = \"expires\" }`, `{ count = 100 }`, `{ last = 10, order_by = [\"id\"] }` and `{ global = true }`";

impl Windows {
    /// The kinds of windows that are named.
    fn named(&self) -> Vec<&'static str> {
        let all = [
            ("tumbling", self.tumbling.is_some()),
            ("sliding", self.sliding.is_some()),
            ("session", self.session.is_some()),
            ("until", self.until.is_some()),
            ("count", self.count.is_some()),
            ("last", self.last.is_some()),
            ("global", self.global.is_some()),
        ];
        all.into_iter().filter(|(_, there)| *there).map(|(kind, _)| kind).collect()
    }

    /// The windows that are meant; what is wrong with them is noted.
    fn read(self, wiring: &Wiring<'_>) -> ColumnWindows {
        let named = self.named();
        match named.as_slice() {
            [_] => {}
            [] => wiring.problem(wiring.wrong("it is not said which windows").in_setting("window").help(KINDS)),
            [first, second, ..] => {
                let what = format!("windows are of one kind, and these are `{first}` and `{second}`");
                wiring.problem(wiring.wrong(what).in_setting(format!("window.{second}")).help(KINDS));
            }
        }
        let kind = named.first().copied().unwrap_or("tumbling");
        let refuse = |setting: &str, there: bool, fits: &[&str], what: &str| {
            if there && !fits.contains(&kind) && !named.is_empty() {
                let problem = wiring.wrong(format!("`{kind}` windows have no `{setting}`: {what}"));
                wiring.problem(problem.in_setting(format!("window.{setting}")).help("take it out"));
            }
        };
        refuse("every", self.every.is_some(), &["sliding"], "it says how far apart `sliding` windows begin");
        let what = "it says how often the result of a `global` window is given";
        refuse("every_rows", self.every_rows.is_some(), &["global"], what);
        refuse("offset", self.offset.is_some(), &["tumbling", "sliding"], "they begin with their rows");
        refuse("order_by", self.order_by.is_some(), &["last"], "it is for the `last` rows");
        let what = "their results are not changed by late rows";
        refuse("allowed_lateness", self.allowed_lateness.is_some(), &["tumbling", "sliding", "session", "until"], what);
        let span = |span: Option<Span>| span.map_or(Duration::ZERO, |span| span.0);
        let late = span(self.allowed_lateness);
        match kind {
            "sliding" => {
                let size = span(self.sliding);
                if self.every.is_none() {
                    let help = "say how far apart they begin: `{ sliding = \"5m\", every = \"1m\" }`";
                    let problem = wiring.wrong("`sliding` windows need `every`");
                    wiring.problem(problem.in_setting("window.sliding").help(help));
                }
                let every = self.every.map_or(size, |every| every.0);
                sliding(size, every).offset(span(self.offset)).allowed_lateness(late).into()
            }
            "session" => OwnWindows::session(span(self.session)).allowed_lateness(late).into(),
            "until" => OwnWindows::until(self.until.unwrap_or_default()).allowed_lateness(late).into(),
            "count" => ColumnWindows::Count(self.count.unwrap_or(1)),
            "last" => {
                let order_by = self.order_by.unwrap_or_default();
                ColumnWindows::Last { rows: self.last.unwrap_or(1), order_by }
            }
            "global" => {
                if self.global == Some(false) {
                    let problem = wiring.wrong("`global` is `true`, or is not there").in_setting("window.global");
                    wiring.problem(problem.help(KINDS));
                }
                self.every_rows.map_or(global(), |rows| global().every(rows)).into()
            }
            _ => {
                let size = self.tumbling.map_or(Duration::from_secs(1), |size| size.0);
                tumbling(size).offset(span(self.offset)).allowed_lateness(late).into()
            }
        }
    }
}

impl Spec for Window {
    const KIND: &'static str = "window";

    fn wire(self, wiring: &mut Wiring<'_>) {
        let windows = self.window.read(wiring);
        let late = self.late.map(|word| wiring.rejected_to("late", &word));
        let mut windowed = wiring.input().key_by(self.key_by).window(windows);
        if let Some(late) = late {
            windowed = windowed.late(late);
        }
        if let Some(emit) = self.emit {
            windowed = windowed.emit(emit.into());
        }
        let rows = match (self.aggregate, self.top) {
            (Some(_), Some(top)) => {
                let help = "make two steps of it, both reading the same rows";
                wiring.problem(
                    wiring.wrong("either `aggregate` or `top` comes of a window").in_setting("top").help(help),
                );
                windowed.top(wiring.name(), &top.best())
            }
            (None, Some(top)) => windowed.top(wiring.name(), &top.best()),
            (columns, None) => windowed.aggregate(wiring.name(), columns.unwrap_or_default().0),
        };
        wiring.output(rows);
    }
}

impl Top {
    fn best(self) -> Best {
        let best = best(self.rows, self.by);
        if self.ties { best.ties() } else { best }
    }
}
