//! [`Cost`]: what a run takes: time, and processor time of this process and of the server.

use std::ops::Sub;
use std::time::Instant;

use crate::Failed;

/// What was spent, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// That went by.
    pub seconds: f64,
    /// Processor time of this process.
    pub client: f64,
    /// Processor time of the server.
    pub server: f64,
}

/// The kernel counts processor time for programs in such steps, whatever its own clock does.
const TICKS_A_SECOND: f64 = 100.0;

impl Cost {
    /// Up to now, from a moment that is the same for all calls.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn so_far(server: u32) -> Result<Cost, Failed> {
        use std::sync::OnceLock;
        static START: OnceLock<Instant> = OnceLock::new();
        #[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
        let start = START.get_or_init(Instant::now);
        let seconds = start.elapsed().as_secs_f64();
        Ok(Cost { seconds, client: processor_time("self")?, server: processor_time(&server.to_string())? })
    }
}

impl Sub for Cost {
    type Output = Cost;

    fn sub(self, before: Cost) -> Cost {
        Cost {
            seconds: self.seconds - before.seconds,
            client: self.client - before.client,
            server: self.server - before.server,
        }
    }
}

fn processor_time(process: &str) -> Result<f64, Failed> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    ticks(&stat).map(|ticks| ticks as f64 / TICKS_A_SECOND).ok_or_else(|| format!("cannot read {stat:?}").into())
}

/// User and system time: the 14th and 15th field; the second is a name in brackets that may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, behind_name) = stat.rsplit_once(')')?;
    let mut fields = behind_name.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_system_time_are_found_behind_any_name() {
        assert_eq!(ticks("7 (a) b) c) S 1 2 3 4 5 6 7 8 9 10 30 12 0 0"), Some(42));
    }
}
