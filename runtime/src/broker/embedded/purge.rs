//! Purging a [`Stream`], and what its consumers hear of it.

use super::filter::Filter;
use super::stream::Stream;
use super::turn::Turn;
use crate::broker::is_subset;
use crate::broker::{Purge, Storage, Subject};

impl Stream {
    /// Purges as the API describes it; returns how many messages went.
    pub(super) fn purge(&mut self, purge: &Purge, turn: &mut Turn<'_>) -> u64 {
        let filter = purge.filter.as_deref().unwrap_or_default();
        let whole = filter.is_empty() || filter == ">";
        let mut alone = None;
        let purged = if purge.seq == 1 {
            0
        } else if whole && purge.keep == 0 && (purge.seq == 0 || purge.seq > self.log.last()) {
            let purged = self.log.len();
            self.log.clear(purge.seq);
            purged
        } else {
            let mut doomed = self.log.sequences(if whole { ">" } else { filter });
            if purge.seq > 0 {
                doomed.truncate(doomed.partition_point(|seq| *seq < purge.seq));
            }
            if purge.keep > 0 {
                doomed.truncate(doomed.len().saturating_sub(purge.keep as usize));
            }
            let removed = doomed.iter().filter_map(|seq| Some((*seq, self.log.remove(*seq)?.subject)));
            let last = removed.last();
            if !(whole && purge.keep == 0) && doomed.len() == 1 {
                alone = last;
            }
            doomed.len() as u64
        };
        if let Some((seq, subject)) = &mut alone {
            if self.config.storage == Storage::File {
                // Of one message, the file store tells only consumers that read all of the purge's pattern.
                *subject = Subject::from(if whole { ">" } else { filter }.to_owned());
            }
            self.consumers.values_mut().for_each(|consumer| consumer.count_removed(*seq, subject));
        } else if purged > 0 {
            self.consumers.values_mut().for_each(|consumer| consumer.recount(&self.log));
        }
        self.purge_consumers(filter, turn);
        if let Some((seq, subject)) = alone {
            for consumer in self.consumers.values_mut().filter(|consumer| consumer.filter.matches(&subject)) {
                consumer.forget(seq, &self.log, turn);
            }
        }
        purged
    }

    /// Moves consumers beyond what was purged.
    fn purge_consumers(&mut self, filter: &str, turn: &mut Turn<'_>) {
        let (first, last) = (self.log.first(), self.log.last());
        let only = Filter::new(Some(filter).filter(|filter| !filter.is_empty()));
        let filtered_first =
            if filter.is_empty() { first } else { self.log.next(first, &only).map_or(0, |(seq, _)| seq) };
        for consumer in self.consumers.values_mut() {
            let patterns = consumer.filter.patterns();
            let narrow = !patterns.is_empty() && patterns.iter().all(|pattern| is_subset(pattern, filter));
            if filter.is_empty() || narrow {
                consumer.on_purged(if filtered_first == 0 { last + 1 } else { filtered_first }, None, turn);
            } else if consumer.filter.is_all() || patterns.iter().any(|wide| is_subset(filter, wide)) {
                consumer.on_purged(first, Some(&self.log), turn);
            }
        }
    }
}
