//! [`SessionAggregate`]: rows of columns by key in windows that last as long as rows say.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::is_not_null;
use arrow::datatypes::{Int64Type, SchemaRef, TimestampMicrosecondType};

use super::codec::KeyBytes;
use super::early::Early;
use super::grouped::{Grouped, Ready};
use super::groups::Arriving;
use super::kept::{Computed, Note};
use super::late::refuse_late;
use super::pane::Pane;
use super::results::Outcome;
use super::spans::{Changes, Spans, Window};
use super::window::RESULTS;
use super::{KeyColumns, late};
use crate::columnar::rows::{rejected_port, rejected_rows};
use crate::columnar::schema::{describe_type, timestamp};
use crate::columnar::{Clock, ExprError, keep};
use crate::suggest::did_you_mean;
use crate::window::{Emit, no_gap};
use crate::{Batch, Cause, Fault, Operator, Outbox, PortType, Problem, Result, StateVisitor, Timestamp, Turn};

/// Windows that last as long as rows of a key say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnWindows {
    span: Span,
    allowed_lateness: Duration,
    // It was said to be of no length.
    no_gap: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Span {
    Gap(Duration),
    Until(String),
}

impl OwnWindows {
    /// Windows that last as long as rows follow each other within less than `gap`: from the first of them to `gap` after the
    /// last. See [`session`](crate::window::session).
    pub fn session(gap: Duration) -> Self {
        let span = Span::Gap(gap.max(Duration::from_micros(1)));
        OwnWindows { span, allowed_lateness: Duration::ZERO, no_gap: gap.is_zero() }
    }

    /// Windows that last until the time in a column of timestamps, that time included; of several rows, until the latest.
    pub fn until(column: impl Into<String>) -> Self {
        OwnWindows { span: Span::Until(column.into()), allowed_lateness: Duration::ZERO, no_gap: false }
    }

    /// What is wrong with them: each with the setting that is to blame, as pipeline files call it.
    pub fn problems(&self) -> Vec<Problem> {
        self.no_gap.then(no_gap).into_iter().collect()
    }

    /// Whether rows with these columns say how long they last.
    ///
    /// # Errors
    /// There is no such column, or it is no timestamp.
    pub fn check(&self, input: &SchemaRef) -> Result<(), ExprError> {
        match &self.span {
            Span::Until(column) => time_column(input, column).map(drop),
            Span::Gap(_) => Ok(()),
        }
    }

    /// Windows stay for so long after the watermark has passed their end: a row that comes then changes the result, which is
    /// given again.
    #[must_use]
    pub fn allowed_lateness(mut self, span: Duration) -> Self {
        self.allowed_lateness = span;
        self
    }
}

impl fmt::Display for OwnWindows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.span {
            Span::Gap(gap) => write!(f, "session with gaps of {gap:?}")?,
            Span::Until(column) => write!(f, "until {column}")?,
        }
        match self.allowed_lateness.is_zero() {
            true => Ok(()),
            false => write!(f, ", {:?} late allowed", self.allowed_lateness),
        }
    }
}

/// Takes rows by key into windows that last as long as they say. By itself a row is in a window from its time to `gap` later,
/// or to just behind the time in one of its columns; windows of a key that overlap are one:
///
/// ```text
/// rows (time-until)   3-10   7-10  |    | 12-20 |
/// watermark                        | 10 | 11    | 21
/// results                               | [3,11) of both rows   [12,21)
/// ```
///
/// So the order in which rows come does not matter. Results come in the order of the ends of windows, then of keys; their rows
/// and the ports as with [`WindowAggregate`](super::WindowAggregate). A result that late rows changed is given again once for
/// the batch that they came in.
///
/// # State
/// What is kept of each key and window, by key group; what has changed is saved again. What does not fit in memory goes to the
/// spill store, but for the keys and where their windows begin and end.
///
/// # Errors
/// Rows that do not tell how long they count, where a column should, go to port 1 as well.
pub struct SessionAggregate {
    windows: OwnWindows,
    until: Option<usize>,
    early: Early<KeyBytes>,
    grouped: Grouped,
    spans: Spans,
    pane: Pane,
    now: Timestamp,
    // The last window that has given its result, while some do.
    closed: (i64, KeyBytes),
    // The windows that are left to give a result early.
    giving: VecDeque<KeyBytes>,
    can_reject: bool,
}

// The notes that are kept of rows: where a window ends, and how far event time had come when it changed.
const END: usize = 0;
const CHANGED: usize = 1;

