//! [`Checkpoints`]: operators restarted from runs one behind the other, as a checkpoint store keeps them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::testkit::Bench;
use crate::{Frozen, KeyGroup, Operator, Result, Run, Runs, Saved, Spill};

/// What was saved at the last barriers, as a checkpoint store keeps it.
#[derive(Default)]
pub(super) struct Checkpoints(BTreeMap<String, Vec<Run>>);

impl Checkpoints {
    /// An operator with the state of another, as it was saved whole or as what has changed since the last time; perhaps with a
    /// budget of memory.
    pub(super) fn restarted<O: Operator>(
        &mut self,
        mut bench: Bench<O>,
        operator: O,
        whole: bool,
        spill: Option<&Arc<Spill>>,
    ) -> Bench<O> {
        let frozen = bench.freeze();
        self.restored(frozen, operator, whole, spill)
    }

    /// The same, with the state that another had at a barrier.
    pub(super) fn restored<O: Operator>(
        &mut self,
        frozen: Frozen,
        operator: O,
        whole: bool,
        spill: Option<&Arc<Spill>>,
    ) -> Bench<O> {
        let (small, pieces) = frozen.into_parts();
        let names: Vec<String> = pieces.iter().map(|(name, _)| name.clone()).collect();
        self.0.retain(|name, _| names.contains(name));
        for (name, piece) in pieces {
            let (runs, mut parts) = (self.0.entry(name).or_default(), Vec::new());
            let take = &mut |part| {
                parts.push(part);
                Ok(())
            };
            piece.encode_in_parts(KeyGroup::DEFAULT_COUNT, whole || runs.is_empty(), take).unwrap();
            if parts.first().is_some_and(|run: &Run| run.whole) {
                runs.clear();
            }
            runs.extend(parts);
        }
        let saved = small.with_runs(self.0.clone());
        // By way of three subtasks, as when their number changes.
        let three: Vec<Saved> =
            (0..3).map(|index| Saved::share([&saved], KeyGroup::DEFAULT_COUNT, index, 3).unwrap()).collect();
        let mut saved = Saved::share(&three, KeyGroup::DEFAULT_COUNT, 0, 1).unwrap();
        match spill {
            None => Bench::restored(operator, &saved),
            Some(spill) => {
                let mut runs = Named(saved.take_runs());
                Bench::restored_within(operator, &saved, &mut runs, spill)
            }
        }
    }
}

/// What was saved, one run at a time.
struct Named(BTreeMap<String, Vec<Run>>);

impl Runs for Named {
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn each(&mut self, name: &str, play: &mut dyn FnMut(&Run) -> Result) -> Result {
        self.0.get(name).into_iter().flatten().try_for_each(play)
    }
}
