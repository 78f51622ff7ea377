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
                if before.is_empty() || before == shape {
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
}
