//! `millstream test`: the `[[tests]]` tables of files.

use std::process::ExitCode;

use super::args::Test;
use super::check::plural;
use super::file::{self, Outcome};
use super::{Failure, Program, output};

pub(super) async fn test(program: &Program, args: &Test) -> Result<ExitCode, Failure> {
    let colour = output::colour(&std::io::stdout());
    let (mut passed, mut failed, mut wrong) = (0, 0, Vec::new());
    for path in &args.files {
        let outcomes = match file::test(path, &program.registry, args.filter.as_deref()).await {
            Ok(outcomes) => outcomes,
            Err(report) => {
                wrong.push(report.text);
                continue;
            }
        };
        output::print(&format!("{}", path.display()));
        for outcome in outcomes {
            *(if outcome.failure.is_none() { &mut passed } else { &mut failed }) += 1;
            output::print(&told(&outcome, colour));
        }
    }
    if !wrong.is_empty() {
        return Err(Failure::usage(wrong.join("\n")));
    }
    if let (Some(filter), 0) = (&args.filter, passed + failed) {
        return Err(Failure::usage(format!("no test has {filter:?} in its name")));
    }
    output::print(&format!("{} passed, {failed} failed", plural(passed, "test")));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// An outcome as it is printed: what differs is indented, lines that lack are red and lines too many are green.
fn told(outcome: &Outcome, colour: bool) -> String {
    let painted =
        |text: &str, paint: &str| if colour { format!("\x1b[{paint}m{text}\x1b[0m") } else { text.to_owned() };
    let Some(failure) = &outcome.failure else { return format!("  {} {}", painted("pass", "32"), outcome.name) };
    let mut text = format!("  {} {}", painted("FAIL", "31"), outcome.name);
    for line in failure.lines() {
        let line = match line.as_bytes().first() {
            Some(b'-') => painted(line, "31"),
            Some(b'+') => painted(line, "32"),
            _ => line.to_owned(),
        };
        text.push_str("\n      ");
        text.push_str(&line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_indented_and_painted_like_a_diff() {
        let failure = Some("totals:\n- {\"total\":5}\n+ {\"total\":6}".to_owned());
        let outcome = Outcome { name: "adds up".to_owned(), failure };
        assert_eq!(
            told(&outcome, false),
            "  FAIL adds up\n      totals:\n      - {\"total\":5}\n      + {\"total\":6}"
        );
        assert!(told(&outcome, true).contains("\x1b[32m+ {\"total\":6}\x1b[0m"));
        let passed = Outcome { name: "adds up".to_owned(), failure: None };
        assert_eq!(told(&passed, false), "  pass adds up");
    }
}
