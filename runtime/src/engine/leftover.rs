//! What a checkpoint has of an operator that does not ask for it.

use millstream_operators::{Fault, FaultKind, Result, Retry, StateVisitor};
use millstream_pipelines::graph::DynOperator;

/// Whether the operator asks for what was saved of its node. Pieces that it no longer needs are told of; where it needs none
/// of them it is another kind of operator than the one that saved them, and would begin anew in silence.
///
/// # Errors
/// A setup fault if it is.
pub(super) fn check<'a>(operator: &mut dyn DynOperator, node: &str, saved: impl Iterator<Item = &'a str>) -> Result {
    let mut names = Vec::new();
    operator.state(&mut StateVisitor::list(&mut names))?;
    let is_pane = |piece: &str, name: &str| {
        piece.strip_prefix(name).and_then(|rest| rest.strip_prefix('/')).is_some_and(|pane| pane.parse::<i64>().is_ok())
    };
    let asked = |piece: &&str| names.iter().any(|name| name == piece || is_pane(piece, name));
    let (known, left): (Vec<&str>, Vec<&str>) = saved.partition(asked);
    if !left.is_empty() && known.is_empty() {
        let words = format!(
            "the last checkpoint has state of this node that it has no place for ({}): it was another kind of node. Make it that again, or start under a new pipeline name",
            left.join(", ")
        );
        return Err(Fault::new(FaultKind::Setup, words).retry_with(Retry::Never));
    }
    if !left.is_empty() {
        tracing::warn!(%node, ?left, "state in the last checkpoint is not needed any more, and forgotten");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use millstream_operators::rows::{Dedup, Fold};
    use millstream_pipelines::graph::erase;

    use super::*;

    #[test]
    fn state_of_another_kind_of_node_is_refused_and_pieces_that_are_not_needed_are_not() {
        let mut fold = erase(Fold::new(Arc::new(|n: &u64| *n), 0_u64, Arc::new(|sum: &mut u64, n: u64| *sum += n)));
        let mut checked = |saved: &[&str]| check(&mut *fold, "sum", saved.iter().copied());
        assert!(checked(&[]).is_ok() && checked(&["values"]).is_ok() && checked(&["values", "ends"]).is_ok());
        let fault = checked(&["panes/0", "panes/60"]).unwrap_err();
        assert!(fault.kind() == FaultKind::Setup && fault.to_string().contains("panes/0, panes/60"), "{fault}");
        let mut dedup = erase(Dedup::new(Arc::new(|n: &u64| *n), Duration::from_secs(1)));
        assert!(check(&mut *dedup, "first", ["values"].into_iter()).is_err());
    }
}
