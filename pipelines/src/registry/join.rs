//! The step `join`: rows of two sources or steps, put together.

use std::time::Duration;

use millstream_operators::Problem;
use millstream_operators::columnar::{Bound, JoinKind};
use millstream_operators::window::{sliding, tumbling};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Ordered, RejectedWord, Span, Spec, Wiring};

/// Rows of the step's `from` (the left) and of another source or step (the right) that have the same key and are near each
/// other in event time. What comes of it has the columns of the left, then those of the right without its `on` columns.
#[derive(Deserialize, JsonSchema)]
pub(super) struct Join {
    /// `{ with = "payments", on = { id = "order_id" }, within = { later = "1h" } }`.
    join: Keys,
    /// What becomes of rows that come when what they could be joined with is gone: behind the watermark, with `ttl` by more than
    /// that, and with `window` when all windows are closed that they would be in. They are counted and dropped if not given.
    #[serde(default)]
    late: Option<RejectedWord>,
}

#[derive(Deserialize, JsonSchema)]
struct Keys {
    /// The source or step whose rows are the right; `step.output` for a named output.
    #[expect(dead_code, reason = "it is there for the schema; who reads the table has looked at it")]
    with: String,
    /// The columns of the left, and what those of the right are called that must be the same: `{ id = "order_id" }`.
    on: Ordered<String>,
    /// What is given.
    #[serde(default)]
    kind: Kind,
    /// What goes before the names of the right's columns.
    #[serde(default)]
    prefix: Option<String>,
    /// Rows of the right belong to a row of the left that they are near in time.
    #[serde(default)]
    within: Option<Within>,
    /// Rows belong together that are in the same window, as in `{ tumbling = "10s" }`; adds `window_start` and
    /// `window_end`.
    #[serde(default)]
    window: Option<Windows>,
    /// All rows of a key belong together; a row is forgotten when event time is so much past it. Rows that are late by less
    /// are joined, too; the time of what comes of them is that of the watermark. Beside `as_of` it is how long a version is
    /// valid if no newer one comes; without it the newest of each key is kept for ever.
    #[serde(default)]
    ttl: Option<Span>,
    /// The newest row of the right that is not later belongs to a row of the left: the right is a table, and its rows are
    /// versions. One that comes late counts for the rows of the left that come after it.
    #[serde(default)]
    as_of: bool,
}

/// What is given of rows that belong together, and of those that have no partner.
#[derive(Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Rows that have partners, with each of them.
    #[default]
    Inner,
    /// All rows of the left, with their partners or none.
    Left,
    /// All rows of the right, with their partners or none.
    Right,
    /// All rows of both sides, with their partners or none.
    Full,
    /// The rows of the left that have a partner, each once; in sliding windows, once for each in which it has one.
    Semi,
    /// The rows of the left that have no partner; in sliding windows, once for each in which it has none.
    Anti,
}

#[derive(Deserialize, JsonSchema)]
struct Within {
    /// How much earlier than the left row the right one may be: not at all if not given.
    #[serde(default)]
    earlier: Option<Span>,
    /// How much later it may be: not at all if not given.
    #[serde(default)]
    later: Option<Span>,
    /// The column of the left with the latest time that the right row may have, in place of `later`.
    #[serde(default)]
    until: Option<String>,
    /// How much older than the watermark rows may be; the watermark that goes on stays behind as much.
    #[serde(default)]
    allowed_lateness: Option<Span>,
}

#[derive(Deserialize, JsonSchema)]
struct Windows {
    /// The length of windows that follow each other.
    #[serde(default)]
    tumbling: Option<Span>,
    /// The length of windows that overlap.
    #[serde(default)]
    sliding: Option<Span>,
    /// How long after each other sliding windows begin: no longer than they are, so that no row is between them.
    #[serde(default)]
    every: Option<Span>,
    /// How long after midnight (UTC) windows begin; sessions begin with their rows.
    #[serde(default)]
    offset: Option<Span>,
    /// Windows end where rows of a key, of either side, stay away for so long.
    #[serde(default)]
    session: Option<Span>,
}

impl From<Kind> for JoinKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Inner => JoinKind::Inner,
            Kind::Left => JoinKind::Left,
            Kind::Right => JoinKind::Right,
            Kind::Full => JoinKind::Full,
            Kind::Semi => JoinKind::Semi,
            Kind::Anti => JoinKind::Anti,
        }
    }
}

