//! [`corpus`]: seeds that have caught something, which are always tried.

use millstream::operators::bugs::Bug;

/// A seed that has caught something.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// The seed.
    pub seed: u64,
    /// The planted bug that it catches; none if what it caught was not planted.
    pub bug: Option<Bug>,
}

/// All of `seeds.txt`, in which a line is a seed, and what it catches or, behind `#`, has caught.
///
/// # Panics
/// A line is not like that.
pub fn corpus() -> Vec<Known> {
    let lines = include_str!("seeds.txt").lines().map(str::trim);
    lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(known).collect()
}

fn known(line: &str) -> Known {
    let (seed, words) = line.split_once(' ').unwrap_or((line, "#"));
    let bug = (!words.starts_with('#')).then(|| Bug::ALL.into_iter().find(|bug| format!("{bug:?}") == words).unwrap());
    Known { seed: seed.parse().unwrap(), bug }
}