impl SessionAggregate {
    /// The operator for rows with the columns of `input`; `clock` is what `now()` asks.
    ///
    /// # Errors
    /// There is no column that windows last until, or it is no timestamp; two columns of the results have one name.
    pub fn new(
        input: &SchemaRef,
        windows: OwnWindows,
        emit: Emit,
        keys: KeyColumns,
        computed: impl Into<Computed>,
        clock: Clock,
    ) -> Result<Self, ExprError> {
        let until = match &windows.span {
            Span::Until(column) => Some(time_column(input, column)?),
            Span::Gap(_) => None,
        };
        let early = Early::new(emit);
        let notes: &[Note] = if early.is_noted() { &[Note::Highest, Note::Highest] } else { &[Note::Highest] };
        let grouped = Grouped::new(input, (keys, Some("start")), computed.into(), notes, clock)?;
        let may_be_null = until.is_some_and(|until| input.field(until).is_nullable());
        let can_reject = may_be_null || grouped.can_reject();
        Ok(SessionAggregate {
            spans: Spans::new(micros(windows.allowed_lateness)),
            windows,
            until,
            early,
            pane: Pane::new(&grouped.codec),
            grouped,
            now: Timestamp::MIN,
            closed: (i64::MIN, KeyBytes::default()),
            giving: VecDeque::new(),
            can_reject,
        })
    }

    /// The columns of the results.
    pub fn schema(&self) -> &SchemaRef {
        self.grouped.schema()
    }

    /// Where the windows of rows end, by themselves.
    fn ends(&self, batch: &Batch<RecordBatch>) -> Int64Array {
        let times = batch.times().iter().map(|time| time.as_micros());
        let until = self
            .until
            .and_then(|until| batch.rows().columns().get(until)?.as_primitive_opt::<TimestampMicrosecondType>());
        match (until, &self.windows.span) {
            (Some(until), _) => {
                times.zip(until.values()).map(|(time, until)| time.max(*until).saturating_add(1)).collect()
            }
            (None, Span::Gap(gap)) => times.map(|time| time.saturating_add(micros(*gap))).collect(),
            (None, Span::Until(_)) => times.map(|time| time.saturating_add(1)).collect(),
        }
    }

    /// The results of some windows as they are now, in order.
    fn results_of(&mut self, names: &[KeyBytes]) -> Result<Outcome> {
        let together = self.grouped.of_names(&mut self.pane, names)?;
        let starts = self.grouped.codec.columns(&together.names)?.pop();
        let starts = starts.and_then(|starts| starts.as_primitive_opt::<Int64Type>().cloned());
        let starts = starts.ok_or_else(|| Fault::bug("a window has no beginning"))?;
        let ends = together.note(END)?;
        self.grouped.rows(together.between(starts, ends).by_end()?, Timestamp::MIN)
    }

    /// Takes rows into their windows, which `changes` tells.
    fn take_in(&mut self, mut ready: Ready, ends: Int64Array, changes: &Changes) -> Result {
        let count = ready.batch.len();
        let rows: Vec<u32> = (0..).zip(&changes.of_row).filter(|(_, of)| of.is_some()).map(|(row, _)| row).collect();
        let starts: Int64Array = (0..count).map(|row| Some(changes.start_of(row).unwrap_or_default())).collect();
        let named: Vec<ArrayRef> = ready.keys.iter().cloned().chain([Arc::new(starts) as ArrayRef]).collect();
        let names = self.grouped.codec.keys(&named)?;
        let mut notes = vec![ends];
        if self.early.is_noted() {
            notes.push(Int64Array::from_value(self.now.as_micros(), count));
        }
        let columns = self.grouped.columns(&mut ready, notes)?;
        let arriving = Arriving { keys: &names, rows: &rows, columns: &columns, all: rows.len() == count };
        self.pane.take_in(&self.grouped.kept, &arriving)
    }

    /// Which of the windows that have changed give their results at once: those that are closed, and others if that was asked
    /// for.
    fn at_once(&mut self, changed: Vec<Window>) -> Vec<KeyBytes> {
        let now = self.now.as_micros();
        let (closed, open): (Vec<_>, Vec<_>) = changed.into_iter().partition(|window| window.end <= now);
        let early = self.early.note(open.into_iter().map(|window| window.name));
        closed.into_iter().map(|window| window.name).chain(early).collect()
    }

