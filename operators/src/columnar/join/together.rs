//! Which rows belong together: what a row finds when it comes, and what a key gives when event time has come so far.

use super::bound::{Bound, How, JoinKind, Latest};
use super::keys::{Both, Held, Key, List, Side, between};
use super::operator::Join;
use super::plan::Pick;

/// A row that comes.
pub(super) struct Arriving<'a> {
    pub(super) key: &'a [u8],
    pub(super) is_null: bool,
    pub(super) time: i64,
    /// The latest time of the right, where a column of the left holds it; before all others where that is null.
    pub(super) until: Option<i64>,
    pub(super) number: u64,
}

/// Rows of both sides of a window, each of which is to be given with each; or those of one side by themselves.
pub(super) struct Product {
    left: Vec<u64>,
    right: Vec<u64>,
    start: i64,
    time: i64,
    next: usize,
}

impl Product {
    /// Picks some of it; whether it was the rest.
    pub(super) fn picked(&mut self, picks: &mut Vec<Pick>, most: usize) -> bool {
        let all = self.left.len().max(1) * self.right.len().max(1);
        let end = all.min(self.next + most);
        let rights = self.right.len().max(1);
        picks.extend((self.next..end).map(|n| {
            let (left, right) = (self.left.get(n / rights).copied(), self.right.get(n % rights).copied());
            Pick { left, right, time: self.time, start: self.start }
        }));
        self.next = end;
        end == all
    }
}

/// Takes the rows out of a list that can be joined no more, where those that are first are the first to go.
fn take_gone(list: &mut List, at: i64) -> Vec<Held> {
    let mut gone = Vec::new();
    while let Some(held) = list.front().filter(|held| held.gone_at() <= at) {
        gone.push(*held);
        list.pop_front();
    }
    gone
}

/// The last time that a row of the other side can have to be joined with a row of this time, and of the left perhaps with a
/// time until which it waits; and when to come back to its key, when event time has come to `horizon`. Nothing if it is in no
/// window.
pub(super) fn lasts(bound: &Bound, horizon: i64, side: Side, time: i64, until: Option<i64>) -> Option<(i64, i64)> {
    let last = match (&bound.how, side) {
        (How::Within { latest: Latest::After(later), .. }, Side::Left) => time.saturating_add(*later),
        (How::Within { latest: Latest::Column(_), .. }, Side::Left) => until.unwrap_or(i64::MIN),
        (How::Within { earlier, .. }, Side::Right) => time.saturating_add(*earlier),
        (How::Unbounded { ttl }, _) => time.saturating_add(*ttl),
        (How::AsOf { .. }, _) => time,
        (How::Sessions { gap }, _) => return Some((time, time.saturating_add(*gap))),
        (How::Windows(windows), _) => {
            let pane = windows.pane_of(crate::Timestamp::from_micros(time))?;
            return Some((windows.last_end(pane).saturating_sub(1), windows.first_end(pane, horizon)));
        }
    };
    Some((last, Held { time, last, number: 0 }.gone_at()))
}

impl Join {
    /// The last time that a row of the other side can have, and when to come back to the key of a row; nothing if it is in
    /// no window.
    pub(super) fn lasts(&self, side: Side, row: &Arriving<'_>) -> Option<(i64, i64)> {
        lasts(&self.plan.bound, self.horizon(), side, row.time, row.until)
    }

