//! [`Told`]: what an edge says of event time, in one place however often it is said.

use std::sync::{Arc, Mutex, PoisonError};

use millstream_operators::{Timestamp, Watermark};

/// The watermarks of one edge that nothing else came behind and that nobody has taken: the latest time, and whether the input
/// is idle now. A task that stands still is told again and again how late it is, by a clock, by other inputs or by rows that
/// are all filtered out; what it was told before does not matter to it any more, and must not pile up before it.
///
/// That an input was idle for a while in between is left out: others wait for it as if it had not been.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told(Arc<Mutex<Option<Latest>>>);

#[derive(Clone, Copy, Debug)]
struct Latest {
    at: Option<Timestamp>,
    idle: bool,
}

impl Told {
    /// The first of them.
    pub(crate) fn new(watermark: Watermark) -> Self {
        let first = match watermark {
            Watermark::At(at) => Latest { at: Some(at), idle: false },
            Watermark::Idle => Latest { at: None, idle: true },
        };
        Told(Arc::new(Mutex::new(Some(first))))
    }

    /// Says more, if it was not taken yet; says whether it was said.
    pub(crate) fn add(&self, watermark: Watermark) -> bool {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(latest) = latest.as_mut() else { return false };
        match watermark {
            Watermark::At(at) => *latest = Latest { at: latest.at.max(Some(at)), idle: false },
            Watermark::Idle => latest.idle = true,
        }
        true
    }

    /// Takes them: how far time has come, and that the input is idle.
    pub(crate) fn take(&self) -> [Option<Watermark>; 2] {
        let latest = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let at = latest.and_then(|latest| latest.at).map(Watermark::At);
        [at, latest.filter(|latest| latest.idle).map(|_| Watermark::Idle)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: i64) -> Watermark {
        Watermark::At(Timestamp::from_micros(micros))
    }

    #[test]
    fn the_latest_is_what_is_told() {
        let told = Told::new(at(1));
        assert!(told.add(at(3)) && told.add(at(2)));
        assert_eq!(told.take(), [Some(at(3)), None]);
        assert!(!told.add(at(4)), "it was taken: what comes now is another");
        assert_eq!(told.take(), [None, None]);
    }

    #[test]
    fn who_is_idle_again_is_idle_and_who_is_not_is_not() {
        let told = Told::new(Watermark::Idle);
        assert!(told.add(at(3)));
        assert_eq!(told.clone().take(), [Some(at(3)), None]);
        let told = Told::new(at(3));
        assert!(told.add(Watermark::Idle) && told.add(at(5)) && told.add(Watermark::Idle));
        assert_eq!(told.take(), [Some(at(5)), Some(Watermark::Idle)]);
    }
}
