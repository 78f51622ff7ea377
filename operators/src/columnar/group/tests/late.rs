//! Rows that come behind a watermark, by the definition, in one piece, in any, over restarts, and with no memory for state.

use serde_json::Value;

use super::definitions::{by_key, in_windows, input, result, sums, until, with_until};
use super::*;
use crate::Operator;
use crate::columnar::steps::{Step, Way, told};
use crate::testkit::cases;

type Key = Option<String>;

/// Rows and the watermarks behind them, which run ahead of some rows that come later.
type Ahead = Vec<(Vec<Row>, i64)>;

fn ahead(pieces: Vec<(Vec<Row>, i64)>, by: i64) -> Ahead {
    pieces.into_iter().map(|(rows, watermark)| (rows, watermark + by)).collect()
}

/// The last that was told of each key and window.
fn last(told: &[(i64, Value)]) -> BTreeMap<String, Value> {
    let of = |line: &Value| format!("{} {} {}", line["key"], line["window_start"], line["window_end"]);
    told.iter().map(|(_, line)| (of(line), line.clone())).collect()
}

/// Checks the results and the times of late rows: where windows that are closed change no more, all of them; else the last one of
/// each window, where some that were given may have become a part of others if windows `merge`.
fn judged<O>(
    make: impl Fn() -> O,
    steps: &Ahead,
    seed: u64,
    (expected, late): (&[(i64, Value)], &[i64]),
    (allowed, merge): (i64, bool),
) where
    O: Operator<In = RecordBatch, Out = RecordBatch>,
{
    let steps = steps.iter().flat_map(|(rows, now)| [Step::Rows(with_until(rows)), Step::Watermark(*now)]);
    let steps: Vec<_> = steps.collect();
    for (seed, way) in [
        (None, Way::Cut),
        (Some(seed), Way::Cut),
        (Some(seed), Way::Restarted),
        (Some(seed), Way::GoesOn),
        (Some(seed), Way::Spilled),
    ] {
        let told = told(&make, &steps, seed, way);
        let times = |port| {
            let time = |row: &String| {
                let (line, time) = row.rsplit_once(" at ").unwrap();
                (time.trim_end_matches(" of None").parse::<i64>().unwrap(), line.to_owned())
            };
            told.port(port).iter().map(time).collect::<Vec<_>>()
        };
        assert_eq!(times(2).into_iter().map(|(time, _)| time).collect::<Vec<_>>(), late, "{way:?}");
        let results: Vec<(i64, Value)> =
            times(0).into_iter().map(|(time, line)| (time, serde_json::from_str(&line).unwrap())).collect();
        if allowed == 0 {
            assert_eq!(results, expected, "{way:?}");
        }
        let (mut given, expected) = (last(&results), last(expected));
        given.retain(|window, _| !merge || expected.contains_key(window));
        assert_eq!(given, expected, "{way:?}");
    }
}

/// Results of windows that overlap, one step after the other, and the times of rows that are late: a row's own window ends at
/// `own_end`, and windows stay for `allowed`.
fn overlapping(steps: &Ahead, own_end: impl Fn(&Row) -> i64, allowed: i64) -> (Vec<(i64, Value)>, Vec<i64>) {
    struct Open {
        key: Key,
        start: i64,
        end: i64,
        rows: Vec<Row>,
    }
    let (mut open, mut now, mut gone, mut late) = (Vec::<Open>::new(), i64::MIN, Vec::<Open>::new(), Vec::new());
    for (rows, watermark) in steps {
        for row in rows {
            let (start, end) = (row.1, own_end(row));
            let touches = |window: &mut Open| window.key == row.0 && window.start < end && start < window.end;
            let touched: Vec<Open> = open.extract_if(.., touches).collect();
            if touched.is_empty() && end + allowed <= now {
                late.push(row.1);
                continue;
            }
            let start = touched.iter().map(|window| window.start).chain([start]).min().unwrap();
            let end = touched.iter().map(|window| window.end).chain([end]).max().unwrap();
            let rows = touched.into_iter().flat_map(|window| window.rows).chain([row.clone()]).collect();
            open.push(Open { key: row.0.clone(), start, end, rows });
        }
        now = now.max(*watermark);
        gone.extend(open.extract_if(.., |window| window.end + allowed <= now));
    }
    gone.extend(open);
    gone.sort_by(|a, b| (a.end, &a.key, a.start).cmp(&(b.end, &b.key, b.start)));
    (gone.iter().map(|window| result(&window.key, window.start, window.end, &window.rows)).collect(), late)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(40)))]

    #[test]
    fn what_is_late_is_refused_and_what_is_allowed_changes_the_result(
        pieces in timeline(), size in 1i64..40, distance in 0i64..40, by in 0i64..40, allowed in 0i64..20, seed: u64,
    ) {
        let (every, steps) = (1 + distance % size, ahead(pieces, by));
        let windows = sliding(span(size), span(every)).allowed_lateness(span(allowed));
        let make = || WindowAggregate::new(&input(), windows, by_key(), sums(), clock()).unwrap();
        let (mut now, mut expected, mut late) = (i64::MIN, BTreeMap::<_, Vec<Row>>::new(), Vec::new());
        for (rows, watermark) in &steps {
            for row in rows {
                let open = in_windows(vec![row.clone()], (size, every));
                let open = open.into_keys().filter(|(start, _)| start + size + allowed > now).collect::<Vec<_>>();
                if open.is_empty() {
                    late.push(row.1);
                }
                open.into_iter().for_each(|window| expected.entry(window).or_default().push(row.clone()));
            }
            now = now.max(*watermark);
        }
        let expected: Vec<_> =
            expected.into_iter().map(|((start, key), rows)| result(&key, start, start + size, &rows)).collect();
        judged(make, &steps, seed, (&expected, &late), (allowed, false));
    }

    #[test]
    fn what_is_late_for_sessions_is_refused_and_what_is_allowed_changes_the_result(
        pieces in timeline(), gap in 1i64..30, by in 0i64..40, allowed in 0i64..20, seed: u64,
    ) {
        let (windows, steps) = (OwnWindows::session(span(gap)).allowed_lateness(span(allowed)), ahead(pieces, by));
        let make = || SessionAggregate::new(&input(), windows.clone(), Emit::OnClose, by_key(), sums(), clock()).unwrap();
        let (expected, late) = overlapping(&steps, |row| row.1 + gap, allowed);
        judged(make, &steps, seed, (&expected, &late), (allowed, true));
    }

    #[test]
    fn what_is_late_for_windows_until_a_time_is_refused_and_what_is_allowed_changes_the_result(
        pieces in timeline(), by in 0i64..40, allowed in 0i64..20, seed: u64,
    ) {
        let (windows, steps) = (OwnWindows::until("until").allowed_lateness(span(allowed)), ahead(pieces, by));
        let make = || SessionAggregate::new(&input(), windows.clone(), Emit::OnClose, by_key(), sums(), clock()).unwrap();
        let (expected, late) = overlapping(&steps, |row| until(row).max(row.1) + 1, allowed);
        judged(make, &steps, seed, (&expected, &late), (allowed, true));
    }
}
