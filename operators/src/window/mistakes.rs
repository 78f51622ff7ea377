//! What is wrong with windows as they are declared: spans of no length, and gaps in which rows get lost.

use super::{CountWindows, Emit, GlobalWindows, LastRows, SessionWindows, TimeWindows, Until};
use crate::Problem;

/// A setting that must be longer than nothing.
fn no_length(setting: &str, what: &str, help: &str) -> Problem {
    Problem::at("", what).in_setting(setting).help(help)
}

/// A session or another span that ends where rows stay away for no time.
pub(crate) fn no_gap() -> Problem {
    no_length("session", "a session with gaps of no length is over at once", "say how long rows may stay away: `5m`")
}

impl Emit {
    /// What is wrong with it.
    pub fn problem(self) -> Option<Problem> {
        let Emit::Every(span) = self else { return None };
        let wrong = || no_length("emit.every", "early results would be due all the time", "say how often: `1s`");
        span.is_zero().then(wrong)
    }
}

impl TimeWindows {
    /// What is wrong with them: each with the setting that is to blame, as pipeline files call it.
    pub fn problems(&self) -> Vec<Problem> {
        let is_tumbling = self.size == self.every;
        let mut all = Vec::new();
        if self.no_size {
            let setting = if is_tumbling { "tumbling" } else { "sliding" };
            all.push(no_length(setting, "no row is in a window of no length", "say how long they are: `1m`"));
        }
        if self.no_distance && !is_tumbling {
            let what = "windows would begin all the time, and each row would be in more of them than there is time for";
            all.push(no_length("every", what, "say how far apart they begin: `10s`"));
        }
        if self.every > self.size && !self.no_size {
            let what =
                "windows begin further apart than they are long: the rows in between would be in none, and get lost";
            let help = "begin them no further apart than they are long; to leave rows out, `filter` them before";
            all.push(Problem::at("", what).in_setting("every").help(help));
        }
        all.extend(self.emit.problem());
        all
    }

    /// The settings by which a window gives its result more than once.
    pub fn repeats(&self) -> Vec<&'static str> {
        repeats(self.emit, self.allowed_lateness.is_zero())
    }
}

impl SessionWindows {
    /// What is wrong with them: each with the setting that is to blame, as pipeline files call it.
    pub fn problems(&self) -> Vec<Problem> {
        self.no_gap.then(no_gap).into_iter().chain(self.emit.problem()).collect()
    }

    /// The settings by which a window gives its result more than once.
    pub fn repeats(&self) -> Vec<&'static str> {
        repeats(self.emit, self.allowed_lateness.is_zero())
    }
}

fn repeats(emit: Emit, never_late: bool) -> Vec<&'static str> {
    let emits = (emit != Emit::OnClose).then_some("emit");
    emits.into_iter().chain((!never_late).then_some("allowed_lateness")).collect()
}

impl GlobalWindows {
    /// What is wrong with them: each with the setting that is to blame, as pipeline files call it.
    pub fn problems(&self) -> Vec<Problem> {
        self.emit.problem().into_iter().collect()
    }
}

impl<F> Until<F> {
    /// What is wrong with them: each with the setting that is to blame, as pipeline files call it.
    pub fn problems(&self) -> Vec<Problem> {
        self.emit.problem().into_iter().collect()
    }
}

impl CountWindows {
    pub(super) fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}

impl<O> LastRows<O> {
    pub(super) fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{global, session, sliding, tumbling, until};
    use super::*;
    use crate::Timestamp;

    fn settings(problems: &[Problem]) -> Vec<&str> {
        problems.iter().filter_map(|problem| problem.setting.as_deref()).collect()
    }

    #[test]
    fn spans_of_no_length_and_gaps_are_told_with_the_setting() {
        let (second, no) = (Duration::from_secs(1), Duration::ZERO);
        assert_eq!(settings(&tumbling(second).problems()), [""; 0]);
        assert_eq!(settings(&sliding(second, second / 2).emit(Emit::Every(second)).problems()), [""; 0]);
        assert_eq!(settings(&tumbling(no).problems()), ["tumbling"]);
        assert_eq!(settings(&sliding(second, no).emit(Emit::Every(no)).problems()), ["every", "emit.every"]);
        assert_eq!(settings(&sliding(no, second).problems()), ["sliding"]);
        assert_eq!(settings(&sliding(second, second * 2).problems()), ["every"]);
        assert_eq!(settings(&session(no).emit(Emit::Every(no)).problems()), ["session", "emit.every"]);
        assert_eq!(settings(&global().emit(Emit::Every(no)).problems()), ["emit.every"]);
        assert_eq!(settings(&until(|_: &u8| Timestamp::MIN).emit(Emit::Every(no)).problems()), ["emit.every"]);
    }

    #[test]
    fn what_has_a_window_give_its_result_again_is_known() {
        let second = Duration::from_secs(1);
        assert_eq!(tumbling(second).emit(Emit::OnChange).repeats(), ["emit"]);
        assert_eq!(session(second).allowed_lateness(second).repeats(), ["allowed_lateness"]);
        assert_eq!(tumbling(second).repeats(), [""; 0]);
    }
}
