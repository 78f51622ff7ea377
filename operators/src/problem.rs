//! The pipeline is wrong: [`BuildError`], a list of all its [`Problem`]s.

use std::error::Error;
use std::fmt;

/// One thing that is wrong with a pipeline: where, what, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The node that it is about; empty when it is about the whole pipeline.
    pub node: String,
    /// The setting of that node that it is about, as a path of keys (`filter`, `schema.amount`), if it is about one.
    pub setting: Option<String>,
    /// Bytes within the text of that setting, where a part of it is to blame.
    pub within: Option<std::ops::Range<usize>>,
    /// What is wrong, in a sentence without a full stop.
    pub what: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    /// Something wrong with `node`.
    pub fn at(node: impl Into<String>, what: impl Into<String>) -> Self {
        Problem { node: node.into(), setting: None, within: None, what: what.into(), help: None }
    }

    /// Something wrong with the pipeline as a whole.
    pub fn of_pipeline(what: impl Into<String>) -> Self {
        Problem::at("", what)
    }

    /// The same problem, blamed on one setting of the node.
    #[must_use]
    pub fn in_setting(mut self, setting: impl Into<String>) -> Self {
        self.setting = Some(setting.into());
        self
    }

    /// The same problem, blamed on some bytes of the setting's text.
    #[must_use]
    pub fn within(mut self, bytes: std::ops::Range<usize>) -> Self {
        self.within = Some(bytes);
        self
    }

    /// The same problem, with a way out.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.node.is_empty() {
            write!(f, "{}", self.node)?;
            if let Some(setting) = &self.setting {
                write!(f, ".{setting}")?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.what)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a pipeline, found before anything runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    problems: Vec<Problem>,
}

impl BuildError {
    /// The list as an error; `None` when there is nothing wrong. Order is kept, repeats are dropped.
    pub fn of(problems: impl IntoIterator<Item = Problem>) -> Option<Self> {
        let mut distinct: Vec<Problem> = Vec::new();
        for problem in problems {
            if !distinct.contains(&problem) {
                distinct.push(problem);
            }
        }
        (!distinct.is_empty()).then_some(BuildError { problems: distinct })
    }

    /// Each thing that is wrong.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl From<Problem> for BuildError {
    fn from(problem: Problem) -> Self {
        BuildError { problems: vec![problem] }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [one] => write!(f, "{one}"),
            many => {
                write!(f, "{} problems", many.len())?;
                many.iter().try_for_each(|problem| write!(f, "\n- {problem}"))
            }
        }
    }
}

impl Error for BuildError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_every_problem_once_with_its_way_out() {
        let typo =
            Problem::at("large", "there is no column `amuont`").in_setting("filter").help("did you mean `amount`?");
        let error = BuildError::of([typo.clone(), Problem::of_pipeline("has no sink"), typo]).unwrap();
        assert_eq!(
            error.to_string(),
            "2 problems\n- large.filter: there is no column `amuont` (did you mean `amount`?)\n- has no sink"
        );
        assert_eq!(BuildError::of([]), None);
    }
}
