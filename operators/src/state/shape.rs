//! What shapes the state of an operator, where the types of its pieces do not tell.

use super::StateVisitor;
use super::visitor::Mode;
use crate::{Fault, FaultKind, Result, Retry};

impl StateVisitor<'_> {
    /// Visits what shapes the state, in words, where the types of its pieces do not tell: where windows begin, what is
    /// aggregated.
    ///
    /// # Errors
    /// A checkpoint fault when what was saved is of another shape: going on from it would mix two meanings in silence.
    pub fn shape(&mut self, shape: &str) -> Result {
        match &mut self.0 {
            Mode::Freeze(frozen) => {
                shape.clone_into(&mut frozen.small.shape);
                Ok(())
            }
            Mode::Restore(restore) => {
                let before = restore.saved.shape.as_str();
                if before.is_empty() || before == shape || without_parameters(before) == shape {
                    return Ok(());
                }
                let words = format!(
                    "its state is of `{before}`, and the pipeline says `{shape}`: say it as before, or start under a new pipeline name"
                );
                Err(Fault::new(FaultKind::Checkpoint, words).retry_with(Retry::Never))
            }
            Mode::Fit(..) | Mode::List(_) => Ok(()),
        }
    }
}

/// A shape as it is written now: names of types were once followed by what they are generic over.
fn without_parameters(shape: &str) -> String {
    let (mut depth, mut last) = (0_usize, ' ');
    let is_outside = |c: &char| {
        depth += usize::from(*c == '<');
        let outside = depth == 0;
        // That of an arrow closes nothing.
        depth = depth.saturating_sub(usize::from(*c == '>' && last != '-'));
        last = *c;
        outside
    };
    shape.chars().filter(is_outside).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Frozen, Saved};
    use super::*;

    #[test]
    fn state_of_another_shape_is_refused_with_both_in_words_also_where_it_is_shared_out() {
        let mut frozen = Frozen::default();
        let mut visit = StateVisitor::freeze(&mut frozen);
        visit.shape("tumbling 60s").unwrap();
        let saved = frozen.encode(128).unwrap();
        for saved in [&saved, &Saved::share([&saved], 128, 0, 2).unwrap()] {
            assert!(StateVisitor::restore(saved).shape("tumbling 60s").is_ok());
            let fault = StateVisitor::restore(saved).shape("tumbling 10s").unwrap_err();
            assert!(fault.to_string().contains("of `tumbling 60s`, and the pipeline says `tumbling 10s`"), "{fault}");
        }
    }
    #[test]
    fn what_types_are_generic_over_shapes_nothing() {
        let mut frozen = Frozen::default();
        StateVisitor::freeze(&mut frozen).shape("tumbling 60s: (Count, Sum<fn(&Row) -> i64>, Of<Row<u8>>)").unwrap();
        let saved = frozen.encode(128).unwrap();
        assert!(StateVisitor::restore(&saved).shape("tumbling 60s: (Count, Sum, Of)").is_ok());
        assert!(StateVisitor::restore(&saved).shape("tumbling 60s: (Count, Max, Of)").is_err());
    }
}