    /// Takes a row in, and picks what it gives at once; false if it is late.
    pub(super) fn take_in(&mut self, side: Side, row: &Arriving<'_>) -> bool {
        let Some((last, due)) = self.lasts(side, row) else { return true };
        let (time, horizon) = (row.time, self.horizon());
        let is_late = match &self.plan.bound.how {
            How::Unbounded { .. } | How::Windows(_) => last < horizon,
            How::Sessions { gap } => due <= horizon && (row.is_null || !self.goes_on(row, *gap)),
            How::Within { .. } => time < horizon,
            How::AsOf { .. } => time < horizon && !(side == Side::Right && self.is_needed(row)),
        };
        if is_late {
            return false;
        }
        let may_be_given = *self.plan.kind.alone().of(side);
        if row.is_null && !may_be_given {
            return true;
        }
        let key = self.keys.number(row.key, row.is_null);
        let held = Held { time, last, number: row.number };
        let (mut stays, mut paired) = (true, false);
        match self.plan.bound.how {
            How::Within { .. } | How::Unbounded { .. } if !row.is_null => {
                paired = self.meet(side, key, held);
                stays = !(paired && side == Side::Left && !self.plan.kind.gives_right());
            }
            How::AsOf { .. } if side == Side::Right => self.replace(key, time),
            _ => {}
        }
        if !stays {
            self.keys.release(key);
            return true;
        }
        let store = self.stores.of_mut(side);
        store.hold(row.number);
        if paired && may_be_given {
            store.pair(row.number);
        }
        if let Some(key) = self.keys.get_mut(key) {
            key.insert(side, held, self.plan.tells_its_end(side));
        }
        self.keys.come_back(key, due);
        true
    }

    /// Picks the pairs of a row that comes and the rows of the other side that are near it in time; whether there are any.
    fn meet(&mut self, side: Side, key: u32, row: Held) -> bool {
        let (earlier, later) = match &self.plan.bound.how {
            How::Within { earlier, latest: Latest::After(later) } => (*earlier, Some(*later)),
            How::Within { earlier, latest: Latest::Column(_) } => (*earlier, None),
            How::Unbounded { ttl } => (*ttl, Some(*ttl)),
            _ => return false,
        };
        let (kind, alone) = (self.plan.kind, self.plan.kind.alone());
        // What has gone out as a watermark holds for pairs as well.
        let horizon = self.horizon();
        let Some(Key { lists, .. }) = self.keys.get_mut(key) else { return false };
        let near = match side {
            Side::Left => between(&lists.right, row.time.saturating_sub(earlier), row.last),
            Side::Right => {
                let from = later.map_or(i64::MIN, |later| row.time.saturating_sub(later));
                between(&lists.left, from, row.time.saturating_add(earlier))
            }
        };
        let pick = |left: Held, right: Option<Held>, time: i64| Pick {
            left: Some(left.number),
            right: right.map(|right| right.number),
            time: time.max(horizon),
            start: 0,
        };
        match (side, kind.gives_right()) {
            (Side::Left, true) => {
                for right in lists.right.range(near.clone()) {
                    self.picks.push(pick(row, Some(*right), row.time.max(right.time)));
                    if alone.right {
                        self.stores.right.pair(right.number);
                    }
                }
                !near.is_empty()
            }
            (Side::Right, true) => {
                let mut any = false;
                for left in lists.left.range(near).filter(|left| left.last >= row.time) {
                    any = true;
                    self.picks.push(pick(*left, Some(row), row.time.max(left.time)));
                    if alone.left {
                        self.stores.left.pair(left.number);
                    }
                }
                any
            }
            (Side::Left, false) => {
                let first = lists.right.range(near).next();
                if let Some(right) = first.filter(|_| kind == JoinKind::Semi) {
                    self.picks.push(pick(row, None, row.time.max(right.time)));
                }
                first.is_some()
            }
            (Side::Right, false) => {
                // A row of the left that has a partner is done.
                let mut behind = lists.left.split_off(near.start);
                let rest = behind.split_off(near.len());
                for left in behind {
                    if left.last < row.time {
                        lists.left.push_back(left);
                        continue;
                    }
                    if kind == JoinKind::Semi {
                        self.picks.push(pick(left, None, row.time.max(left.time)));
                    }
                    self.stores.left.forget(left.number);
                }
                lists.left.extend(rest);
                false
            }
        }
    }

    /// Lets go of the version of the same time.
    fn replace(&mut self, key: u32, time: i64) {
        let Some(key) = self.keys.get_mut(key) else { return };
        for before in key.lists.right.drain(between(&key.lists.right, time, time)) {
            self.stores.right.forget(before.number);
        }
    }

