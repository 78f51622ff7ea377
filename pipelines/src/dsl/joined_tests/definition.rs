//! What joins give by their definitions: nested loops over the rows in the order in which they come, which know nothing of
//! batches, panes, timers or state.

use super::{Anti, Bounds, Full, Given, Inner, Left, Right, Row, Semi, Step, Verb};

/// A row as it came: its side, its time, and how far event time had come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Came {
    is_left: bool,
    time: i64,
    row: Row,
    now: i64,
}

pub(super) fn came(steps: &[Step]) -> Vec<Came> {
    let mut now = i64::MIN;
    let row = |step: &Step| match step {
        Step::Row { is_left, time, row } => Some(Came { is_left: *is_left, time: *time, row: *row, now }),
        Step::Watermark(time) => {
            now = now.max(*time);
            None
        }
    };
    steps.iter().filter_map(row).collect()
}

/// What comes of the rows of one key that are in one window.
fn of_window(verb: Verb, rows: &[Came], end: i64) -> Vec<Given> {
    let side = |is_left| rows.iter().filter(move |row| row.is_left == is_left).map(|row| row.row.1);
    let have_both = side(true).next().is_some() && side(false).next().is_some();
    let pairs = side(true).flat_map(|left| side(false).map(move |right| (end - 1, left, right)));
    let (lefts, rights) = (side(true).map(|left| (end - 1, left, 0)), side(false).map(|right| (end - 1, 0, right)));
    match (verb, have_both) {
        (Inner | Left | Right | Full, true) => pairs.collect(),
        (Semi, true) | (Left | Anti, false) => lefts.collect(),
        (Right, false) => rights.collect(),
        (Full, false) => lefts.chain(rights).collect(),
        (Anti, true) | (Inner | Semi, false) => Vec::new(),
    }
}

fn of_windows(verb: Verb, (size, every, offset): (i64, i64, i64), rows: &[Came]) -> [Vec<Given>; 2] {
    let starts = || (-40..=120).filter(move |start: &i64| (start - offset).rem_euclid(every) == 0);
    let is_in = |row: &Came, start: i64| start <= row.time && row.time < start + size;
    let (mut given, mut late) = (Vec::new(), Vec::new());
    for (start, key) in starts().flat_map(|start| (0..3).map(move |key| (start, key))) {
        // A window takes what comes before event time has come to its end.
        let inside = |row: &&Came| row.row.0 == key && is_in(row, start) && start + size > row.now;
        let inside: Vec<Came> = rows.iter().filter(inside).copied().collect();
        given.extend(of_window(verb, &inside, start + size));
    }
    for row in rows {
        if starts().filter(|start| is_in(row, *start)).all(|start| start + size <= row.now) {
            late.push(late_row(row));
        }
    }
    [given, late]
}

fn late_row(row: &Came) -> Given {
    if row.is_left { (row.time, row.row.1, 0) } else { (row.time, 0, row.row.1) }
}

fn of_sessions(verb: Verb, gap: i64, rows: &[Came]) -> [Vec<Given>; 2] {
    let (mut sessions, mut late): (Vec<Vec<Came>>, _) = (Vec::new(), Vec::new());
    let start = |rows: &[Came]| rows.iter().map(|row| row.time).min().unwrap();
    let end = |rows: &[Came]| rows.iter().map(|row| row.time).max().unwrap() + gap;
    for row in rows {
        // Those that are over take no more rows.
        let touches = |session: &Vec<Came>| {
            session[0].row.0 == row.row.0
                && end(session) > row.now
                && start(session) < row.time + gap
                && row.time < end(session)
        };
        let (touched, others) = sessions.iter().cloned().partition::<Vec<_>, _>(touches);
        let together: Vec<Came> = touched.into_iter().flatten().chain([*row]).collect();
        if end(&together) <= row.now {
            late.push(late_row(row));
        } else {
            sessions = others;
            sessions.push(together);
        }
    }
    // Pairs are compared in the order of their numbers, so that of a session does not matter.
    [sessions.iter().flat_map(|rows| of_window(verb, rows, end(rows))).collect(), late]
}

