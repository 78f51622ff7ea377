//! [`Spans`]: the open windows of each key where rows say how long they last, and which of them a row belongs to.

use std::collections::{BTreeSet, HashMap, VecDeque};

use foldhash::fast::FixedState;

use super::codec::{KeyBytes, with_number, without_number};

/// A window of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: i64,
    end: i64,
    /// Its number among those that the rows in hand have changed.
    number: Option<usize>,
}

/// The windows of all keys. What is kept for one is found under its key and where it begins: its *name*.
pub(super) struct Spans {
    // Of each key, in the order of time; no two of them overlap.
    of_key: HashMap<KeyBytes, VecDeque<Span>, FixedState>,
    /// The windows by their ends and names.
    due: BTreeSet<(i64, KeyBytes)>,
    lateness: i64,
}

/// What some rows make of windows.
#[derive(Default)]
pub(super) struct Changes {
    /// Of each row the number of its window; none if it is late.
    pub(super) of_row: Vec<Option<usize>>,
    windows: Vec<Changed>,
}

/// A window that rows have changed, or that has become a part of another.
struct Changed {
    key: KeyBytes,
    start: i64,
    end: i64,
    /// The one that it has become a part of.
    part_of: Option<usize>,
    /// Where the windows began that are a part of it and were there before.
    before: Vec<i64>,
}

/// A window as it is after some rows.
pub(super) struct Window {
    pub(super) name: KeyBytes,
    pub(super) end: i64,
    /// The names of those that it was made of, unless it goes on under its name.
    pub(super) made_of: Vec<KeyBytes>,
}

impl Spans {
    pub(super) fn new(lateness: i64) -> Self {
        Spans { of_key: HashMap::with_hasher(FixedState::with_seed(0)), due: BTreeSet::new(), lateness }
    }

    /// Takes a row in that by itself is in the window `start..end`; windows that overlap become one. It is late if that is
    /// gone already.
    pub(super) fn take(&mut self, key: &[u8], (start, end): (i64, i64), now: i64, changes: &mut Changes) {
        static NONE: VecDeque<Span> = VecDeque::new();
        let known = self.of_key.get(key).unwrap_or(&NONE);
        let first = known.partition_point(|span| span.end <= start);
        let joined = first..first + known.range(first..).take_while(|span| span.start < end).count();
        let parts = || known.range(joined.clone());
        let whole_start = parts().next().map_or(start, |span| span.start.min(start));
        let whole_end = parts().map(|span| span.end).fold(end, i64::max);
        if whole_end.saturating_add(self.lateness) <= now {
            changes.of_row.push(None);
            return;
        }
        let number = parts().find_map(|span| span.number).unwrap_or(changes.windows.len());
        if number == changes.windows.len() {
            let key = KeyBytes::from(key);
            changes.windows.push(Changed { key, start, end, part_of: None, before: Vec::new() });
        }
        let mut before = Vec::new();
        for span in parts() {
            match span.number {
                Some(other) if other != number => {
                    let Some(other) = changes.windows.get_mut(other) else { continue };
                    other.part_of = Some(number);
                    before.append(&mut other.before);
                }
                Some(_) => {}
                None => {
                    before.push(span.start);
                    self.due.remove(&(span.end, with_number(key, span.start)));
                }
            }
        }
        if let Some(window) = changes.windows.get_mut(number) {
            (window.start, window.end) = (whole_start, whole_end);
            window.before.append(&mut before);
        }
        let span = Span { start: whole_start, end: whole_end, number: Some(number) };
        match self.of_key.get_mut(key) {
            Some(spans) => {
                spans.drain(joined);
                spans.insert(first, span);
            }
            None => drop(self.of_key.insert(key.into(), VecDeque::from([span]))),
        }
        changes.of_row.push(Some(number));
    }

    /// The windows that rows have changed, by their numbers; nothing for those that have become a part of another.
    pub(super) fn settle(&mut self, changes: &Changes) -> Vec<Option<Window>> {
        let settled = changes.windows.iter().map(|window| {
            if window.part_of.is_some() {
                return None;
            }
            if let Some(spans) = self.of_key.get_mut(&window.key)
                && let Some(span) = place_of(spans, window.start).and_then(|place| spans.get_mut(place))
            {
                span.number = None;
            }
            let name = with_number(&window.key, window.start);
            self.due.insert((window.end, name.clone()));
            let goes_on = matches!(window.before.as_slice(), [start] if *start == window.start);
            let before = if goes_on { &[][..] } else { window.before.as_slice() };
            let made_of = before.iter().map(|start| with_number(&window.key, *start)).collect();
            Some(Window { name, end: window.end, made_of })
        });
        settled.collect()
    }

    /// A window is back that was saved.
    pub(super) fn restore(&mut self, name: &[u8], end: i64) {
        let (key, start) = without_number(name);
        let spans = self.of_key.entry(key.into()).or_default();
        let place = spans.partition_point(|span| span.start < start);
        spans.insert(place, Span { start, end, number: None });
        self.due.insert((end, name.into()));
    }

    /// The windows that end after `after`, and not after `now`: so many at most.
    pub(super) fn ended(&self, after: &(i64, KeyBytes), now: i64, most: usize) -> Vec<(i64, KeyBytes)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let ended = self.due.range((Excluded(after), Unbounded)).take_while(|(end, _)| *end <= now);
        ended.take(most).cloned().collect()
    }

    /// Takes the windows out that nothing can change any more: so many at most.
    pub(super) fn gone(&mut self, now: i64, most: usize) -> Vec<KeyBytes> {
        let mut gone = Vec::new();
        while gone.len() < most
            && self.due.first().is_some_and(|(end, _)| end.saturating_add(self.lateness) <= now)
            && let Some((_, name)) = self.due.pop_first()
        {
            let (key, start) = without_number(&name);
            if let Some(spans) = self.of_key.get_mut(key) {
                if let Some(place) = place_of(spans, start) {
                    spans.remove(place);
                }
                if spans.is_empty() {
                    self.of_key.remove(key);
                }
            }
            gone.push(name);
        }
        gone
    }

    /// Where a window ends.
    pub(super) fn end_of(&self, name: &[u8]) -> Option<i64> {
        let (key, start) = without_number(name);
        let spans = self.of_key.get(key)?;
        place_of(spans, start).and_then(|place| spans.get(place)).map(|span| span.end)
    }
}

/// The place of the window that begins at `start`.
fn place_of(spans: &VecDeque<Span>, start: i64) -> Option<usize> {
    spans.binary_search_by_key(&start, |span| span.start).ok()
}

impl Changes {
    /// The number of the window that a row is in, after all of them.
    pub(super) fn window_of(&self, row: usize) -> Option<usize> {
        let mut number = (*self.of_row.get(row)?)?;
        while let Some(whole) = self.windows.get(number).and_then(|window| window.part_of) {
            number = whole;
        }
        Some(number)
    }

    /// Where the window begins that a row is in, after all of them.
    pub(super) fn start_of(&self, row: usize) -> Option<i64> {
        self.windows.get(self.window_of(row)?).map(|window| window.start)
    }
}
