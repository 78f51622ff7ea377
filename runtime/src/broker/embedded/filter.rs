//! [`Filter`]: which subjects a consumer reads or a purge concerns.

use crate::broker::{Subject, matches};

/// Subject patterns; none for all subjects.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter(Vec<Subject>);

impl Filter {
    pub(super) fn new<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Self {
        let mut patterns: Vec<Subject> = patterns.into_iter().map(|p| Subject::from(p.as_ref().to_owned())).collect();
        if patterns.iter().any(|pattern| pattern.as_str() == ">") {
            patterns.clear();
        }
        Filter(patterns)
    }

    pub(super) fn patterns(&self) -> &[Subject] {
        &self.0
    }

    pub(super) fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    /// The one subject it stands for, if it is no pattern.
    pub(super) fn literal(&self) -> Option<&Subject> {
        match self.0.as_slice() {
            [one] if !is_pattern(one) => Some(one),
            _ => None,
        }
    }

    pub(super) fn matches(&self, subject: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|pattern| matches(pattern, subject))
    }
}

/// Whether this stands for more than one subject.
pub(super) fn is_pattern(subject: &str) -> bool {
    subject.split('.').any(|token| token == "*" || token == ">")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_knows_its_subjects() {
        assert!(Filter::default().matches("a.b"));
        assert!(Filter::new([">"]).is_all());
        assert_eq!(Filter::new(["a.b"]).literal().map(Subject::as_str), Some("a.b"));
        assert!(Filter::new(["a.*"]).literal().is_none());
        assert!(Filter::new(["a.*", "b"]).matches("b") && !Filter::new(["a.*"]).matches("b"));
    }
}
