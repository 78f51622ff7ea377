//! [`Letters`]: rejected rows become dead letters, and [`fit`]: letters that are too large for a server.

use bytes::Bytes;
use millstream_operators::{
    Batch, Fault, Headers, InvalidHeader, Operator, Outbox, Parts, Record, Rejected, Result, Turn,
};
use serde::Serialize;

/// Makes records of rejected rows: dead letters, which say in headers why and where from.
///
/// ```text
/// rejected by orders/json    {"a, which came as message 7 of ORDERS
/// given to mill.dlq.p.orders {"a, Mill-Dlq-Reason: decode, Mill-Dlq-Stream: ORDERS, Mill-Dlq-Seq: 7, …
/// ```
///
/// The payload is that of the message, bit for bit; where a row came of no single message, it is the row as JSON.
pub(super) struct Letters<T> {
    pipeline: String,
    rows: std::marker::PhantomData<fn(T)>,
}

impl<T> Letters<T> {
    /// Letters of rows that `pipeline` rejects.
    pub(super) fn of(pipeline: &str) -> Self {
        Letters { pipeline: pipeline.into(), rows: std::marker::PhantomData }
    }
}

// A token of a subject is never empty. Only rows of an operator that does not declare its port as one of rejected rows
// (`Side::rejected`) come without a node, and only if others are merged with them.
const UNNAMED: &str = "unnamed";

// A header line is kept short; the whole cause is rarely longer.
const LONGEST_ERROR: usize = 1024;

impl<T: Serialize + Send + 'static> Operator for Letters<T> {
    type In = Vec<Rejected<T>>;
    type Out = Vec<Record>;

    fn on_batch(&mut self, batch: Batch<Vec<Rejected<T>>>, out: &mut Outbox<'_, Vec<Record>>) -> Result<Turn> {
        let Parts { times, rows, origins, weight } = batch.into_parts();
        let mut records = Vec::with_capacity(rows.len());
        for (row, rejected) in rows.into_iter().enumerate() {
            let origin = origins.as_ref().and_then(|all| Some((all.place(), all.get(row)?)));
            // The node as it was declared: `orders`, where its decoder `orders/json` refused the row.
            let node = match rejected.cause.node.split('/').next() {
                None | Some("") => UNNAMED,
                Some(node) => node,
            };
            let mut headers = Headers::NONE;
            let mut set = |name: &str, value: &str| {
                // Words of ours; what a row was rejected for may quote anything.
                let clean: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                headers.push(name, &clean).map_err(|error| Fault::bug(error.to_string()))
            };
            set("Mill-Dlq-Pipeline", &self.pipeline)?;
            set("Mill-Dlq-Stage", node)?;
            set("Mill-Dlq-Reason", rejected.cause.code.as_str())?;
            set("Mill-Dlq-Error", &rejected.cause.to_string().chars().take(LONGEST_ERROR).collect::<String>())?;
            let payload = match origin {
                Some((place, origin)) => {
                    set("Mill-Dlq-Stream", &place.stream)?;
                    set("Mill-Dlq-Seq", &origin.sequence.to_string())?;
                    set("Mill-Dlq-Subject", origin.subject())?;
                    set("Mill-Dlq-Time", &origin.stored_at.to_string())?;
                    for (name, value) in origin.headers.iter() {
                        let kept = match Headers::is_reserved(name) || is_ours(name) {
                            true => headers.push(&format!("Mill-Orig-{name}"), value),
                            false => headers.push(name, value),
                        };
                        kept.map_err(|error| Fault::bug(error.to_string()))?;
                    }
                    origin.payload.clone()
                }
                // A row of no single message: the row itself is all there is.
                None => serde_json::to_vec(&rejected.row)
                    .unwrap_or_else(|error| format!("the row cannot be written as JSON: {error}").into_bytes())
                    .into(),
            };
            let subject = format!("mill.dlq.{}.{node}", self.pipeline).into();
            records.push(Record { subject, headers, payload });
        }
        out.send(Batch::from_parts(Parts { times, rows: records, origins, weight })?);
        Ok(Turn::Done)
    }
}

