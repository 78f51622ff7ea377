//! [`Report`]: everything that is wrong with a pipeline file, as people read it.

use std::fmt;
use std::ops::Range;

use super::place::Text;

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mistake {
    /// The bytes of the file that are to blame, if some are.
    pub at: Option<Range<usize>>,
    /// What is wrong, in a sentence without a full stop.
    pub what: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Mistake {
    pub(super) fn at(at: impl Into<Option<Range<usize>>>, what: impl Into<String>) -> Self {
        Mistake { at: at.into(), what: what.into(), help: None }
    }

    pub(super) fn help(mut self, help: impl Into<Option<String>>) -> Self {
        self.help = help.into();
        self
    }
}

/// All mistakes of a file, in the order in which they stand there. Its `Display` shows each with its line, a caret and
/// the way out.
#[derive(Clone, Debug)]
pub struct Report {
    text: Text,
    mistakes: Vec<Mistake>,
}

impl Report {
    pub(super) fn of(text: Text, mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by_key(|mistake| mistake.at.as_ref().map_or((usize::MAX, 0), |at| (at.start, at.end)));
        let mut distinct: Vec<Mistake> = Vec::new();
        for mistake in mistakes {
            if !distinct.contains(&mistake) {
                distinct.push(mistake);
            }
        }
        Report { text, mistakes: distinct }
    }

    /// A file that cannot be read at all.
    pub fn unreadable(name: &str, why: impl fmt::Display) -> Self {
        let text = Text { name: name.to_owned(), text: String::new() };
        Report { text, mistakes: vec![Mistake::at(None, format!("the file cannot be read: {why}"))] }
    }

    /// Each mistake.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// Where a mistake stands: line and column, counted from 1.
    pub fn line_and_column(&self, mistake: &Mistake) -> Option<(usize, usize)> {
        let place = self.text.place(mistake.at.as_ref()?.start);
        Some((place.line, place.column))
    }

    fn show(&self, mistake: &Mistake, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error: {}", mistake.what)?;
        let Some(at) = &mistake.at else {
            writeln!(f, "  --> {}", self.text.name)?;
            return match &mistake.help {
                Some(help) => writeln!(f, "   = help: {help}"),
                None => Ok(()),
            };
        };
        let place = self.text.place(at.start);
        let (line, number) = (self.text.line(place.line), place.line.to_string());
        let margin = " ".repeat(number.len());
        writeln!(f, "{margin}--> {}:{}:{}", self.text.name, place.line, place.column)?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {}", shown(line))?;
        // What is before the caret, with tabs as wide as they are above; what is blamed ends with its line.
        let before: String = line.chars().take(place.column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        let blamed = self.text.text.get(at.clone()).unwrap_or("").lines().next().unwrap_or("").chars().count();
        let room = line.chars().count().saturating_sub(place.column - 1);
        writeln!(f, "{margin} | {before}{}", "^".repeat(blamed.min(room).max(1)))?;
        match &mistake.help {
            Some(help) => writeln!(f, "{margin} = help: {help}"),
            None => Ok(()),
        }
    }
}

/// A line without what a terminal would act on.
fn shown(line: &str) -> String {
    line.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.mistakes {
            self.show(mistake, f)?;
            writeln!(f)?;
        }
        match self.mistakes.len() {
            1 => write!(f, "{}: 1 mistake", self.text.name),
            many => write!(f, "{}: {many} mistakes", self.text.name),
        }
    }
}

impl std::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_is_shown_with_its_line_a_caret_and_the_way_out() {
        let text = Text { name: "p.toml".to_owned(), text: "a = 1\n\tfilter = 'amuont > 1'\n".to_owned() };
        let mistakes = vec![
            Mistake::at(None, "there is no sink"),
            Mistake::at(17..23, "there is no column `amuont`").help("did you mean `amount`?".to_owned()),
        ];
        assert_eq!(
            Report::of(text, mistakes).to_string(),
            "error: there is no column `amuont`\n --> p.toml:2:12\n  |\n2 | \tfilter = 'amuont > 1'\n  | \t          ^^^^^^\n  = help: did you mean `amount`?\n\nerror: there is no sink\n  --> p.toml\n\np.toml: 2 mistakes"
        );
    }
}
