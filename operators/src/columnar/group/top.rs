//! [`Top`]: the best rows of each group.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, DynComparator, ListArray, RecordBatch, StructArray, UInt32Array, make_comparator,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{SortOptions, concat_batches, take_record_batch};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion_common::{DataFusionError, Result as DfResult};
use datafusion_expr::{EmitTo, GroupsAccumulator};

use crate::columnar::schema::describe_type;
use crate::columnar::{ExprError, Expression};
use crate::{Fault, Result};

/// The best rows of each group: so many, in an order that SQL expressions say, `price desc`. Which of rows that are equal in
/// that order are the better ones, their times and then their columns say, so that it does not depend on how they come.
///
/// ```text
/// rows (tumbling, 10)    a: 5   b: 9   a: 9   c: 1 |
/// watermark                                        | 10
/// the best by n desc                               | b: 9
/// with ties                                        | b: 9   a: 9
/// ```
#[derive(Clone, Debug)]
pub struct Top {
    rows: usize,
    ties: bool,
    by: Vec<Expression>,
    directions: Arc<[SortOptions]>,
    /// What the rows are.
    row: SchemaRef,
    /// What is kept of a row: what it is ordered by, its columns, and its time.
    kept: SchemaRef,
}

impl Top {
    /// The best `rows` rows of these columns by `by`: expressions with `asc` or `desc` behind each, and commas between. Nulls
    /// are the worst.
    ///
    /// # Errors
    /// What is wrong with `by`.
    pub fn new(input: &SchemaRef, rows: usize, by: &str) -> Result<Self, ExprError> {
        let (mut expressions, mut directions) = (Vec::new(), Vec::new());
        for (start, part) in parts(by) {
            let (sql, descending) = direction(part);
            let indent = start + (part.len() - part.trim_start().len());
            let expression = Expression::compile(sql.trim(), input).map_err(|mut error| {
                error.within = error.within.map(|within| within.start + indent..within.end + indent);
                error
            })?;
            let field = SortField::new(expression.data_type().clone());
            if !RowConverter::supports_fields(&[field]) || expression.data_type().is_nested() {
                let what = format!("rows have no order by {}", describe_type(expression.data_type()));
                return Err(ExprError::new(what).within(indent..indent + sql.trim().len()));
            }
            expressions.push(expression);
            directions.push(SortOptions { descending, nulls_first: false });
        }
        let by = expressions.iter().enumerate().map(|(n, expression)| expression.field(&format!("by{n}")));
        let columns =
            input.fields().iter().enumerate().map(|(n, field)| field.as_ref().clone().with_name(format!("row{n}")));
        let time = Field::new("time", DataType::Int64, false);
        let all =
            by.chain(columns).map(|field| field.with_nullable(true).with_metadata(Default::default())).chain([time]);
        let kept = Arc::new(Schema::new(all.collect::<Vec<_>>()));
        let (directions, row) = (directions.into(), SchemaRef::clone(input));
        Ok(Top { rows: rows.max(1), ties: false, by: expressions, directions, row, kept })
    }

    /// Also gives the rows that are equal in that order to the last one that fits.
    #[must_use]
    pub fn ties(mut self) -> Self {
        self.ties = true;
        self
    }

    /// The same of another number of rows.
    #[cfg(test)]
    pub(super) fn of(self, rows: usize) -> Self {
        Top { rows, ..self }
    }

    /// What is kept of rows, in words.
    pub(super) fn words(&self) -> String {
        let direction = |options: &SortOptions| if options.descending { "desc" } else { "asc" };
        let by = self.by.iter().zip(self.directions.iter());
        let by: Vec<String> = by.map(|(by, options)| format!("{} {}", by.sql(), direction(options))).collect();
        let columns: Vec<&str> = self.row.fields().iter().map(|field| field.name().as_str()).collect();
        let ties = if self.ties { " with ties" } else { "" };
        format!("the best {} by {}{ties}, of {}", self.rows, by.join(", "), columns.join(", "))
    }

    pub(super) fn inputs(&self) -> &[Expression] {
        &self.by
    }

    /// The columns of the rows.
    pub(super) fn row(&self) -> &SchemaRef {
        &self.row
    }

    /// The rows that are kept of a group.
    pub(super) fn state_field(&self) -> FieldRef {
        Arc::new(Field::new("rows", DataType::List(self.item()), true))
    }

