//! [`JoinPlan`]: which columns a join looks at and keeps of either side, and what its results are made of.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::kernels::zip::zip;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::bound::{Bound, How, JoinKind, Latest};
use super::keys::{Both, Side};
use super::store::Store;
use crate::columnar::schema::{UTC, describe_type, timestamp};
use crate::columnar::{ExprError, KeyColumns};
use crate::suggest::did_you_mean;
use crate::{Fault, Result, Timestamp};

/// A join of rows with certain columns, which nothing is wrong with.
#[derive(Clone)]
pub struct JoinPlan {
    pub(super) kind: JoinKind,
    pub(super) bound: Bound,
    pub(super) sides: Both<SideColumns>,
    /// The column of the left that holds the latest time of the right.
    pub(super) until: Option<usize>,
    schema: SchemaRef,
    sources: Vec<Source>,
}

/// What is looked at and kept of the rows of a side.
#[derive(Clone)]
pub(super) struct SideColumns {
    pub(super) keys: KeyColumns,
    kept: Vec<usize>,
    /// The columns that are kept: that of times, and some of the input.
    pub(super) stored: SchemaRef,
    /// Where those of the key stand among them.
    pub(super) stored_keys: Vec<usize>,
}

/// Where a column of the results comes from; columns are those that are kept.
#[derive(Clone, Copy)]
enum Source {
    Left(usize),
    Right(usize),
    /// Of the left, and where there is no left row of the right.
    Either(usize, usize),
    Start,
    End,
}

/// What is kept of rows depends on the kind of join and on what bounds it: with this they say what that was.
pub(super) const HOW: &str = "join";

/// A row to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    pub(super) left: Option<u64>,
    pub(super) right: Option<u64>,
    pub(super) time: i64,
    /// Where its window begins, if it is of one.
    pub(super) start: i64,
}

/// Everything that is wrong with a join: each with the setting that is to blame, such as `on.id`.
#[derive(Debug)]
pub struct JoinMistakes {
    /// The mistakes.
    pub all: Vec<(String, ExprError)>,
    /// The columns that it would have had, if they are known all the same.
    pub schema: Option<SchemaRef>,
}

/// Where a window begins and ends, among the columns of results.
const WINDOW_COLUMNS: [(&str, Source); 2] = [("window_start", Source::Start), ("window_end", Source::End)];

impl JoinPlan {
    /// The join of rows with the columns of `left` and `right`, of which those in `on` must be the same. What comes of it
    /// has the columns of the left, then those of the right without the ones in `on`, with `prefix` before their names; in
    /// windows also `window_start` and `window_end`, unless there are such columns. Semi and anti joins give those of the
    /// left only. Columns of a side that may be missing may be null; those in `on` are there in any case.
    ///
    /// # Errors
    /// All that is wrong.
    pub fn new(
        (left, right): (&SchemaRef, &SchemaRef),
        on: &[(String, String)],
        kind: JoinKind,
        prefix: &str,
        bound: Bound,
    ) -> Result<Self, JoinMistakes> {
        let mut wrong = Vec::new();
        let keys = same(left, right, on, &mut wrong);
        let until = until(left, &bound, &mut wrong);
        bounded(kind, &bound, &mut wrong);
        let right_keys: BTreeSet<usize> = on.iter().filter_map(|(_, column)| right.index_of(column).ok()).collect();
        let taken: BTreeSet<&str> = left.fields().iter().map(|field| field.name().as_str()).collect();
        let rest = (0..right.fields().len()).filter(|place| kind.gives_right() && !right_keys.contains(place));
        let rest: Vec<(usize, Field)> = rest
            .map(|place| {
                let field = right.field(place).clone();
                let name = format!("{prefix}{}", field.name());
                (place, field.with_name(name))
            })
            .collect();
        let twice = rest.iter().filter(|(_, field)| taken.contains(field.name().as_str()));
        let twice: Vec<String> = twice.map(|(_, field)| format!("`{}`", field.name())).collect();
        if !twice.is_empty() {
            let what = format!("both sides have columns called {}", twice.join(", "));
            let help =
                "say `prefix = \"right_\"`, which goes before the names of the right, or `select` what you need there";
            wrong.push(("prefix".to_owned(), ExprError::new(what).help(help.to_owned())));
        }
        let alone = kind.alone();
        let mut fields = Vec::new();
        let mut sources = Vec::new();
        for (place, field) in left.fields().iter().enumerate() {
            let key = on.iter().find(|(column, _)| column == field.name());
            let key = key.and_then(|(_, column)| right.index_of(column).ok()).filter(|_| alone.right);
            let may_be_null = match key {
                Some(key) => right.field(key).is_nullable(),
                None => alone.right,
            };
            fields.push(field.as_ref().clone().with_nullable(field.is_nullable() || may_be_null));
            sources.push(key.map_or(Source::Left(place + 1), |key| Source::Either(place + 1, key + 1)));
        }
        for (place, field) in rest {
            let nullable = field.is_nullable() || alone.left;
            fields.push(field.with_nullable(nullable));
            sources.push(Source::Right(place + 1));
        }
        if matches!(bound.how, How::Windows(_) | How::Sessions { .. }) {
            for (name, source) in WINDOW_COLUMNS {
                if !fields.iter().any(|field: &Field| field.name() == name) {
                    fields.push(Field::new(name, timestamp(), false));
                    sources.push(source);
                }
            }
        }
        let schema = Arc::new(Schema::new(fields));
        let known = right_keys.len() == on.len() && twice.is_empty();
        match keys.filter(|_| wrong.is_empty()) {
            Some([left_keys, right_keys]) => {
                let all = |schema: &SchemaRef| (0..schema.fields().len()).collect();
                let kept = if kind.gives_right() { all(right) } else { places(&right_keys) };
                let how = format!("{kind} {}", bound.word());
                let left = SideColumns::new(left, left_keys, all(left), &how);
                let sides = Both { left, right: SideColumns::new(right, right_keys, kept, &how) };
                Ok(JoinPlan { kind, bound, sides, until, schema, sources })
            }
            None => Err(JoinMistakes { all: wrong, schema: known.then_some(schema) }),
        }
    }

