//! Nexmark's events, as the `nexmark` crate makes them, from 1436918400000 ms on; the queries are tested with 10,000 a second.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;

/// The kinds of events: each is a subject, a source and a file.
pub(crate) const KINDS: [&str; 3] = ["person", "auction", "bid"];

/// Events in the order in which they come: their kind, and their JSON.
pub(crate) struct Events(Vec<(usize, String)>);

/// All events, one after the other: the number of its kind, and its JSON.
pub(crate) fn all(a_second: usize) -> impl Iterator<Item = (usize, String)> {
    let config = NexmarkConfig {
        base_time: 1_436_918_400_000,
        first_rate: a_second,
        next_rate: a_second,
        ..NexmarkConfig::default()
    };
    EventGenerator::new(config).map(|event| match event {
        Event::Person(person) => (0, serde_json::to_string(&person).unwrap()),
        Event::Auction(auction) => (1, serde_json::to_string(&auction).unwrap()),
        Event::Bid(bid) => (2, serde_json::to_string(&bid).unwrap()),
    })
}

impl FromIterator<(usize, String)> for Events {
    fn from_iter<I: IntoIterator<Item = (usize, String)>>(events: I) -> Self {
        Events(events.into_iter().collect())
    }
}

impl Events {
    /// The first `count` events, in the order of their times.
    pub(crate) fn first(count: usize) -> Events {
        all(10_000).take(count).collect()
    }

    /// The same events, none of them more than `within` places from where it was.
    pub(crate) fn shuffled(&self, within: u64) -> Events {
        // A multiplicative generator is random enough, and the same everywhere.
        let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
        let mut place = |at: usize| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            at as u64 + (dice >> 33) % within
        };
        let mut moved: Vec<_> = self.0.iter().enumerate().map(|(at, event)| (place(at), event.clone())).collect();
        moved.sort_by_key(|(place, _)| *place);
        Events(moved.into_iter().map(|(_, event)| event).collect())
    }

    /// Each event with the name of its kind, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(kind, json)| (KINDS[*kind], json.as_str()))
    }

    /// Writes a file of lines for each kind.
    pub(crate) fn write(&self, folder: &Path) {
        let file = |kind: &str| BufWriter::new(File::create(folder.join(format!("{kind}.ndjson"))).unwrap());
        let mut files = KINDS.map(file);
        for (kind, json) in &self.0 {
            writeln!(files[*kind], "{json}").unwrap();
        }
        files.into_iter().for_each(|mut file| file.flush().unwrap());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shuffled_events_are_the_same_ones_near_where_they_were() {
        let (ordered, shuffled) = (Events::first(5_000), Events::first(5_000).shuffled(500));
        let place_of: std::collections::HashMap<_, _> = ordered.0.iter().enumerate().map(|(n, e)| (e, n)).collect();
        assert_eq!(place_of.len(), 5_000);
        let moved: Vec<_> = shuffled.0.iter().enumerate().map(|(at, event)| at.abs_diff(place_of[event])).collect();
        assert!(moved.iter().all(|by| *by <= 500) && moved.iter().filter(|by| **by > 100).count() > 1_000);
    }
}
