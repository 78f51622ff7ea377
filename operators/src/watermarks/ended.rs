//! [`forget`]: subjects that are over do not pile up.

use std::collections::{BTreeMap, BTreeSet};

use super::part::Part;
use crate::Timestamp;

/// So many of the subjects that are over are remembered.
pub(super) const KEPT: usize = 256;

/// Forgets the parts that are over, but for the last `kept` of them by event time: those that are idle and not further than
/// `told`, which is the watermark and the lateness that rows may have.
///
/// No watermark is another because of it. An idle part counts for nothing, and one that has a row again, at a time `t`, counts
/// as `max(highest, t)`. Behind a watermark that does not go back, whatever is not further than `told` counts like `told`
/// itself. So `max(highest, t)` counts like `t`, which is where a part begins that was forgotten, or never there.
///
/// That leaves a `t` that is too far ahead of `highest` to be believed, where one that begins anew is believed. Therefore
/// the last ones are kept: rows far ahead move nothing where subjects are as many as they are meant to be.
pub(super) fn forget(parts: &mut BTreeMap<String, Part>, told: Timestamp, kept: usize) {
    let over = parts.iter().filter(|(_, part)| part.is_idle() && part.highest <= told);
    let mut over: Vec<(Timestamp, &String)> = over.map(|(subject, part)| (part.highest, subject)).collect();
    if over.len() <= kept {
        return;
    }
    over.sort_unstable();
    let gone: BTreeSet<String> = over.iter().rev().skip(kept).map(|(_, subject)| (*subject).clone()).collect();
    parts.retain(|subject, _| !gone.contains(subject));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{Progress, Watermarks, bounded_lateness};
    use super::*;
    use crate::{Frozen, StateVisitor, Watermark};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    fn by_subject() -> Watermarks {
        bounded_lateness(Duration::from_secs(5)).per_subject().idle_after(Duration::from_secs(30))
    }

    fn saw(progress: &mut Progress, subject: &str, times: &[Timestamp]) {
        progress.saw(subject, times, |_| None);
    }

    /// Looks at the clock until all are idle.
    fn look_away(progress: &mut Progress) {
        (0..3).for_each(|_| progress.look());
    }

    fn restored(progress: &mut Progress) -> Progress {
        let mut frozen = Frozen::default();
        progress.state(&mut StateVisitor::freeze(&mut frozen)).unwrap();
        let mut restored = Progress::new(by_subject());
        restored.state(&mut StateVisitor::restore(&frozen.encode(128).unwrap())).unwrap();
        restored
    }

    #[test]
    fn the_slowest_subject_holds_the_watermark_until_it_is_idle() {
        let mut progress = Progress::new(by_subject());
        saw(&mut progress, "slow", &[at(50)]);
        saw(&mut progress, "quick", &[at(100)]);
        assert_eq!(progress.news(), Some(Watermark::At(at(45))));
        for _ in 0..2 {
            progress.look();
            saw(&mut progress, "quick", &[at(110)]);
            assert_eq!(progress.news(), None);
        }
        progress.look();
        saw(&mut progress, "quick", &[at(120)]);
        assert_eq!(progress.news(), Some(Watermark::At(at(115))));
        // It speaks again: nothing goes back, and it holds the others from now on.
        saw(&mut progress, "slow", &[at(60)]);
        saw(&mut progress, "quick", &[at(130)]);
        assert_eq!(progress.news(), None);
    }

    #[test]
    fn the_watermark_does_not_go_back_when_a_subject_that_was_idle_is_restored() {
        let mut progress = Progress::new(by_subject());
        saw(&mut progress, "slow", &[at(50)]);
        look_away(&mut progress);
        saw(&mut progress, "quick", &[at(100)]);
        assert_eq!(progress.news(), Some(Watermark::At(at(95))));
        let mut progress = restored(&mut progress);
        assert_eq!((progress.news(), progress.news()), (Some(Watermark::At(at(95))), None));
    }

    #[test]
    fn of_many_subjects_that_come_and_go_the_last_ones_are_kept() {
        let mut progress = Progress::new(by_subject());
        for n in 0..2_000 {
            saw(&mut progress, &format!("job.{n}"), &[at(n)]);
            progress.news();
            progress.look();
            // No more than three of them are not idle yet.
            assert!(progress.parts.len() <= KEPT + 3, "{} at {n}", progress.parts.len());
        }
        assert!(progress.parts.contains_key("job.1999") && !progress.parts.contains_key("job.1000"));
        assert_eq!(restored(&mut progress).parts.len(), progress.parts.len());
    }

    #[test]
    fn a_checkpoint_of_old_that_has_all_subjects_is_gone_on_with_and_they_go() {
        let mut old = Progress::new(by_subject());
        old.kept = usize::MAX;
        for n in 0..1_000 {
            saw(&mut old, &format!("job.{n}"), &[at(n)]);
            look_away(&mut old);
        }
        saw(&mut old, "job.last", &[at(1_000)]);
        assert_eq!(old.news(), Some(Watermark::At(at(995))));
        let mut progress = restored(&mut old);
        assert_eq!((progress.parts.len(), progress.news()), (1_001, Some(Watermark::At(at(995)))));
        look_away(&mut progress);
        assert_eq!((progress.parts.len(), progress.news()), (KEPT, Some(Watermark::Idle)));
        saw(&mut progress, "job.last", &[at(1_010)]);
        assert_eq!(progress.news(), Some(Watermark::At(at(1_005))));
    }

    #[test]
    fn a_row_far_ahead_of_a_subject_that_was_idle_moves_nothing() {
        let mut progress = Progress::new(by_subject());
        saw(&mut progress, "sensor", &[at(100)]);
        assert_eq!(progress.news(), Some(Watermark::At(at(95))));
        look_away(&mut progress);
        assert_eq!(progress.news(), Some(Watermark::Idle));
        saw(&mut progress, "sensor", &[at(20_000 * 86_400)]);
        assert_eq!(progress.news(), Some(Watermark::At(at(95))));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Row(u8, i64),
        Look,
        Silence,
    }

    fn step() -> impl Strategy<Value = Step> {
        // Hours at most: nothing is far ahead.
        let row = (0u8..6, 0i64..7_200).prop_map(|(subject, time)| Step::Row(subject, time));
        prop_oneof![4 => row, 4 => Just(Step::Look), 1 => Just(Step::Silence)]
    }

    proptest! {
        #[test]
        fn watermarks_are_the_same_as_if_nothing_was_forgotten(
            kept in 0usize..4,
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let (mut progress, mut whole) = (Progress::new(by_subject()), Progress::new(by_subject()));
            (progress.kept, whole.kept) = (kept, usize::MAX);
            for step in steps {
                for progress in [&mut progress, &mut whole] {
                    match step {
                        Step::Row(subject, time) => saw(progress, &subject.to_string(), &[at(time)]),
                        Step::Look => progress.look(),
                        Step::Silence => progress.fall_silent(),
                    }
                }
                prop_assert_eq!(progress.news(), whole.news());
            }
        }
    }
}
