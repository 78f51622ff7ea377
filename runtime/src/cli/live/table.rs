//! The table at the end of a run: what each node did.

use std::time::Duration;

use super::{Sample, Shape};
use crate::cli::check::plural;
use crate::cli::output::{bytes, count, short, span};

/// The table of a run that took `elapsed`, and a line below it.
pub(super) fn table(shape: &Shape, end: &Sample, elapsed: Duration) -> String {
    let head = ["node", "rows in", "rows out", "rejected", "p50", "p99", "max"];
    let mut rows: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    for name in &shape.nodes {
        let node = end.node(name).cloned().unwrap_or_default();
        let mut row = vec![name.clone(), count(node.rows_in), count(node.rows_out), count(node.rows_rejected)];
        match node.latency {
            Some(latency) => row.extend(latency.map(span)),
            None => row.extend(std::iter::repeat_n(String::new(), 3)),
        }
        rows.push(row);
    }
    let widths: Vec<usize> = (0..head.len())
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    let (rows_in, rows_out) = (end.rows_in(shape), end.rows_out(shape));
    let rate = if elapsed.is_zero() { 0.0 } else { rows_in as f64 / elapsed.as_secs_f64() };
    text.push_str(&format!(
        "{} rows in, {} out, {} rejected in {} ({}/s)",
        count(rows_in),
        count(rows_out),
        count(end.rejected(shape)),
        span(elapsed),
        short(rate)
    ));
    let checkpoint = &end.checkpoint;
    if checkpoint.completed > 0 {
        let number = usize::try_from(checkpoint.completed).unwrap_or(usize::MAX);
        text.push_str(&format!(
            "; {}, the last of {} in {}",
            plural(number, "checkpoint"),
            bytes(checkpoint.bytes),
            span(checkpoint.duration)
        ));
    }
    if end.restarts > 0 {
        text.push_str(&format!("; {}", plural(usize::try_from(end.restarts).unwrap_or(usize::MAX), "restart")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{CheckpointSnapshot, NodeSnapshot};

    #[test]
    fn every_node_has_a_line_and_the_sums_are_below() {
        let node = |name: &str, rows| NodeSnapshot {
            node: name.to_owned(),
            rows_in: rows,
            rows_out: rows,
            latency: (name == "out").then(|| [1, 2, 3].map(Duration::from_millis)),
            ..NodeSnapshot::default()
        };
        let shape = Shape {
            pipeline: "p".to_owned(),
            nodes: vec!["in".to_owned(), "out".to_owned(), "idle".to_owned()],
            sources: vec!["in".to_owned()],
            outputs: vec!["out".to_owned()],
        };
        let checkpoint = CheckpointSnapshot {
            completed: 1,
            epoch: 4,
            at_micros: 0,
            duration: Duration::from_millis(2),
            bytes: 1_500,
            pause: None,
        };
        let end = Sample { nodes: vec![node("in", 1_000), node("out", 10)], checkpoint, ..Sample::default() };
        assert_eq!(
            table(&shape, &end, Duration::from_secs(2)),
            "node  rows in  rows out  rejected   p50   p99   max\n\
             in      1,000     1,000         0\n\
             out        10        10         0  1 ms  2 ms  3 ms\n\
             idle        0         0         0\n\
             1,000 rows in, 10 out, 0 rejected in 2 s (500/s); 1 checkpoint, the last of 1.5 kB in 2 ms"
        );
    }
}