fn is_ours(name: &str) -> bool {
    name.get(..9).is_some_and(|begin| begin.eq_ignore_ascii_case("Mill-Dlq-"))
}

// JetStream keeps the length of headers in 16 bits. Those of a batch, or the id, come on top.
const MOST_HEADERS: usize = u16::MAX as usize - 256;
// The names of headers that are not whole are one more.
const LONGEST_NAMES: usize = 1024;
const TRUNCATED: &str = "Mill-Dlq-Truncated";

/// Whether a server with this `max_payload` would not take such a letter.
pub(super) fn is_too_large(headers: &Headers, payload: &Bytes, max: usize) -> bool {
    let headers = headers.wire_len();
    headers > MOST_HEADERS || headers + payload.len() > max
}

/// A letter that is too large, made to fit: without its payload if the whole of it stands at `whole` (a stream and a
/// sequence), and with its last headers shortened or left out if they alone are too many. It says what is missing.
pub(super) fn fit(
    headers: &Headers,
    payload: &Bytes,
    max: usize,
    whole: Option<&str>,
) -> Result<(Headers, Bytes), InvalidHeader> {
    const REF: &str = "Mill-Dlq-Ref";
    let mut most = max.min(MOST_HEADERS);
    let is_over = headers.wire_len().min(most) + payload.len() > max;
    let reference = whole.filter(|_| is_over);
    most = most.saturating_sub(reference.map_or(0, |whole| REF.len() + whole.len() + 4));
    let mut missing = Vec::new();
    if is_over && reference.is_none() {
        missing.push("payload");
    }
    let marked = headers.wire_len() + if missing.is_empty() { 0 } else { TRUNCATED.len() + LONGEST_NAMES + 4 };
    let mut kept = if marked > most { shortened(headers, most, &mut missing)? } else { headers.clone() };
    if let Some(whole) = reference {
        kept.push(REF, whole)?;
    }
    if !missing.is_empty() {
        let names: String = missing.join(", ").chars().take(LONGEST_NAMES).collect();
        kept.push(TRUNCATED, &names)?;
    }
    let room = max.saturating_sub(kept.wire_len()).min(payload.len());
    Ok((kept, if reference.is_some() { Bytes::new() } else { payload.slice(..room) }))
}

