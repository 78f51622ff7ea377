//! A pipeline that counts rows by key, and what must come of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream::checkpoint::Store;
use millstream::engine::Ended;
use millstream::pipelines::graph::Graph;
use millstream::prelude::*;
use millstream::testkit::{CollectSink, Collected, Flow, ListSource};

use super::Dice;

pub type Rows = ListSource<u64>;

/// Counts rows by key.
pub fn graph(rows: &Rows, ends: bool, subtasks: u32, out: &Collected<(u64, u64)>) -> Graph {
    let pipeline = Pipeline::new("counts").settings(|settings| {
        settings.parallelism = subtasks;
        settings.checkpoint_interval = Duration::from_millis(20);
    });
    let rows = if ends { rows.clone() } else { rows.clone().endless() };
    pipeline
        .source("rows", rows)
        .key_by(|key| *key)
        .fold("count", 0_u64, |count, _| *count += 1)
        .sink("out", CollectSink::new(out.clone()));
    pipeline.build().unwrap()
}

pub fn listed(keys: impl IntoIterator<Item = u64>) -> Vec<(Timestamp, u64)> {
    keys.into_iter().map(|key| (Timestamp::MIN, key)).collect()
}

/// What came last of each key.
pub fn last(out: &Collected<(u64, u64)>) -> BTreeMap<u64, u64> {
    out.rows().into_iter().collect()
}

pub fn counted(keys: &[u64]) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    keys.iter().for_each(|key| *counts.entry(*key).or_default() += 1);
    counts
}

pub async fn until_checkpoints(flow: &Flow, completed: u64) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while flow.metrics().checkpoint().completed < completed {
        assert!(tokio::time::Instant::now() < deadline, "checkpoint {completed} did not complete within a minute");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Three runs of a pipeline, of 1, 4 and 3 subtasks, of which the first two are killed amid rows.
pub async fn three_runs(store: Arc<dyn Store>, keys: &[u64]) {
    let (rows, out) = (Rows::new([]).at_once(1_000), Collected::default());
    let parts: Vec<&[u64]> = keys.chunks(keys.len().div_ceil(3)).collect();
    for (part, subtasks) in parts.iter().zip([1, 4, 3]) {
        let ends = subtasks == 3;
        if ends {
            rows.feed(listed(part.iter().copied()));
        }
        let flow = Flow::start_with(graph(&rows, ends, subtasks, &out), Arc::clone(&store), |e| e).unwrap();
        if ends {
            assert_eq!(flow.finish().await.unwrap(), Ended::Finished);
            break;
        }
        for (piece, rows_of_piece) in (1..).zip(part.chunks(part.len().div_ceil(10))) {
            rows.feed(listed(rows_of_piece.iter().copied()));
            until_checkpoints(&flow, piece).await;
        }
        flow.crash().await;
    }
    assert_eq!(last(&out), counted(keys));
}

/// Every key several times, in no order.
pub fn keys(dice: &mut Dice, distinct: u64, rows: u64) -> Vec<u64> {
    (0..distinct).chain((0..rows).map(|_| dice.below(distinct))).collect()
}