    /// The columns of the results.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The columns of the key on the left and on the right, by which rows are shared out.
    pub fn keys(&self) -> [&KeyColumns; 2] {
        [&self.sides.left.keys, &self.sides.right.keys]
    }

    /// Whether each row of a side tells by itself until when it may be joined.
    pub(super) fn tells_its_end(&self, side: Side) -> bool {
        self.until.is_some() && side == Side::Left
    }

    /// The rows that were picked.
    pub(super) fn rows(&self, stores: &Both<Store>, picks: &[Pick]) -> Result<RecordBatch> {
        let (mut of_left, mut of_right) = (Vec::new(), Vec::new());
        for source in &self.sources {
            match source {
                Source::Left(column) => of_left.push(*column),
                Source::Right(column) => of_right.push(*column),
                Source::Either(left, right) => {
                    of_left.push(*left);
                    of_right.push(*right);
                }
                Source::Start | Source::End => {}
            }
        }
        let Both { left, right } = stores;
        let mut left = left.columns(picks.iter().map(|pick| pick.left), &of_left)?.into_iter();
        let mut right = match of_right.is_empty() {
            true => Vec::new().into_iter(),
            false => right.columns(picks.iter().map(|pick| pick.right), &of_right)?.into_iter(),
        };
        let has_left = picks.iter().any(|pick| pick.left.is_none());
        let has_left = has_left.then(|| picks.iter().map(|pick| Some(pick.left.is_some())).collect::<BooleanArray>());
        let lacks = || Fault::bug("a join lacks a column");
        let micros = |time: &dyn Fn(&Pick) -> i64| -> ArrayRef {
            let times = TimestampMicrosecondArray::from_iter_values(picks.iter().map(time));
            Arc::new(times.with_timezone(UTC))
        };
        let column = |source: &Source| -> Result<ArrayRef> {
            Ok(match source {
                Source::Left(_) => left.next().ok_or_else(lacks)?,
                Source::Right(_) => right.next().ok_or_else(lacks)?,
                Source::Either(..) => {
                    let both = (left.next().ok_or_else(lacks)?, right.next().ok_or_else(lacks)?);
                    match &has_left {
                        Some(has_left) => zip(has_left, &both.0, &both.1).map_err(unfit)?,
                        None => both.0,
                    }
                }
                Source::Start => micros(&|pick| pick.start),
                // The last moment of a window is the time of what it gives.
                Source::End => micros(&|pick| pick.time.saturating_add(1)),
            })
        };
        let columns = self.sources.iter().map(column).collect::<Result<Vec<_>>>()?;
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(unfit)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
fn unfit(error: arrow::error::ArrowError) -> Fault {
    Fault::bug(format!("the results of a join do not fit together: {error}"))
}

impl SideColumns {
    fn new(input: &SchemaRef, keys: KeyColumns, kept: Vec<usize>, how: &str) -> Self {
        let fields = kept.iter().map(|place| input.field(*place).clone());
        let times = std::iter::once(Field::new("", DataType::Int64, false));
        let stored = Schema::new(times.chain(fields).collect::<Vec<_>>());
        let stored = Arc::new(stored.with_metadata(HashMap::from([(HOW.to_owned(), how.to_owned())])));
        let place = |key: &usize| kept.iter().position(|place| place == key).map(|place| place + 1);
        let stored_keys = keys.places().iter().filter_map(place).collect();
        SideColumns { keys, kept, stored, stored_keys }
    }

    /// What is kept of rows.
    pub(super) fn stored(&self, times: &[Timestamp], rows: &RecordBatch) -> Result<RecordBatch> {
        let times = Int64Array::from_iter_values(times.iter().map(|time| time.as_micros()));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(times)];
        columns.extend(self.kept.iter().filter_map(|place| rows.columns().get(*place).cloned()));
        RecordBatch::try_new(Arc::clone(&self.stored), columns).map_err(unfit)
    }

    /// The columns of the key, of rows that are kept.
    pub(super) fn key_columns(&self, stored: &RecordBatch) -> Vec<ArrayRef> {
        self.stored_keys.iter().filter_map(|place| stored.columns().get(*place).cloned()).collect()
    }

    /// Those columns.
    pub(super) fn key_fields(&self) -> Vec<Field> {
        self.stored_keys.iter().map(|place| self.stored.field(*place).clone()).collect()
    }
}

fn places(keys: &KeyColumns) -> Vec<usize> {
    let places: BTreeSet<usize> = keys.places().iter().copied().collect();
    places.into_iter().collect()
}

type Wrong = Vec<(String, ExprError)>;

/// The columns that must be the same.
fn same(left: &SchemaRef, right: &SchemaRef, on: &[(String, String)], wrong: &mut Wrong) -> Option<[KeyColumns; 2]> {
    if on.is_empty() {
        let help = "say `on = { id = \"order_id\" }`: columns of the left, and what they are called on the right";
        let what = "it is not said which columns must be the same on both sides";
        wrong.push(("on".to_owned(), ExprError::new(what).help(help.to_owned())));
        return None;
    }
    let (of_left, of_right): (Vec<String>, Vec<String>) = on.iter().cloned().unzip();
    let mut found = |schema: &SchemaRef, columns: &[String], side: &str| {
        let refused = |refused: Vec<(usize, ExprError)>| {
            for (number, mut error) in refused {
                error.what = format!("on the {side} {}", error.what);
                let name = of_left.get(number).filter(|_| side == "right");
                wrong.push((name.map_or_else(|| "on".to_owned(), |name| format!("on.{name}")), error));
            }
        };
        KeyColumns::new(schema, columns).map_err(refused).ok()
    };
    let keys = [found(left, &of_left, "left"), found(right, &of_right, "right")];
    for (of_left, of_right) in on {
        let (Ok(mine), Ok(theirs)) = (left.field_with_name(of_left), right.field_with_name(of_right)) else { continue };
        if mine.data_type() != theirs.data_type() {
            let [mine, theirs] = [mine, theirs].map(|field| describe_type(field.data_type()));
            let what = format!("`{of_left}` is {mine} on the left, and `{of_right}` {theirs} on the right");
            let help = format!("make one of them like the other with `set`: `cast({of_left} as {theirs})`");
            wrong.push((format!("on.{of_left}"), ExprError::new(what).help(help)));
        }
    }
    match keys {
        [Some(left), Some(right)] => Some([left, right]),
        _ => None,
    }
}

/// The column of latest times, if there is one.
fn until(left: &SchemaRef, bound: &Bound, wrong: &mut Wrong) -> Option<usize> {
    let How::Within { latest: Latest::Column(column), .. } = &bound.how else { return None };
    let refused = match left.index_of(column) {
        Ok(place) if left.field(place).data_type() == &timestamp() => return Some(place),
        Ok(place) => {
            let is = describe_type(left.field(place).data_type());
            let help = "declare it as `timestamp`, or compute one with `set`";
            ExprError::new(format!("column `{column}` is {is}, and until when is a timestamp")).help(help.to_owned())
        }
        Err(_) => {
            let names: Vec<&str> = left.fields().iter().map(|field| field.name().as_str()).collect();
            let error = ExprError::new(format!("on the left there is no column `{column}`"));
            error.help(did_you_mean(column, "columns", names))
        }
    };
    wrong.push(("within.until".to_owned(), refused.within(0..column.len())));
    None
}

/// Whether the kind of join and what bounds it go together.
fn bounded(kind: JoinKind, bound: &Bound, wrong: &mut Wrong) {
    if let Some((why, help)) = bound.refuses(kind) {
        let what = format!("it cannot be `{kind}`: {why}");
        wrong.push(("kind".to_owned(), ExprError::new(what).help(help.to_owned())));
    }
    let repeats = match &bound.how {
        How::Within { .. } => return,
        How::Windows(windows) => windows.repeats(),
        _ => Vec::new(),
    };
    if repeats.contains(&"emit") {
        let what = "a join gives what belongs together in a window once, when that closes: there are no early results";
        wrong.push(("emit".to_owned(), ExprError::new(what).help("take `emit` out".to_owned())));
    }
    if !bound.allowed_lateness.is_zero() || repeats.contains(&"allowed_lateness") {
        let what = "`allowed_lateness` goes with a join of rows `within` a time only: others give what they give once";
        let help = "let event time wait for late rows: `max_lateness` where it begins";
        wrong.push(("allowed_lateness".to_owned(), ExprError::new(what).help(help.to_owned())));
    }
}

impl fmt::Debug for JoinPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinPlan({}, {})", self.kind, self.bound)
    }
}