    fn item(&self) -> FieldRef {
        Arc::new(Field::new_list_field(DataType::Struct(self.kept.fields().clone()), true))
    }

    pub(super) fn accumulator(&self) -> Result<Box<dyn GroupsAccumulator>> {
        let fields = self.by.iter().zip(self.directions.iter());
        let fields = fields.map(|(by, direction)| SortField::new_with_options(by.data_type().clone(), *direction));
        let order = RowConverter::new(fields.collect());
        let order = order.map_err(|error| Fault::bug("rows have no such order").because(error))?;
        Ok(Box::new(Best { top: self.clone(), order, chunks: Vec::new(), arrived: 0, kept: 0, total: 0 }))
    }

    /// The rows of all groups, with the group of each.
    pub(super) fn outputs(&self, given: &[ArrayRef]) -> Result<(UInt32Array, Vec<ArrayRef>)> {
        let lists = given.first().and_then(|column| column.as_list_opt::<i32>());
        let (groups, rows) = lists.and_then(flattened).ok_or_else(|| Fault::bug("the best rows are no lists"))?;
        let columns = rows.columns().iter().skip(self.by.len()).take(self.row.fields().len());
        Ok((UInt32Array::from(groups), columns.cloned().collect()))
    }
}

/// The parts between commas that are in no brackets, with the bytes at which they begin.
fn parts(text: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut open, mut quote, mut start) = (Vec::new(), 0, None, 0);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(end), c) if c == end => quote = None,
            (Some(_), _) => continue,
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[') => open += 1,
            (None, ')' | ']') => open -= 1,
            (None, ',') if open == 0 => {
                parts.push((start, text.get(start..at).unwrap_or_default()));
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push((start, text.get(start..).unwrap_or_default()));
    parts
}

/// An expression without the word for its direction, and whether that is `desc`.
fn direction(part: &str) -> (&str, bool) {
    let trimmed = part.trim_end();
    let word = trimmed.rsplit(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
    let rest = trimmed.get(..trimmed.len() - word.len()).unwrap_or_default();
    match word.to_ascii_lowercase().as_str() {
        "desc" if !rest.trim().is_empty() => (rest, true),
        "asc" if !rest.trim().is_empty() => (rest, false),
        // No word, or nothing but one: then it is the name of a column.
        _ => (part, false),
    }
}

/// The items of lists of structs, and the number of the list of each.
pub(super) fn flattened(lists: &ListArray) -> Option<(Vec<u32>, StructArray)> {
    let (offsets, mut numbers) = (lists.value_offsets(), Vec::new());
    for (number, pair) in (0..).zip(offsets.windows(2)) {
        let [from, to] = pair else { continue };
        numbers.extend(std::iter::repeat_n(number, usize::try_from(to - from).unwrap_or(0)));
    }
    let first = offsets.first().and_then(|first| usize::try_from(*first).ok())?;
    let items = lists.values().as_struct_opt()?.slice(first, numbers.len());
    Some((numbers, items))
}

/// The best rows of groups so far, and some that came since.
struct Best {
    top: Top,
    order: RowConverter,
    chunks: Vec<(RecordBatch, Vec<usize>)>,
    arrived: usize,
    kept: usize,
    total: usize,
}

/// So many rows may wait before they are looked through.
const FEW: usize = 8 * 1024;

impl Best {
    fn add(&mut self, rows: RecordBatch, groups: Vec<usize>, total: usize) -> DfResult<()> {
        self.arrived += groups.len();
        self.total = self.total.max(total);
        self.chunks.push((rows, groups));
        // A group whose rows are all equal would else be looked through again and again.
        if self.arrived > FEW + self.kept {
            self.look_through()?;
        }
        Ok(())
    }

    /// Keeps the best rows only, group by group and the best ones first.
    fn look_through(&mut self) -> DfResult<()> {
        let (chunks, groups): (Vec<_>, Vec<_>) = std::mem::take(&mut self.chunks).into_iter().unzip();
        let (rows, groups) = (concat_batches(&self.top.kept, &chunks)?, groups.concat());
        let order = self.order.convert_columns(rows.columns().get(..self.top.by.len()).unwrap_or_default())?;
        let rest = rows.columns().iter().skip(self.top.by.len()).rev();
        // Text is only compared where rows are equal otherwise. What has no order is passed over.
        let rest: Vec<DynComparator> =
            rest.filter_map(|column| make_comparator(column, column, SortOptions::default()).ok()).collect();
        let mut all: Vec<u32> = (0..u32::try_from(groups.len()).unwrap_or(u32::MAX)).collect();
        let group = |row: u32| groups.get(row as usize).copied().unwrap_or_default();
        all.sort_by(|a, b| {
            let equal = group(*a).cmp(&group(*b)).then_with(|| by(&order, *a, *b));
            equal.then_with(|| {
                let mut compared = rest.iter().map(|compare| compare(*a as usize, *b as usize));
                compared.find(|ordering| *ordering != Ordering::Equal).unwrap_or(Ordering::Equal)
            })
        });
        let (mut best, mut rank) = (Vec::new(), 0);
        for (at, row) in all.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|at| all.get(at)).filter(|before| group(**before) == group(*row));
            rank = if before.is_some() { rank + 1 } else { 0 };
            // Equal to the last one that was taken, as what stands between would be.
            let is_tied = || {
                let last: Option<&u32> = best.last();
                self.top.ties && last.is_some_and(|last| group(*last) == group(*row) && by(&order, *last, *row).is_eq())
            };
            if rank < self.top.rows || is_tied() {
                best.push(*row);
            }
        }
        let groups: Vec<usize> = best.iter().map(|row| group(*row)).collect();
        (self.arrived, self.kept) = (0, groups.len());
        let rows = take_record_batch(&rows, &UInt32Array::from(best))?;
        // They were kept before, and count as no news.
        self.chunks.push((rows, groups));
        Ok(())
    }

    fn given(&mut self, emit: EmitTo) -> DfResult<ListArray> {
        if emit != EmitTo::All {
            return Err(DataFusionError::Internal("the best rows are given all at once".to_owned()));
        }
        self.look_through()?;
        let total = std::mem::take(&mut self.total);
        let Some((rows, groups)) = self.chunks.pop() else {
            return Err(DataFusionError::Internal("there are no best rows".to_owned()));
        };
        let mut lengths = vec![0_usize; total];
        for group in groups {
            if let Some(length) = lengths.get_mut(group) {
                *length += 1;
            }
        }
        self.kept = 0;
        let items = StructArray::try_new(self.top.kept.fields().clone(), rows.columns().to_vec(), None)?;
        Ok(ListArray::try_new(self.top.item(), OffsetBuffer::from_lengths(lengths), Arc::new(items), None)?)
    }
}