/// As many of the headers as `most` bytes hold, and room for the names of the others: what is ours, then those that fit
/// whole, then what fits of the first that does not.
fn shortened<'h>(headers: &'h Headers, most: usize, missing: &mut Vec<&'h str>) -> Result<Headers, InvalidHeader> {
    let mut kept = headers.filtered(is_ours);
    let most = most.saturating_sub(TRUNCATED.len() + LONGEST_NAMES + 4);
    let mut cut = None;
    for (name, value) in headers.iter().filter(|(name, _)| !is_ours(name)) {
        if kept.wire_len() + name.len() + value.len() + 4 <= most {
            kept.push(name, value)?;
        } else {
            missing.push(name);
            cut = cut.or(Some((name, value)));
        }
    }
    if let Some((name, value)) = cut {
        let room = most.saturating_sub(kept.wire_len() + name.len() + 4);
        let part = value.get(..value.floor_char_boundary(room)).unwrap_or_default();
        if !part.is_empty() {
            kept.push(name, part)?;
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use millstream_operators::Cause;
    use millstream_operators::testkit::{cuts_do_not_matter, timed};

    use super::*;

    fn headers(all: &[(&str, usize)]) -> Headers {
        let mut headers = Headers::NONE;
        for (name, len) in all {
            headers.push(name, &"v".repeat(*len)).unwrap();
        }
        headers
    }

    const MAX: usize = 1 << 20;

    fn fitted(all: &[(&str, usize)], payload: usize, max: usize, whole: Option<&str>) -> (Headers, Bytes) {
        let (before, payload) = (headers(all), Bytes::from(vec![b'x'; payload]));
        assert!(is_too_large(&before, &payload, max));
        let (after, left) = fit(&before, &payload, max, whole).unwrap();
        assert!(!is_too_large(&after, &left, max), "{} + {} bytes", after.wire_len(), left.len());
        (after, left)
    }

    fn lengths(headers: &Headers) -> Vec<(&str, usize)> {
        headers.iter().map(|(name, value)| (name, value.len())).collect()
    }

    #[test]
    fn a_rejected_row_becomes_a_letter_wherever_it_is_cut_and_restarted() {
        let causes = ["a:x", "a/json:y", ":z", "b:ä\nb"].map(|cause| cause.split_once(':').unwrap());
        let rejected = |number: usize| {
            let (node, words) = causes[number % causes.len()];
            let mut cause = Cause::operator(words);
            cause.node = node.into();
            Rejected { row: number, cause }
        };
        let letters = cuts_do_not_matter(|| Letters::of("p"), &timed((0..30).map(rejected)));
        let subjects: Vec<&[u8]> = letters.iter().take(4).map(|letter| &*letter.subject).collect();
        assert_eq!(subjects, ["a", "a", "unnamed", "b"].map(|node| format!("mill.dlq.p.{node}").into_bytes()));
        let errors: Vec<_> =
            letters.iter().take(4).map(|letter| letter.headers.get("Mill-Dlq-Error").unwrap()).collect();
        assert!(errors[3].contains("ä b"), "{errors:?}");
        assert_eq!(letters[7].headers.get("Mill-Dlq-Seq"), Some("8"), "of the message that it came from");
    }

    #[test]
    fn too_many_headers_are_shortened_and_named_and_the_payload_stays() {
        let (after, left) = fitted(&[("Mill-Dlq-Error", 100), ("big", 65_400), ("small", 10)], 500, MAX, Some("IN/7"));
        assert_eq!((after.get(TRUNCATED), after.get("Mill-Dlq-Ref"), left.len()), (Some("big"), None, 500));
        let lengths = lengths(&after);
        assert_eq!(lengths[..2], [("Mill-Dlq-Error", 100), ("small", 10)]);
        assert!(lengths[2].0 == "big" && lengths[2].1 > 64_000, "{lengths:?}");
    }

    #[test]
    fn a_payload_that_does_not_fit_stands_elsewhere_or_is_shortened() {
        let (after, left) = fitted(&[("Mill-Dlq-Error", 100), ("a", 10)], MAX, MAX, Some("IN/7"));
        assert_eq!((after.get("Mill-Dlq-Ref"), after.get(TRUNCATED), left.len()), (Some("IN/7"), None, 0));
        assert_eq!(after.get("a").map(str::len), Some(10));
        let (after, left) = fitted(&[("Mill-Dlq-Error", 100), ("a", 10)], MAX, MAX, None);
        assert_eq!(after.get(TRUNCATED), Some("payload"));
        assert_eq!(after.wire_len() + left.len(), MAX);
    }

    #[test]
    fn whatever_the_sizes_are_it_fits() {
        for first in [0, 10, 30_000, 64_000, 65_000, 65_500, 70_000, 200_000] {
            for payload in [0, 100, 7_000, 60_000, MAX - 66_000, MAX - 100, MAX] {
                for (max, whole) in [(MAX, Some("IN/7")), (MAX, None), (8_192, Some("IN/7")), (8_192, None)] {
                    let all = [("Mill-Dlq-Error", 1_024), ("a", first), ("b", 300)];
                    if is_too_large(&headers(&all), &vec![b'x'; payload].into(), max) {
                        fitted(&all, payload, max, whole);
                    }
                }
            }
        }
    }
}
