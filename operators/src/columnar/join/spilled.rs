//! A join whose keys do not all fit in memory: which go, and when they come back.

use std::collections::BTreeSet;

use arrow::array::{ArrayRef, RecordBatch};

use super::away::Back;
use super::keys::{Both, Held, Side};
use super::operator::Join;
use super::parked::Going;
use crate::columnar::group::KeyBytes;
use crate::{Fault, Result};

/// So many rows may come before it is looked whether they fit.
const OFTEN: usize = 4_096;

impl Join {
    /// Sees to it that what is held of some keys is in memory.
    pub(super) fn bring<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) -> Result {
        if self.away.len() == 0 {
            return Ok(());
        }
        let missing: BTreeSet<&[u8]> = keys.filter(|key| self.keys.find(key).is_none()).collect();
        let back = self.away.take(missing.into_iter().map(KeyBytes::from))?;
        self.come_back_with(back)
    }

    /// Holds what has come back.
    pub(super) fn come_back_with(&mut self, back: Back) -> Result {
        let Back { rows, keys } = back;
        for (side, rows) in [(Side::Left, rows.left), (Side::Right, rows.right)] {
            let Some((rows, marks)) = rows else { continue };
            self.grown += rows.num_rows();
            let first = self.stores.of_mut(side).push_back(rows.clone(), marks.clone());
            // When to come back to a key is known: a window that has given its rows must not give them again.
            self.find_again(side, first.., &rows, &marks, false)?;
        }
        for (key, due) in keys {
            if let Some((key, due)) = self.keys.find(&key).zip(due) {
                self.keys.come_back(key, due);
            }
        }
        Ok(())
    }

    /// Makes the next keys those that fire that are due next, if that is not after `now`; whether there are any.
    pub(super) fn next_due(&mut self, now: i64) -> Result<bool> {
        let firing = &mut self.firing;
        let here = if firing.waiting.is_empty() { self.keys.next_at(now) } else { Some(firing.at) };
        let away = self.away.next_at(now);
        let Some(at) = here.into_iter().chain(away).min() else { return Ok(false) };
        firing.at = at;
        let (back, last) = if away == Some(at) { self.away.take_due(at)? } else { Default::default() };
        self.come_back_with(back)?;
        let mut due = self.keys.due_at(at);
        if !self.firing.waiting.is_empty() {
            due.append(&mut self.firing.waiting);
            self.keys.sort(&mut due);
        }
        // Those behind the last that came have to wait for others.
        let behind = last.map_or(0, |last| due.partition_point(|key| self.keys.bytes(*key) > &*last));
        self.firing.keys = due.split_off(behind);
        self.firing.waiting = due;
        Ok(true)
    }

    /// Whether so many rows have come that some keys should perhaps go.
    pub(super) fn has_grown(&self) -> bool {
        self.grown >= OFTEN
    }

    /// About how many bytes of memory it takes.
    fn held(&self) -> usize {
        self.stores.left.memory() + self.stores.right.memory() + self.keys.held()
    }

    /// Lets the keys of the oldest rows go while more is held than fits. Nobody may hold numbers of rows or keys.
    pub(super) fn let_go(&mut self) -> Result {
        let is_busy = self.rest.is_some() || !self.firing.keys.is_empty();
        if is_busy || !self.picks.is_empty() || !self.products.is_empty() {
            return Ok(());
        }
        self.grown = 0;
        let held = self.held();
        let excess = self.away.excess(held);
        if excess == 0 {
            return Ok(());
        }
        // They may go, and come back when it is their turn.
        for key in std::mem::take(&mut self.firing.waiting) {
            self.keys.come_back(key, self.firing.at);
        }
        while self.held() > held - excess {
            let Both { left, right } = &self.stores;
            let side = if left.memory() >= right.memory() { Side::Left } else { Side::Right };
            if !self.oldest_go(side)? {
                break;
            }
            self.tidy()?;
        }
        self.keys.shrink();
        let held = self.held();
        self.away.excess(held);
        Ok(())
    }

    /// Lets the keys of the oldest rows of a side go; whether there were any.
    fn oldest_go(&mut self, side: Side) -> Result<bool> {
        let Some((rows, marks)) = self.stores.of(side).oldest() else { return Ok(false) };
        let names = self.codec.keys(&self.plan.sides.of(side).key_columns(&rows))?;
        let held = (0..rows.num_rows()).zip(marks.iter()).filter(|(_, marks)| **marks & super::store::HELD != 0);
        let numbers: BTreeSet<u32> = held.filter_map(|(row, _)| self.keys.find(names.get(row))).collect();
        if numbers.is_empty() {
            return Err(Fault::bug("rows of a join are in no list"));
        }
        let (mut going, mut of): (Vec<Going>, Both<Vec<u64>>) = (Vec::new(), Both::default());
        for number in numbers {
            let key = KeyBytes::from(self.keys.bytes(number));
            let Some((due, lists)) = self.keys.take(number) else { continue };
            let mut count = Both { left: 0, right: 0 };
            for side in [Side::Left, Side::Right] {
                let store = self.stores.of_mut(side);
                // In a list there may be rows that are gone.
                let held: Vec<u64> =
                    lists.of(side).iter().map(|held: &Held| held.number).filter(|row| store.is_held(*row)).collect();
                *count.of_mut(side) = held.len();
                of.of_mut(side).extend(held);
            }
            going.push(Going { key, due, rows: count });
        }
        let rows = Both { left: self.rows_of(Side::Left, &of.left)?, right: self.rows_of(Side::Right, &of.right)? };
        let parked = self.layout.park(going, &rows)?;
        self.away.put(parked)?;
        for side in [Side::Left, Side::Right] {
            of.of(side).iter().for_each(|row| self.stores.of_mut(side).forget(*row));
        }
        Ok(true)
    }

    /// The columns of rows, and what is known of each.
    fn rows_of(&self, side: Side, numbers: &[u64]) -> Result<(Vec<ArrayRef>, Vec<u8>)> {
        let (store, stored) = (self.stores.of(side), &self.plan.sides.of(side).stored);
        let marks = numbers.iter().map(|row| store.marks(*row)).collect();
        if numbers.is_empty() {
            return Ok((RecordBatch::new_empty(stored.clone()).columns().to_vec(), marks));
        }
        let all: Vec<usize> = (0..stored.fields().len()).collect();
        Ok((store.columns(numbers.iter().map(|row| Some(*row)), &all)?, marks))
    }
}
