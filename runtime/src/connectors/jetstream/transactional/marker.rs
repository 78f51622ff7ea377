//! [`Marker`]: how far the outputs of a sink are in its stream, and who may go on.

use millstream_operators::{Epoch, Fault, FaultKind, Marked, Outputs, Result, Retry};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The message that each batch of outputs begins with, the only one on its subject.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Marker {
    /// The version of its form.
    v: u32,
    /// The run that may publish behind it.
    pub(super) owner: String,
    /// The checkpoint whose outputs were published last; 0 before the first.
    pub(super) ckpt: Epoch,
    /// How many of them are.
    pub(super) next: u64,
    /// How many there are.
    pub(super) total: u64,
    /// Where the sources stood behind these outputs, where no checkpoint tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) positions: Option<Value>,
}

/// Without positions.
const VERSION: u32 = 1;
/// With positions: who does not know them must not go on.
const AHEAD: u32 = 2;
const BEGIN: &str = "mill.txn.";

/// The subject of the marker of a subtask of a sink.
pub(super) fn marker_subject(pipeline: &str, node: &str, subtask: u32) -> String {
    format!("{BEGIN}{pipeline}.{node}.{subtask}")
}

/// The subjects of the markers of a sink: its stream must take them.
pub(crate) fn marker_subjects(pipeline: &str, node: &str) -> String {
    format!("{BEGIN}{pipeline}.{node}.*")
}

/// Whether a message on this subject is a marker, and no data.
pub(crate) fn is_marker(subject: &str) -> bool {
    subject.starts_with(BEGIN)
}

impl Marker {
    /// A marker of `owner`: of the outputs of a checkpoint, `next` are published.
    pub(super) fn of(owner: &str, ckpt: Epoch, next: u64, total: u64) -> Self {
        Marker { v: VERSION, owner: owner.to_owned(), ckpt, next, total, positions: None }
    }

    /// A marker of `owner`: all outputs up to `epoch` are published, behind which the sources stood there.
    pub(super) fn ahead(owner: &str, epoch: Epoch, positions: Value) -> Self {
        Marker { v: AHEAD, positions: Some(positions), ..Marker::of(owner, epoch, 0, 0) }
    }

    /// The same marker, of another run.
    pub(super) fn owned_by(self, owner: &str) -> Self {
        Marker { owner: owner.to_owned(), ..self }
    }

    /// What it says.
    pub(super) fn marked(&self) -> Marked {
        Marked { epoch: self.ckpt, total: self.total, positions: self.positions.clone() }
    }

    /// Whether outputs are there that came behind what a checkpoint has kept, with the positions that belong to them.
    pub(super) fn is_ahead_of(&self, kept: Option<&Outputs>) -> bool {
        self.positions.is_some() && kept.is_some_and(|kept| kept.ahead && self.ckpt > kept.epoch)
    }

    /// Reads a marker that was found at `place`.
    ///
    /// # Errors
    /// It is none, or of a version that is not known.
    pub(super) fn read(bytes: &[u8], place: &str) -> Result<Self> {
        let wrong = |what: String| stop(format!("the marker on {place} {what}"));
        let marker: Marker =
            serde_json::from_slice(bytes).map_err(|error| wrong(format!("is none of Millstream's: {error}")))?;
        match marker.v {
            VERSION | AHEAD => Ok(marker),
            other => Err(wrong(format!("has version {other}, which this version of Millstream does not know"))),
        }
    }

