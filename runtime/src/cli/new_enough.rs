//! [`new_enough`]: which nats-server of those that are here is started.

use std::path::PathBuf;

use super::output;
use crate::broker::{BrokerError, programs, version_of};

type Version = (u32, u32, u32);

const OLDEST: Version = (2, 12, 0);
const FULL: Version = (2, 14, 0);

/// A program to start, if there is one that is new enough.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) program: Option<PathBuf>,
    /// Which it is and why none before it, or why there is none: a part of a sentence.
    pub(super) words: String,
}

/// The first program that is new enough.
///
/// # Errors
/// One was named that is no file: then no other is taken in its place.
pub(super) fn new_enough() -> Result<Choice, BrokerError> {
    let programs = programs()?.into_iter();
    Ok(among(programs.map(|program| {
        let version = version_of(&program);
        (program, version)
    })))
}

fn among(programs: impl Iterator<Item = (PathBuf, Option<Version>)>) -> Choice {
    let mut old = Vec::new();
    for (program, version) in programs {
        let path = program.display();
        match version {
            Some(version) if version >= OLDEST => {
                let dotted = dotted(version);
                if version < FULL {
                    output::say(&format!("{path} is {dotted}: 2.14 or newer has everything that pipelines use"));
                }
                let words = match old.is_empty() {
                    true => format!("{path} {dotted}"),
                    false => format!("{path} {dotted}, as {}", old.join(" and ")),
                };
                return Choice { program: Some(program), words };
            }
            Some(version) => old.push(format!("{path} is {}, too old", dotted(version))),
            None => old.push(format!("{path} does not say its version")),
        }
    }
    let words = match old.is_empty() {
        true => "there is no nats-server on PATH, nor in .tools/bin here or above".to_owned(),
        false => format!("there is no nats-server of 2.12 or newer ({})", old.join("; ")),
    };
    Choice { program: None, words }
}

fn dotted((major, minor, patch): Version) -> String {
    format!("{major}.{minor}.{patch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(programs: &[(&str, Option<Version>)]) -> (Option<String>, String) {
        let Choice { program, words } = among(programs.iter().map(|(path, version)| (path.into(), *version)));
        (program.map(|program| program.display().to_string()), words)
    }

    #[test]
    fn old_programs_are_passed_over_and_named() {
        let (old, silent, new) = (("/old", Some((2, 9, 10))), ("/silent", None), ("/new", Some((2, 15, 1))));
        assert_eq!(chosen(&[new, old]), (Some("/new".to_owned()), "/new 2.15.1".to_owned()));
        let why = "/new 2.15.1, as /old is 2.9.10, too old and /silent does not say its version";
        assert_eq!(chosen(&[old, silent, new]), (Some("/new".to_owned()), why.to_owned()));
        let (program, why) = chosen(&[old, silent]);
        assert_eq!(program, None);
        assert!(why.contains("(/old is 2.9.10, too old; /silent does not"), "{why}");
        let (program, why) = chosen(&[]);
        assert!(program.is_none() && why.contains("on PATH"), "{why}");
    }
}