/// Pairs of rows that are near each other, and rows that have nobody near them.
fn of_near(verb: Verb, bounds: Bounds, rows: &[Came]) -> [Vec<Given>; 2] {
    // How much earlier a row of the right may be, until when it may come, and how long a row is not late.
    let (before, lateness) = match bounds {
        Bounds::Within { before, lateness, .. } => (before, lateness),
        Bounds::Until { before } => (before, 0),
        Bounds::Unbounded { ttl } => (ttl, ttl),
        Bounds::Windows { .. } | Bounds::Session { .. } | Bounds::AsOf { .. } => {
            unreachable!("they have no such thing")
        }
    };
    let latest = |left: &Came| match bounds {
        Bounds::Within { after, .. } => left.time + after,
        Bounds::Unbounded { ttl } => left.time + ttl,
        _ => left.row.2,
    };
    let (taken, late): (Vec<Came>, Vec<Came>) =
        rows.iter().partition(|row| row.time >= row.now.saturating_sub(lateness));
    let arrival = |row: &Came| taken.iter().position(|other| other == row).unwrap();
    let near = |left: &Came, right: &Came| {
        let (first, second) = if arrival(left) < arrival(right) { (left, right) } else { (right, left) };
        // What is not bounded may be forgotten before the other comes.
        let is_known = !matches!(bounds, Bounds::Unbounded { ttl } if first.time + ttl < second.now);
        left.row.0 == right.row.0 && left.time - before <= right.time && right.time <= latest(left) && is_known
    };
    let (lefts, rights): (Vec<Came>, Vec<Came>) = taken.iter().partition(|row| row.is_left);
    let mut given = Vec::new();
    for left in &lefts {
        let partners = rights.iter().filter(|right| near(left, right));
        let pair = |right: &Came| {
            // A late row that is not forgotten has its pairs when it comes.
            let now = if matches!(bounds, Bounds::Unbounded { .. }) { left.now.max(right.now) } else { i64::MIN };
            (left.time.max(right.time).max(now), left.row.1, right.row.1)
        };
        let pairs: Vec<Given> = partners.map(pair).collect();
        let alone = (latest(left).max(left.time), left.row.1, 0);
        match (verb, pairs.is_empty()) {
            (Inner | Left | Right | Full, false) => given.extend(pairs),
            (Left | Full | Anti, true) => given.push(alone),
            // Of which partner it has its time is not said.
            (Semi, false) => given.push((0, left.row.1, 0)),
            (Anti, false) | (Inner | Right | Semi, true) => {}
        }
    }
    if matches!(verb, Right | Full) {
        let alone = rights.iter().filter(|right| !lefts.iter().any(|left| near(left, right)));
        given.extend(alone.map(|right| (right.time + before, 0, right.row.1)));
    }
    [given, late.iter().map(late_row).collect()]
}

/// The newest version of each row's time, of several of that time the one that came last. No row may be late.
fn of_versions(ttl: i64, rows: &[Came]) -> [Vec<Given>; 2] {
    let given = rows.iter().filter(|row| row.is_left).map(|left| {
        let versions = rows.iter().filter(|row| !row.is_left && row.row.0 == left.row.0 && row.time <= left.time);
        let versions = versions.filter(|version| left.time - version.time <= ttl);
        (left.time, left.row.1, versions.max_by_key(|version| version.time).map_or(0, |version| version.row.1))
    });
    [given.collect(), Vec::new()]
}

pub(super) fn by_definition(verb: Verb, bounds: Bounds, rows: &[Came]) -> [Vec<Given>; 2] {
    match bounds {
        Bounds::Windows { size, every, offset } => of_windows(verb, (size, every, offset), rows),
        Bounds::Session { gap } => of_sessions(verb, gap, rows),
        Bounds::AsOf { ttl } => of_versions(ttl.unwrap_or(i64::MAX), rows),
        Bounds::Within { .. } | Bounds::Until { .. } | Bounds::Unbounded { .. } => of_near(verb, bounds, rows),
    }
}