    /// Whether a row behind the watermark is a version that rows of the left may still need: until now there is no newer one
    /// that is valid.
    fn is_needed(&mut self, row: &Arriving<'_>) -> bool {
        let horizon = self.horizon();
        if matches!(self.plan.bound.how, How::AsOf { ttl: Some(ttl) } if row.time.saturating_add(ttl) < horizon) {
            return false;
        }
        let number = self.keys.number(row.key, row.is_null);
        let Some(key) = self.keys.get_mut(number) else { return false };
        let is_needed = !row.is_null && between(&key.lists.right, row.time.saturating_add(1), horizon).is_empty();
        self.keys.release(number);
        is_needed
    }

    /// Whether a row belongs to a session that is still open.
    fn goes_on(&mut self, row: &Arriving<'_>, gap: i64) -> bool {
        let number = self.keys.number(row.key, row.is_null);
        let Some(Key { lists, .. }) = self.keys.get_mut(number) else { return false };
        let near = |list: &List| {
            let near = between(list, row.time.saturating_sub(gap - 1), row.time.saturating_add(gap - 1));
            !near.is_empty()
        };
        let goes_on = near(&lists.left) || near(&lists.right);
        self.keys.release(number);
        goes_on
    }

    /// Picks what a key gives at `at`, and forgets what can be joined no more.
    pub(super) fn fire(&mut self, at: i64, number: u32) {
        match self.plan.bound.how {
            How::Within { .. } | How::Unbounded { .. } => self.fire_alone(at, number),
            How::Windows(_) => self.fire_window(at, number),
            How::Sessions { gap } => self.fire_sessions(at, number, gap),
            How::AsOf { ttl } => self.fire_versions(at, number, ttl),
        }
        self.keys.release(number);
    }

    /// Rows that will have no partner.
    fn fire_alone(&mut self, at: i64, number: u32) {
        let alone = self.plan.kind.alone();
        let mut due = None::<i64>;
        for side in [Side::Left, Side::Right] {
            let Some(key) = self.keys.get_mut(number) else { return };
            let store = self.stores.of_mut(side);
            let (gone, next) = match self.plan.tells_its_end(side) {
                true => (key.take_ended(at, |number| store.is_held(number)), key.next_end()),
                false => {
                    let list = key.lists.of_mut(side);
                    (take_gone(list, at), list.front().map(Held::gone_at))
                }
            };
            due = due.into_iter().chain(next).min();
            for held in gone {
                if *alone.of(side) && !store.is_paired(held.number) {
                    self.picks.push(by_itself(side, held, held.last.max(held.time)));
                }
                store.forget(held.number);
            }
        }
        self.come_back(number, at, due);
    }

    fn fire_window(&mut self, at: i64, number: u32) {
        let How::Windows(windows) = self.plan.bound.how else { return };
        let start = at.saturating_sub(windows.size());
        let Some(key) = self.keys.get_mut(number) else { return };
        let in_window =
            |list: &List| list.range(between(list, start, at.saturating_sub(1))).map(|held| held.number).collect();
        let rows = Both { left: in_window(&key.lists.left), right: in_window(&key.lists.right) };
        let is_null = key.is_null;
        let gone = [Side::Left, Side::Right].map(|side| (side, take_gone(key.lists.of_mut(side), at)));
        let firsts = [&key.lists.left, &key.lists.right].map(|list| list.front().map(|held| held.time));
        let next = firsts.into_iter().flatten().map(|time| windows.first_end(time, at)).min();
        for (side, gone) in gone {
            gone.into_iter().for_each(|held| self.stores.of_mut(side).forget(held.number));
        }
        self.give_window(rows, is_null, start, at);
        self.come_back(number, at, next);
    }

