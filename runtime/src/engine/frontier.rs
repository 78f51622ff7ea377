//! [`Frontier`]: merges the watermarks of several inputs.

use millstream_operators::bugs::{Bug, planted};
use millstream_operators::{Timestamp, Watermark};

/// The watermark of a node with several inputs: the minimum over those that are live and not idle. An input that has
/// closed counts as the end of time.
#[derive(Debug)]
pub(crate) struct Frontier {
    inputs: Vec<Input>,
    reached: Timestamp,
    given: Option<Watermark>,
}

#[derive(Clone, Copy, Debug)]
enum Input {
    Unknown,
    At(Timestamp),
    Idle,
    Closed,
}

impl Frontier {
    pub(crate) fn new(inputs: usize) -> Self {
        Frontier { inputs: vec![Input::Unknown; inputs], reached: Timestamp::MIN, given: None }
    }

    /// Takes the watermark of one input; gives the merged one if it moved. It never goes back: an input that was idle
    /// and is behind when it comes again waits for none, and its rows are late.
    pub(crate) fn update(&mut self, input: usize, watermark: Watermark) -> Option<Watermark> {
        let slot = self.inputs.get_mut(input)?;
        *slot = match (watermark, *slot) {
            (_, Input::Closed) => Input::Closed,
            // Who looks at the clock may say so behind the end.
            (Watermark::Idle, Input::At(Timestamp::MAX)) => *slot,
            (Watermark::At(at), Input::At(before)) => Input::At(at.max(before)),
            (Watermark::At(at), _) => Input::At(at),
            (Watermark::Idle, _) => Input::Idle,
        };
        self.merged()
    }

    /// The input has ended; gives the merged watermark if it moved.
    pub(crate) fn close(&mut self, input: usize) -> Option<Watermark> {
        *self.inputs.get_mut(input)? = Input::Closed;
        self.merged()
    }

    fn merged(&mut self) -> Option<Watermark> {
        let mut least: Option<Timestamp> = None;
        let mut idle = false;
        for input in &self.inputs {
            match input {
                Input::Unknown => return None,
                Input::At(at) if planted(Bug::GreatestWatermark) => least = least.max(Some(*at)),
                Input::At(at) => least = Some(least.map_or(*at, |least| least.min(*at))),
                Input::Idle => idle = true,
                Input::Closed => {}
            }
        }
        let merged = match least {
            // It comes when it has come for all: who is idle may hold rows until then.
            Some(Timestamp::MAX) | None if idle => Watermark::Idle,
            Some(at) => Watermark::At(at.max(self.reached)),
            None => Watermark::At(Timestamp::MAX),
        };
        if self.given == Some(merged) {
            return None;
        }
        if let Watermark::At(at) = merged {
            self.reached = at;
        }
        self.given = Some(merged);
        Some(merged)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: i64) -> Watermark {
        Watermark::At(Timestamp::from_micros(micros))
    }

    #[test]
    fn waits_for_the_slowest_input() {
        let mut frontier = Frontier::new(2);
        assert_eq!(frontier.update(0, at(10)), None);
        assert_eq!(frontier.update(1, at(5)), Some(at(5)));
        assert_eq!(frontier.update(0, at(20)), None);
        assert_eq!(frontier.update(1, at(15)), Some(at(15)));
    }

    #[test]
    fn an_idle_input_holds_nobody_back() {
        let mut frontier = Frontier::new(2);
        frontier.update(0, at(10));
        assert_eq!(frontier.update(1, Watermark::Idle), Some(at(10)));
        assert_eq!(frontier.update(0, Watermark::Idle), Some(Watermark::Idle));
    }

    #[test]
    fn the_end_of_time_waits_for_those_that_are_idle() {
        let mut frontier = Frontier::new(3);
        frontier.update(0, at(10));
        frontier.update(1, at(20));
        assert_eq!(frontier.update(2, Watermark::Idle), Some(at(10)));
        let end = Watermark::At(Timestamp::MAX);
        assert_eq!(frontier.update(0, end), Some(at(20)));
        assert_eq!(frontier.update(1, end), Some(Watermark::Idle));
        assert_eq!(frontier.update(1, Watermark::Idle), None);
        assert_eq!(frontier.update(2, end), Some(end));
    }

    #[test]
    fn a_closed_input_counts_as_the_end_of_time() {
        let mut frontier = Frontier::new(2);
        frontier.update(0, at(10));
        assert_eq!(frontier.close(1), Some(at(10)));
        assert_eq!(frontier.close(0), Some(Watermark::At(Timestamp::MAX)));
    }

    proptest! {
        #[test]
        fn never_goes_back_and_never_passes_a_live_input(
            steps in proptest::collection::vec((0usize..3, 0u8..8, 0i64..50), 1..80)
        ) {
            let mut frontier = Frontier::new(3);
            // The oracle: each input's own watermark; None for unknown, idle or closed.
            let mut live: [Option<i64>; 3] = [None; 3];
            let mut reached = [0i64; 3];
            let mut last = i64::MIN;
            for (input, what, time) in steps {
                let given = match what {
                    0 => { live[input] = None; frontier.update(input, Watermark::Idle) }
                    _ => {
                        reached[input] = reached[input].max(time);
                        live[input] = Some(reached[input]);
                        frontier.update(input, at(time))
                    }
                };
                if let Some(Watermark::At(now)) = given {
                    let (now, slowest) = (now.as_micros(), live.iter().flatten().min().copied());
                    prop_assert!(now >= last);
                    prop_assert!(now == last || slowest.is_none_or(|slowest| now <= slowest));
                    last = now;
                }
            }
        }
    }
}