impl Within {
    fn bound(&self, wrong: &mut Vec<Problem>) -> Bound {
        let span = |span: Option<Span>| span.map_or(Duration::ZERO, |span| span.0);
        let bound = match (&self.until, self.later) {
            (Some(until), later) => {
                if later.is_some() {
                    let what = "`later` and `until` both say how late the right may be";
                    wrong.push(Problem::at("", what).in_setting("join.within").help("take one of them out"));
                }
                Bound::until(span(self.earlier), until)
            }
            (None, None) if self.earlier.is_none() => {
                let help = "say `{ earlier = \"5s\", later = \"10s\" }`, one of them, or `{ until = \"expires\" }`";
                wrong.push(Problem::at("", "it does not say how near").in_setting("join.within").help(help));
                Bound::within(Duration::ZERO, Duration::ZERO)
            }
            (None, later) => Bound::within(span(self.earlier), span(later)),
        };
        bound.allowed_lateness(span(self.allowed_lateness))
    }
}

impl Windows {
    fn bound(&self, wrong: &mut Vec<Problem>) -> Bound {
        match (self.tumbling, self.sliding, self.every, self.session) {
            (Some(size), None, None, None) => Bound::windows(tumbling(size.0).offset(self.begin())),
            (None, Some(size), Some(every), None) => Bound::windows(sliding(size.0, every.0).offset(self.begin())),
            (None, None, None, Some(gap)) => {
                if self.offset.is_some() {
                    let what = "`session` windows have no `offset`: they begin with their rows";
                    wrong.push(Problem::at("", what).in_setting("join.window.offset").help("take it out"));
                }
                Bound::sessions(gap.0)
            }
            _ => {
                let what = "windows are one of tumbling, sliding with `every`, and session";
                let help =
                    "say `{ tumbling = \"1m\" }`, `{ sliding = \"5m\", every = \"1m\" }` or `{ session = \"5m\" }`";
                wrong.push(Problem::at("", what).in_setting("join.window").help(help));
                Bound::windows(tumbling(Duration::from_secs(1)))
            }
        }
    }

    fn begin(&self) -> Duration {
        self.offset.map_or(Duration::ZERO, |span| span.0)
    }
}

const WAYS_OUT: &str = "say `within = { later = \"1h\" }`, `within = { until = \"expires\" }`, `window = { tumbling = \"10s\" }`, `ttl = \"1d\"` or `as_of = true`";

impl Keys {
    /// The one way in which it is bounded.
    fn bound(&self, wrong: &mut Vec<Problem>) -> Bound {
        let within = self.within.as_ref().map(|within| ("within", within.bound(wrong)));
        let window = self.window.as_ref().map(|window| ("window", window.bound(wrong)));
        let versions = self.ttl.map_or_else(Bound::as_of, |ttl| Bound::as_of_within(ttl.0));
        let as_of = self.as_of.then_some(("as_of", versions));
        let ttl = self.ttl.filter(|_| !self.as_of).map(|ttl| ("ttl", Bound::unbounded(ttl.0)));
        let mut said = [within, window, ttl, as_of].into_iter().flatten();
        let Some((first, bound)) = said.next() else {
            let what = "nothing bounds it in time: what it keeps would grow without end";
            wrong.push(Problem::at("", what).in_setting("join").help(WAYS_OUT));
            return Bound::within(Duration::ZERO, Duration::ZERO);
        };
        for (second, _) in said {
            let what = format!("`{first}` and `{second}` both say which rows belong together");
            wrong.push(Problem::at("", what).in_setting(format!("join.{second}")).help("take one of them out"));
        }
        bound
    }
}