    /// The bytes of it.
    pub(super) fn bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// How far the outputs are, as the marker on `place` and the checkpoint that a run starts from say together: the
/// checkpoint, how many of its outputs are published, and how many there are.
///
/// # Errors
/// They contradict each other: outputs of later checkpoints are there, or of earlier ones are not. What to do is for people
/// to say.
pub(super) fn reconcile(marker: Option<&Marker>, kept: Option<&Outputs>, place: &str) -> Result<(Epoch, u64, u64)> {
    let Some(kept) = kept else {
        return match marker {
            None => Ok((Epoch(0), 0, 0)),
            Some(marker) if marker.ckpt == Epoch(0) => Ok((Epoch(0), 0, 0)),
            Some(marker) => Err(older(marker, "none whose outputs it has", place)),
        };
    };
    let begin = (kept.epoch, 0, kept.total);
    match marker {
        // It went with the outputs, by age or by hand, when nothing of them was to be published any more.
        None if kept.published && !kept.ahead => Ok((kept.epoch, kept.total, kept.total)),
        None if kept.ahead => Err(stop(format!(
            "the marker on {place} is not there, and where the sources stand is known from it alone: {CAUSES}. Start under a new pipeline name, or with --rewind to go on from where they stood at checkpoint {}: outputs since then come twice{}",
            kept.epoch,
            if kept.published { String::new() } else { format!(", and so may its own {}", kept.total) }
        ))),
        None => {
            let what = format!("is not there, and the outputs of checkpoint {} may be, or not", kept.epoch);
            Err(lost(&what, kept, place))
        }
        Some(marker) if marker.ckpt == kept.epoch => match marker.total == kept.total && marker.next <= kept.total {
            true if kept.published && marker.next < kept.total => Err(lost(
                &format!(
                    "says that {} of {} outputs of checkpoint {} are published, which all were",
                    marker.next, marker.total, kept.epoch
                ),
                kept,
                place,
            )),
            true => Ok((kept.epoch, marker.next, kept.total)),
            false => Err(lost(
                &format!("speaks of {} outputs of checkpoint {}, which has {}", marker.total, kept.epoch, kept.total),
                kept,
                place,
            )),
        },
        Some(marker) if marker.ckpt > kept.epoch => {
            Err(older(marker, &format!("{} or later ones without", kept.epoch), place))
        }
        Some(marker) => {
            let before = kept.before.unwrap_or_default();
            match !kept.published && before == (marker.ckpt, marker.next) && marker.next == marker.total {
                true => Ok(begin),
                false => Err(lost(
                    &format!(
                        "says that {} of {} outputs of checkpoint {} were the last, and those of {} were published since",
                        marker.next,
                        marker.total,
                        marker.ckpt,
                        if kept.published { kept.epoch } else { before.0 }
                    ),
                    kept,
                    place,
                )),
            }
        }
    }
}

/// How many of the outputs of a checkpoint are taken for published where they may come twice: those of which nobody can tell
/// are not, so that none is left out.
pub(super) fn rewound(marker: Option<&Marker>, kept: &Outputs) -> u64 {
    match marker {
        // Nobody has their records any more.
        _ if kept.published => kept.total,
        // Those of later checkpoints were published when all of these were.
        Some(marker) if marker.ckpt > kept.epoch => kept.total,
        Some(marker) if marker.ckpt == kept.epoch && marker.total == kept.total => marker.next.min(kept.total),
        _ => 0,
    }
}

/// How a marker comes to be gone or an older one.
const CAUSES: &str =
    "the stream was purged, limited, recreated or restored from an older copy, or is another one than before";

fn older(marker: &Marker, newest: &str, place: &str) -> Fault {
    stop(format!(
        "the outputs of checkpoint {} are published ({place}), and the checkpoint that the pipeline starts from is {newest}: it was lost, removed, or is a savepoint; to go on from it would store outputs twice. Start under a new pipeline name, or with --rewind if they may come twice",
        marker.ckpt
    ))
}

fn lost(what: &str, kept: &Outputs, place: &str) -> Fault {
    let Outputs { epoch, total, published, .. } = kept;
    let way_out = match published {
        true => format!(
            "to go on as if all were there: what the stream has lost of the outputs up to checkpoint {epoch} is not published again"
        ),
        false => format!(
            "to publish the {total} outputs of checkpoint {epoch}, of which those come twice that are there already; what the stream has lost of earlier ones is not published again"
        ),
    };
    stop(format!("the marker on {place} {what}: {CAUSES}. Start under a new pipeline name, or with --rewind {way_out}"))
}

fn stop(words: String) -> Fault {
    Fault::new(FaultKind::Checkpoint, words).retry_with(Retry::Never)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ckpt: u64, next: u64, total: u64) -> Option<Marker> {
        Some(Marker::of("me", Epoch(ckpt), next, total))
    }

    fn kept(epoch: u64, total: u64, before: Option<(u64, u64)>) -> Option<Outputs> {
        let before = before.map(|(epoch, total)| (Epoch(epoch), total));
        Some(Outputs { epoch: Epoch(epoch), total, before, ..Outputs::default() })
    }

    fn published(epoch: u64, total: u64) -> Option<Outputs> {
        Some(Outputs { published: true, ..kept(epoch, total, Some((2, 7))).unwrap() })
    }

    fn ahead(epoch: u64, total: u64) -> Option<Outputs> {
        Some(Outputs { ahead: true, ..published(epoch, total).unwrap() })
    }

    fn reconciled(marker: &Option<Marker>, kept: &Option<Outputs>) -> Result<(u64, u64, u64), String> {
        let all = reconcile(marker.as_ref(), kept.as_ref(), "S/mill.txn.p.out.0");
        all.map(|(epoch, next, total)| (epoch.0, next, total)).map_err(|fault| fault.to_string())
    }