    /// Gives the results of the windows that are left.
    fn give(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        while !self.giving.is_empty() {
            let names: Vec<KeyBytes> = self.giving.drain(..self.giving.len().min(RESULTS)).collect();
            let results = self.results_of(&names)?;
            results.send(out);
            if !self.giving.is_empty() && !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        Ok(Turn::Done)
    }

    /// In the order in which results come.
    fn give_in_order(&mut self, names: impl IntoIterator<Item = KeyBytes>) {
        let names = names.into_iter().filter_map(|name| Some((self.spans.end_of(&name)?, name)));
        let names: BTreeSet<(i64, KeyBytes)> = names.collect();
        self.giving = names.into_iter().map(|(_, name)| name).collect();
    }
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

/// The place of a column of timestamps.
fn time_column(input: &SchemaRef, column: &str) -> Result<usize, ExprError> {
    let Ok(place) = input.index_of(column) else {
        let names: Vec<&str> = input.fields().iter().map(|field| field.name().as_str()).collect();
        let error = ExprError::new(format!("there is no column `{column}`")).within(0..column.len());
        return Err(error.help(did_you_mean(column, "columns", names)));
    };
    let data_type = input.field(place).data_type();
    if data_type != &timestamp() {
        let what = format!("column `{column}` is {}, and must be a timestamp", describe_type(data_type));
        let help = "declare it as `timestamp`, or as `timestamp(ms)` where it is a number of milliseconds";
        return Err(ExprError::new(what).within(0..column.len()).help(help.to_owned()));
    }
    Ok(place)
}

impl Operator for SessionAggregate {
    type In = RecordBatch;
    type Out = RecordBatch;

    fn on_batch(&mut self, batch: Batch<RecordBatch>, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let batch = match self.until {
            Some(until) => with_times(batch, until, out)?,
            None => batch,
        };
        let ready = self.grouped.ready(batch, out)?;
        let keys = self.grouped.results.key_bytes(&ready.keys)?;
        let (ends, mut changes, now) = (self.ends(&ready.batch), Changes::default(), self.now.as_micros());
        for (row, (time, end)) in ready.batch.times().iter().zip(ends.values()).enumerate() {
            self.spans.take(keys.get(row), (time.as_micros(), *end), now, &mut changes);
        }
        let late = changes.of_row.iter().enumerate().filter(|(_, of)| of.is_none()).map(|(row, _)| row).collect();
        refuse_late(&ready.batch, late, self.now, out)?;
        let changed: Vec<Window> = self.spans.settle(&changes).into_iter().flatten().collect();
        self.pane.rename(&self.grouped.kept, changed.iter().map(|window| (&window.name, window.made_of.as_slice())))?;
        self.take_in(ready, ends, &changes)?;
        let at_once = self.at_once(changed);
        self.give_in_order(at_once);
        self.give(out)
    }

    fn on_more(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        self.give(out)
    }

    fn on_watermark(&mut self, now: Timestamp, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        let now = now.max(self.now);
        // Those that ended before have given their results.
        self.closed =
            std::mem::take(&mut self.closed).max((self.now.as_micros().saturating_add(1), KeyBytes::default()));
        loop {
            let ended = self.spans.ended(&self.closed, now.as_micros(), RESULTS);
            let Some(last) = ended.last().cloned() else { break };
            let names: Vec<KeyBytes> = ended.into_iter().map(|(_, name)| name).collect();
            let results = self.results_of(&names)?;
            results.send(out);
            self.closed = last;
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        loop {
            let gone = self.spans.gone(now.as_micros(), RESULTS);
            if gone.is_empty() {
                break;
            }
            self.pane.remove(&gone)?;
            if !out.has_room() {
                return Ok(Turn::Again);
            }
        }
        let spans = &self.spans;
        let closed = |name: &KeyBytes| spans.end_of(name).is_none_or(|end| end <= now.as_micros());
        if let Some(changed) = self.early.due(self.now, now, closed) {
            self.give_in_order(changed);
        }
        if self.give(out)? == Turn::Again {
            return Ok(Turn::Again);
        }
        self.now = now;
        Ok(Turn::Done)
    }

    fn on_end(&mut self, out: &mut Outbox<'_, RecordBatch>) -> Result<Turn> {
        self.on_watermark(Timestamp::MAX, out)
    }

    fn state(&mut self, visit: &mut StateVisitor<'_>) -> Result {
        let windows = if self.until.is_some() { "until a time" } else { "session" };
        visit.shape(&self.grouped.shape(windows, self.early.is_noted()))?;
        visit.time("now", &mut self.now)?;
        self.early.state(visit)?;
        let codec = &self.grouped.codec;
        if !visit.piece("windows", &mut self.pane, || Pane::new(codec))? {
            return Ok(());
        }
        self.spans = Spans::new(micros(self.windows.allowed_lateness));
        for (name, end) in self.pane.noted(&self.grouped.kept, END)? {
            self.spans.restore(&name, end.as_micros());
        }
        if self.early.is_noted() {
            for (name, at) in self.pane.noted(&self.grouped.kept, CHANGED)? {
                self.early.restore(name, at);
            }
        }
        Ok(())
    }

    fn sides(&self) -> Vec<PortType> {
        vec![rejected_port(1, self.can_reject), late::port()]
    }
}

/// The rows that tell a time in a column; the others are rejected.
fn with_times(
    batch: Batch<RecordBatch>,
    column: usize,
    out: &mut Outbox<'_, RecordBatch>,
) -> Result<Batch<RecordBatch>> {
    let times = batch.rows().column(column);
    if times.null_count() == 0 {
        return Ok(batch);
    }
    let stay: BooleanArray = is_not_null(times).map_err(|error| Fault::bug("cannot look at nulls").because(error))?;
    let name = batch.rows().schema_ref().field(column).name().clone();
    let cause = |row| (row, Cause::operator(format!("`{name}` is null, so it is not known how long it counts")));
    let nulls = (0..batch.len()).filter(|row| !stay.value(*row)).map(cause);
    out.send_port(1, rejected_rows(batch.rows(), batch.times(), batch.origins(), nulls)?);
    keep(batch, &stay)
}

impl fmt::Debug for SessionAggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionAggregate({})", self.windows)
    }
}