impl Spec for Join {
    const KIND: &'static str = "join";
    const READS: &'static [&'static str] = &["join.with"];

    fn wire(self, wiring: &mut Wiring<'_>) {
        let (left, right) = (wiring.input(), wiring.rows("join.with"));
        let mut wrong = Vec::new();
        let bound = self.join.bound(&mut wrong);
        for mut problem in wrong {
            wiring.name().clone_into(&mut problem.node);
            wiring.problem(problem);
        }
        let late = self.late.map(|word| wiring.rejected_to("late", &word));
        let (of_left, of_right): (Vec<String>, Vec<String>) = self.join.on.0.into_iter().unzip();
        let joined = left.key_by(of_left).join(right.key_by(of_right));
        let joined = joined.prefix(self.join.prefix.unwrap_or_default());
        let joined = match late {
            Some(late) => joined.late(late),
            None => joined,
        };
        let rows = joined.of_kind(wiring.name(), self.join.kind.into(), bound);
        wiring.output(rows);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millstream_operators::{Fault, SizeLimit};

    use super::*;
    use crate::config::{Options, load};
    use crate::dsl::{SinkNode, SourceNode};
    use crate::graph::{Make, Route};
    use crate::registry::{Registry, Subjects};

    fn never<T: ?Sized>() -> Make<T> {
        Arc::new(|_| Err(Fault::bug("only declared")))
    }

    /// A source and a sink that are only declared.
    #[derive(Deserialize, JsonSchema)]
    struct From {}

    impl Spec for From {
        const KIND: &'static str = "nowhere";

        fn wire(self, wiring: &mut Wiring<'_>) {
            wiring.reads(SourceNode {
                kind: "nowhere".into(),
                detail: String::new(),
                make: never(),
                touches: Vec::new(),
                access: Vec::new(),
                shared: false,
                at_most_once: None,
                problems: Vec::new(),
            });
        }
    }

    #[derive(Deserialize, JsonSchema)]
    struct To {}

    impl Spec for To {
        const KIND: &'static str = "nowhere";

        fn wire(self, wiring: &mut Wiring<'_>) {
            let node = SinkNode {
                kind: "nowhere".into(),
                detail: String::new(),
                make: never(),
                touches: Vec::new(),
                access: Vec::new(),
                at_most_once: None,
                repeats: None,
                limit: SizeLimit::default(),
                lines: false,
                problems: Vec::new(),
            };
            wiring.writes(node, Subjects::None);
        }
    }

    fn source(name: &str, id: &str, is_timed: bool) -> String {
        let time = if is_timed { "event_time = { column = \"at\", max_lateness = \"1s\" }\n" } else { "" };
        format!(
            "[sources.{name}]\nkind = \"nowhere\"\nformat = \"json\"\non_error = \"drop\"\n\
             schema = {{ {id} = \"int64\", at = \"timestamp\" }}\n{time}"
        )
    }

    const OUT: &str = "[sinks.out]\nkind = \"nowhere\"\nfrom = \"joined\"\non_error = \"drop\"\n";

    fn loaded(parts: &[String]) -> Result<crate::config::Loaded, String> {
        let registry = Registry::default().source::<From>().sink::<To>();
        let text = format!("name = \"p\"\n{}{OUT}", parts.concat());
        load("p.toml", &text, &Options::new(&registry)).map_err(|report| report.to_string())
    }

    #[test]
    fn every_source_from_which_rows_come_to_a_join_must_give_them_a_time() {
        let steps = "[[steps]]\nname = \"all\"\nfrom = [\"c\", \"d\"]\nmerge = true\n\
                     [[steps]]\nname = \"joined\"\nfrom = [\"a\", \"b\"]\n\
                     join = { with = \"all\", on = { id = \"of\" }, kind = \"semi\", ttl = \"1h\" }\n";
        let of = |timed: [bool; 4]| {
            let sources = [("a", "id"), ("b", "id"), ("c", "of"), ("d", "of")].into_iter().zip(timed);
            let sources = sources.map(|((name, id), is_timed)| source(name, id, is_timed));
            loaded(&sources.chain([steps.to_owned()]).collect::<Vec<_>>()).map(drop)
        };
        assert_eq!(of([true; 4]), Ok(()));
        let report = of([true, false, true, false]).unwrap_err();
        for name in ["b", "d"] {
            assert!(report.contains(&format!("the rows of `{name}` have none")), "{report}");
        }
        assert!(report.ends_with("2 mistakes"), "{report}");
    }

    #[test]
    fn rows_of_all_inputs_go_by_key_to_their_side() {
        let step = "[[steps]]\nname = \"joined\"\nfrom = [\"a\", \"b\"]\n\
                    join = { with = \"c\", on = { id = \"of\" }, kind = \"semi\", ttl = \"1h\" }\n";
        let sources = [("a", "id"), ("b", "id"), ("c", "of")].map(|(name, id)| source(name, id, true));
        let loaded = loaded(&[sources.concat(), step.to_owned()]).unwrap();
        let graph = loaded.graph;
        let joined = graph.nodes.iter().position(|node| node.name == "joined").unwrap();
        let mut into: Vec<(&str, usize, bool)> = graph
            .edges
            .iter()
            .filter(|edge| edge.to.node.0 == joined)
            .map(|edge| {
                let from = graph.nodes[edge.from.node.0].name.as_str();
                (from, edge.to.port, matches!(edge.route, Route::Hash(_)))
            })
            .collect();
        into.sort_unstable();
        assert_eq!(into, [("a/event_time", 0, true), ("b/event_time", 0, true), ("c/event_time", 1, true)]);
    }
}
