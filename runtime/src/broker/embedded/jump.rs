//! A consumer's jumps: by a reset, and over what was purged.

use super::consumer::Consumer;
use super::log::Log;
use super::redelivery::Redeliveries;
use super::turn::Turn;
use crate::broker::{DeliverPolicy, SequencePair};

/// Where a consumer was made or set last: what the server is sure to have written down.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Origin {
    pub(super) floor: SequencePair,
    pub(super) next: u64,
}

impl Consumer {
    /// Moves on after a purge up to `first`; with `still` there, only what is gone from it is forgotten above that.
    pub(super) fn on_purged(&mut self, first: u64, still: Option<&Log>, turn: &mut Turn<'_>) {
        self.next = self.next.max(first);
        if self.floor.stream_seq < first {
            self.floor.stream_seq = first.saturating_sub(1);
            let floor = self.floor.stream_seq;
            let gone = |seq: u64| seq <= floor || still.is_some_and(|log| log.get(seq).is_none());
            let doomed: Vec<_> = self.pending.iter().filter(|(seq, _)| gone(**seq)).map(|(s, p)| (*s, *p)).collect();
            for (seq, pending) in doomed {
                if pending.consumer_seq > self.floor.consumer_seq {
                    self.floor.consumer_seq = pending.consumer_seq;
                    self.next_delivery = self.next_delivery.max(self.floor.consumer_seq);
                }
                self.pending.remove(&seq);
                self.redelivered.remove(&seq);
                self.show_ack(pending.consumer_seq, seq, true);
                self.last_acked_at = Some(turn.now);
            }
        }
        if self.pending.is_empty() {
            self.redelivered.clear();
            self.floor = self.position();
        }
        self.redeliveries.retain_from(self.next);
        self.show_all();
    }

    /// Starts over at `seq`, or at the ack floor; returns where.
    ///
    /// # Errors
    /// Why the deliver policy does not allow it.
    pub(super) fn reset(&mut self, seq: u64, log: &Log, turn: &mut Turn<'_>) -> Result<u64, &'static str> {
        let seq = match self.config.deliver_policy {
            _ if seq == 0 => self.floor.stream_seq + 1,
            DeliverPolicy::ByStartSequence if seq < self.config.opt_start_seq => return Err("below start seq"),
            DeliverPolicy::ByStartTime => {
                let time = self.config.opt_start_time.as_deref().and_then(super::clock::parse_rfc3339);
                if seq < log.first_at(time.unwrap_or(i64::MIN)) {
                    return Err("below start time");
                }
                seq
            }
            DeliverPolicy::All | DeliverPolicy::ByStartSequence => seq,
            _ => return Err("not allowed"),
        };
        let floor = SequencePair { consumer_seq: 0, stream_seq: seq - 1 };
        self.origin = Origin { floor, next: seq };
        self.stand_at(floor, seq);
        self.recount(log);
        self.pump(log, turn);
        Ok(seq)
    }

    /// Knows of no delivery behind `floor`; the next is at `next` or behind it.
    pub(super) fn stand_at(&mut self, floor: SequencePair, next: u64) {
        self.pending.clear();
        self.redelivered.clear();
        self.redeliveries = Redeliveries::default();
        self.next = next;
        self.next_delivery = floor.consumer_seq + 1;
        self.floor = floor;
        self.shown_delivered = floor;
        self.shown_floor = floor;
        (self.last_delivered_at, self.last_acked_at) = (None, None);
    }
}
