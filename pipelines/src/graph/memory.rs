//! [`stays_in_memory`]: the state of a graph that no budget keeps small.

use std::sync::Arc;

use millstream_operators::{Fault, Result, Spill, SpillStore, SpillTable, StateVisitor};

use super::{Graph, NodeId, Resources, Role, Subtask};

/// The nodes that keep state which stays in memory however much it is, where the pipeline has a budget of memory, and what that
/// state is called. Operators are made with these resources, and asked for their state.
pub fn stays_in_memory(graph: &Graph, resources: &Resources) -> Vec<(String, Vec<String>)> {
    let spill = Arc::new(Spill::new(Arc::new(Nowhere), graph.settings.key_groups, usize::MAX));
    let of = |(index, node): (usize, &super::Node)| {
        let Role::Operator(make) = &node.role else { return None };
        let subtask = Subtask {
            pipeline: graph.name.as_str().into(),
            node: node.name.as_str().into(),
            index: 0,
            of: graph.parallelism(NodeId(index)),
            resources: resources.clone().with(graph.settings.clone()),
        };
        let mut stays = Vec::new();
        // One that cannot be made here says so where it runs.
        let mut operator = make(&subtask).ok()?;
        operator.state(&mut StateVisitor::fit(&spill, &mut stays)).ok()?;
        (!stays.is_empty()).then(|| (node.name.clone(), stays))
    };
    graph.nodes.iter().enumerate().filter_map(of).collect()
}

/// Nothing goes anywhere while nothing is kept.
#[derive(Debug)]
struct Nowhere;

impl SpillStore for Nowhere {
    fn table(&self) -> Result<Box<dyn SpillTable>> {
        Err(Fault::bug("there is no state to spill"))
    }
}
