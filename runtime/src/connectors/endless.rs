//! [`refuse_until_end`]: sources that have no end, in a run that is to end with what is there.

use millstream_operators::{Fault, FaultKind, Result};
use millstream_pipelines::graph::Subtask;

use crate::engine::RunMode;

/// Refuses to make a source that has no end for a run that is to end with what the sources have now: it would go on for
/// ever, as if that had not been asked for. `why` says why there is no end, and what to do instead.
pub(super) fn refuse_until_end(subtask: &Subtask, why: &str) -> Result {
    match subtask.resources.get::<RunMode>() {
        Some(mode) if mode.until_end => {
            let words = format!("the run is to end with what the sources have now (`--until-end`), and {why}");
            Err(Fault::new(FaultKind::Setup, words).at(&subtask.node))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millstream_pipelines::dsl::{ReadFrom, SourceNode};
    use millstream_pipelines::graph::Resources;

    use super::*;
    use crate::broker::Embedded;
    use crate::connectors::{Connections, core_nats, core_nats_group, jetstream};

    /// What becomes of a source in a run of each mode.
    fn made(node: &SourceNode, mode: RunMode) -> Result {
        let connections = Arc::new(Connections::to_embedded(Embedded::default()));
        let resources = Resources::default().with_shared(connections).with(mode);
        let subtask = Subtask { pipeline: "p".into(), node: "in".into(), index: 0, of: 1, resources };
        (node.make)(&subtask).map(drop)
    }

    #[tokio::test]
    async fn a_run_that_is_to_end_refuses_what_has_no_end_and_says_what_to_do_instead() {
        let shared = jetstream("S").shared().source_node("in");
        let (core, group) = (core_nats("say.>"), core_nats_group("say.>", "g"));
        for (node, way_out) in [(&shared, "without `share`"), (&core, "SIGTERM"), (&group, "SIGTERM")] {
            let fault = made(node, RunMode::until_end()).unwrap_err();
            assert_eq!((fault.kind(), fault.node()), (FaultKind::Setup, Some("in")));
            assert!(fault.to_string().contains("--until-end") && fault.to_string().contains(way_out), "{fault}");
            assert!(made(node, RunMode::default()).is_ok());
        }
        assert!(made(&jetstream("S").source_node("in"), RunMode::until_end()).is_ok());
    }
}