    #[test]
    fn it_goes_on_where_marker_and_checkpoint_agree() {
        for (marker, kept, wanted) in [
            (None, None, (0, 0, 0)),
            (at(0, 0, 0), None, (0, 0, 0)),
            (at(0, 0, 0), kept(3, 5, None), (3, 0, 5)),
            (at(3, 2, 5), kept(3, 5, None), (3, 2, 5)),
            (at(3, 5, 5), kept(3, 5, Some((2, 7))), (3, 5, 5)),
            (at(2, 7, 7), kept(3, 5, Some((2, 7))), (3, 0, 5)),
            (at(3, 5, 5), published(3, 5), (3, 5, 5)),
            (None, published(3, 5), (3, 5, 5)),
            (at(3, 5, 5), ahead(3, 5), (3, 5, 5)),
        ] {
            assert_eq!(reconciled(&marker, &kept), Ok(wanted), "{marker:?} {kept:?}");
        }
    }

    #[test]
    fn it_stops_where_they_contradict_each_other() {
        for (marker, kept, words) in [
            (at(4, 1, 2), kept(3, 5, Some((2, 7))), "the outputs of checkpoint 4 are published"),
            (at(4, 1, 2), None, "none whose outputs it has"),
            (None, kept(3, 5, Some((2, 7))), "is not there"),
            (None, kept(3, 5, None), "is not there"),
            (at(2, 6, 7), kept(3, 5, Some((2, 7))), "6 of 7 outputs of checkpoint 2"),
            (at(1, 4, 4), kept(3, 5, Some((2, 7))), "those of 2 were published since"),
            (at(0, 0, 0), kept(3, 5, Some((2, 7))), "those of 2 were published since"),
            (at(3, 2, 6), kept(3, 5, None), "speaks of 6 outputs"),
            (at(3, 2, 5), published(3, 5), "which all were"),
            (at(2, 7, 7), published(3, 5), "those of 3 were published since"),
            (None, ahead(0, 0), "where the sources stand is known from it alone"),
            (at(2, 7, 7), ahead(3, 5), "those of 3 were published since"),
            (at(4, 5, 5), ahead(3, 5), "the outputs of checkpoint 4 are published"),
        ] {
            let told = reconciled(&marker, &kept).unwrap_err();
            assert!(told.contains(words) && told.contains("--rewind"), "{marker:?} {kept:?}: {told}");
        }
    }

    #[test]
    fn what_a_rewind_does_is_said_and_leaves_no_output_out_whose_record_is_there() {
        for (marker, kept, wanted) in [
            (None, kept(3, 5, Some((2, 7))), 0),
            (at(2, 7, 7), kept(3, 5, Some((2, 7))), 0),
            (at(1, 4, 4), kept(3, 5, Some((2, 7))), 0),
            (at(3, 2, 6), kept(3, 5, None), 0),
            (at(3, 2, 5), kept(3, 5, None), 2),
            (at(4, 1, 2), kept(3, 5, None), 5),
            (None, published(3, 5), 5),
            (at(3, 2, 5), published(3, 5), 5),
            (None, ahead(3, 5), 5),
        ] {
            assert_eq!(rewound(marker.as_ref(), kept.as_ref().unwrap()), wanted, "{marker:?} {kept:?}");
        }
        let told = reconciled(&None, &kept(3, 5, Some((2, 7)))).unwrap_err();
        assert!(told.contains("to publish the 5 outputs of checkpoint 3") && told.contains("come twice"), "{told}");
        let told = reconciled(&at(2, 7, 7), &published(3, 5)).unwrap_err();
        assert!(told.contains("outputs up to checkpoint 3 is not published again"), "{told}");
        let unpublished = Outputs { published: false, ..ahead(3, 5).unwrap() };
        let told = reconciled(&None, &Some(unpublished)).unwrap_err();
        assert!(told.contains("come twice, and so may its own 5"), "{told}");
    }

    #[test]
    fn positions_are_gone_on_from_where_a_checkpoint_says_that_they_are_kept_here() {
        let marker = Marker::ahead("me", Epoch(4), Value::from("there"));
        assert!(marker.is_ahead_of(ahead(3, 5).as_ref()) && !marker.is_ahead_of(ahead(4, 0).as_ref()));
        assert!(!marker.is_ahead_of(published(3, 5).as_ref()) && !marker.is_ahead_of(None));
        assert!(!at(4, 5, 5).unwrap().is_ahead_of(ahead(3, 5).as_ref()));
        assert_eq!(Marker::read(&marker.bytes(), "S").unwrap(), marker);
    }

    #[test]
    fn what_is_no_marker_is_refused() {
        assert!(Marker::read(b"hello", "S").unwrap_err().to_string().contains("none of Millstream's"));
        let marker = Marker::of("me", Epoch(3), 1, 2);
        assert_eq!(Marker::read(&marker.bytes(), "S").unwrap(), marker);
        let newer = String::from_utf8(marker.bytes()).unwrap().replace("\"v\":1", "\"v\":3");
        assert!(Marker::read(newer.as_bytes(), "S").unwrap_err().to_string().contains("version 3"));
    }
}