    fn fire_sessions(&mut self, at: i64, number: u32, gap: i64) {
        let Some(key) = self.keys.get_mut(number) else { return };
        let is_null = key.is_null;
        let mut next = None;
        let mut closed = Vec::new();
        loop {
            let first = |list: &List, from: usize| list.get(from).map(|held| held.time);
            let Both { left, right } = &key.lists;
            let Some(start) = first(left, 0).into_iter().chain(first(right, 0)).min() else { break };
            let followed = key.session_until(start).filter(|_| !is_null);
            let upto = |list: &List| followed.map_or(0, |last| list.partition_point(|held| held.time <= last));
            let (mut last, mut lefts, mut rights) = (followed.unwrap_or(start), upto(left), upto(right));
            // Rows of both sides in the order of time, as long as they follow each other; one without a key is alone.
            while let Some(time) = first(left, lefts).into_iter().chain(first(right, rights)).min()
                && time.saturating_sub(last) < gap
                && (!is_null || lefts + rights == 0)
            {
                last = time;
                let of_left = first(left, lefts) == Some(time);
                (lefts, rights) = (lefts + usize::from(of_left), rights + usize::from(!of_left));
            }
            let end = last.saturating_add(gap);
            if end > at {
                key.follow_session(start, last);
                next = Some(end);
                break;
            }
            let Both { left, right } = &mut key.lists;
            let rows: Both<Vec<Held>> =
                Both { left: left.drain(..lefts).collect(), right: right.drain(..rights).collect() };
            closed.push((start, end, rows));
        }
        for (start, end, rows) in closed.into_iter().rev() {
            rows.left.iter().for_each(|held| self.stores.left.forget(held.number));
            rows.right.iter().for_each(|held| self.stores.right.forget(held.number));
            let numbers = |rows: Vec<Held>| rows.into_iter().map(|held| held.number).collect();
            self.give_window(Both { left: numbers(rows.left), right: numbers(rows.right) }, is_null, start, end);
        }
        self.come_back(number, at, next);
    }

    /// What a window gives of the rows of a key.
    fn give_window(&mut self, rows: Both<Vec<u64>>, is_null: bool, start: i64, end: i64) {
        let Both { left, right } = rows;
        let (kind, time) = (self.plan.kind, end.saturating_sub(1));
        let product = |left, right| Product { left, right, start, time, next: 0 };
        let (none, alone) = (Vec::new(), kind.alone());
        if left.is_empty() || right.is_empty() || is_null {
            // The last is given first.
            if alone.right && !right.is_empty() {
                self.products.push(product(none.clone(), right));
            }
            if alone.left && !left.is_empty() {
                self.products.push(product(left, none));
            }
            return;
        }
        match kind {
            JoinKind::Anti => {}
            JoinKind::Semi => self.products.push(product(left, none)),
            _ => self.products.push(product(left, right)),
        }
    }

    /// Rows of the left with the versions of their times.
    fn fire_versions(&mut self, at: i64, number: u32, ttl: Option<i64>) {
        let kind = self.plan.kind;
        let ends = |version: &Held| ttl.map_or(i64::MAX, |ttl| version.time.saturating_add(ttl));
        let Some(Key { lists: Both { left, right }, is_null, .. }) = self.keys.get_mut(number) else { return };
        while let Some(row) = left.front().copied().filter(|row| row.time < at) {
            left.pop_front();
            let before = right.partition_point(|version| version.time <= row.time);
            let version = before.checked_sub(1).and_then(|place| right.get(place));
            let version = version.filter(|version| !*is_null && row.time <= ends(version));
            if version.is_some() || kind == JoinKind::Left {
                let right = version.map(|version| version.number);
                self.picks.push(Pick { left: Some(row.number), right, time: row.time, start: 0 });
            }
            self.stores.left.forget(row.number);
        }
        // Versions that a newer one has taken the place of, or that are not valid any more, as no row before `at` will come.
        while (right.get(1).is_some_and(|newer| newer.time < at) || right.front().is_some_and(|first| ends(first) < at))
            && let Some(version) = right.pop_front()
        {
            self.stores.right.forget(version.number);
        }
        let next = [left.front(), right.get(1)].into_iter().flatten().map(Held::gone_at);
        let end = right.front().map(ends).filter(|end| *end < i64::MAX).map(|end| end + 1);
        let next = next.chain(end).min();
        self.come_back(number, at, next);
    }

    /// Comes back to a key when that is due, which is behind `at` unless that is the end of time.
    fn come_back(&mut self, number: u32, at: i64, due: Option<i64>) {
        if let Some(due) = due.filter(|due| *due > at) {
            self.keys.come_back(number, due);
        }
    }
}

fn by_itself(side: Side, held: Held, time: i64) -> Pick {
    let number = Some(held.number);
    match side {
        Side::Left => Pick { left: number, right: None, time, start: 0 },
        Side::Right => Pick { left: None, right: number, time, start: 0 },
    }
}