fn by(order: &Rows, a: u32, b: u32) -> Ordering {
    order.row(a as usize).cmp(&order.row(b as usize))
}

impl GroupsAccumulator for Best {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        _: Option<&BooleanArray>,
        total: usize,
    ) -> DfResult<()> {
        let rows = RecordBatch::try_new(SchemaRef::clone(&self.top.kept), values.to_vec())?;
        self.add(rows, groups.to_vec(), total)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> DfResult<()> {
        let lists = values.first().and_then(|column| column.as_list_opt::<i32>()).and_then(flattened);
        let (numbers, items) = lists.ok_or_else(|| DataFusionError::Internal("no lists of rows".to_owned()))?;
        let groups = numbers.iter().filter_map(|number| groups.get(*number as usize).copied()).collect();
        let rows = RecordBatch::try_new(SchemaRef::clone(&self.top.kept), items.columns().to_vec())?;
        self.add(rows, groups, total)
    }

    fn evaluate(&mut self, emit: EmitTo) -> DfResult<ArrayRef> {
        Ok(Arc::new(self.given(emit)?))
    }

    fn state(&mut self, emit: EmitTo) -> DfResult<Vec<ArrayRef>> {
        Ok(vec![Arc::new(self.given(emit)?)])
    }

    fn convert_to_state(&self, _: &[ArrayRef], _: Option<&BooleanArray>) -> DfResult<Vec<ArrayRef>> {
        Err(DataFusionError::NotImplemented("rows become best ones by being taken in".to_owned()))
    }

    fn size(&self) -> usize {
        self.chunks.iter().map(|(rows, groups)| rows.get_array_memory_size() + size_of_val(groups.as_slice())).sum()
    }
}
