//! [`Grants`]: the subjects that the runtime publishes and subscribes to for a graph.

use std::collections::BTreeSet;

use millstream_pipelines::graph::{Access, Graph, Guarantee, Node, Role};

use crate::connectors::{advisories_of, consumer_name, marker_subjects};

/// What the subjects depend on besides the graph.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// The prefix of the JetStream API.
    pub(super) api: String,
    /// Where answers are sent.
    pub(super) inbox: String,
    /// Whether streams and the bucket may have to be made.
    pub(super) create: bool,
    /// Whether checkpoints are kept on the server.
    pub(super) checkpoints: bool,
}

/// What a user must be allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Grants {
    pub(super) publish: Vec<Group>,
    pub(super) subscribe: Vec<String>,
    /// Sinks whose subjects cannot be known from the graph.
    pub(super) unknown: Vec<String>,
}

/// Subjects that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// What they are for.
    pub(super) what: String,
    pub(super) subjects: Vec<String>,
}

impl Grants {
    pub(super) fn of(graph: &Graph, scope: &Scope) -> Grants {
        let mut grants = Grants { subscribe: vec![format!("{}.>", scope.inbox)], ..Grants::default() };
        let mut seen = BTreeSet::new();
        for node in &graph.nodes {
            // What is in no stream: core NATS.
            for touch in node.touches.iter().filter(|touch| touch.system == "nats" && touch.stream.is_none()) {
                match (&node.role, &touch.subject) {
                    (Role::Source(_), Some(subject)) => grants.subscribe.push(subject.clone()),
                    (Role::Sink(_), Some(subject)) => {
                        grants.add(&mut seen, format!("{} publishes", node.name), vec![subject.clone()]);
                    }
                    (Role::Sink(_), None) => grants.unknown.push(node.name.clone()),
                    _ => {}
                }
            }
            for access in &node.access {
                let (what, subjects) = match access {
                    Access::Read { stream, from_time, advisories, .. } => {
                        if *advisories {
                            grants.subscribe.push(advisories_of(stream, &consumer_name(&graph.name, &node.name)));
                        }
                        (format!("{} reads {stream}", node.name), read(graph, node, stream, *from_time, scope))
                    }
                    Access::Write { stream, subjects, create, extend, .. } => {
                        // Code may publish to any subject of its stream; where the pipeline makes the stream, those are
                        // known.
                        let known = subjects.as_ref().or(create.as_ref());
                        if known.is_none() {
                            grants.unknown.push(node.name.clone());
                        }
                        let mut all = vec![format!("{}.STREAM.INFO.{stream}", scope.api)];
                        if create.is_some() && scope.create {
                            all.push(format!("{}.STREAM.CREATE.{stream}", scope.api));
                        }
                        let once = graph.settings.guarantee == Guarantee::EffectivelyOnce;
                        if (*extend || (once && create.is_some())) && scope.create {
                            all.push(format!("{}.STREAM.UPDATE.{stream}", scope.api));
                        }
                        if once {
                            // How new the server is, and the marker.
                            all.push(format!("{}.INFO", scope.api));
                            all.push(format!("{}.STREAM.MSG.GET.{stream}", scope.api));
                            all.push(marker_subjects(&graph.name, &node.name));
                        }
                        all.extend(known.into_iter().flatten().cloned());
                        (format!("{} writes {stream}", node.name), all)
                    }
                    Access::Follow { stream } => (format!("{} looks up in {stream}", node.name), follow(stream, scope)),
                    _ => continue,
                };
                grants.add(&mut seen, what, subjects);
            }
        }
        if scope.checkpoints {
            grants.add(&mut seen, "checkpoints".to_owned(), checkpoints(&graph.name, scope));
        }
        grants
    }

    /// Adds what no other group has.
    fn add(&mut self, seen: &mut BTreeSet<String>, what: String, mut subjects: Vec<String>) {
        subjects.retain(|subject| seen.insert(subject.clone()));
        if !subjects.is_empty() {
            self.publish.push(Group { what, subjects });
        }
    }
}

fn read(graph: &Graph, node: &Node, stream: &str, from_time: bool, scope: &Scope) -> Vec<String> {
    let (api, consumer) = (&scope.api, consumer_name(&graph.name, &node.name));
    // The account's API level tells a server that cannot reset consumers.
    let mut all = vec![format!("{api}.INFO"), format!("{api}.STREAM.INFO.{stream}")];
    for call in ["CREATE", "INFO", "RESET", "DELETE", "MSG.NEXT"] {
        all.push(format!("{api}.CONSUMER.{call}.{stream}.{consumer}"));
    }
    // What the client cannot read is read by itself.
    all.push(format!("{api}.STREAM.MSG.GET.{stream}"));
    if from_time && scope.create {
        all.push(format!("{api}.CONSUMER.CREATE.{stream}.{consumer}-start"));
        all.push(format!("{api}.CONSUMER.DELETE.{stream}.{consumer}-start"));
    }
    // Servers are about to put domain and account into the subjects of acknowledgements.
    all.push(format!("$JS.ACK.{stream}.{consumer}.>"));
    all.push(format!("$JS.ACK.*.*.{stream}.{consumer}.>"));
    all
}

/// A table's consumers have new names each time.
fn follow(stream: &str, scope: &Scope) -> Vec<String> {
    let api = &scope.api;
    vec![format!("{api}.CONSUMER.CREATE.{stream}.*"), format!("{api}.CONSUMER.MSG.NEXT.{stream}.*")]
}

fn checkpoints(pipeline: &str, scope: &Scope) -> Vec<String> {
    let (api, bucket) = (&scope.api, format!("mill_{pipeline}"));
    let before = if api == "$JS.API" { String::new() } else { format!("{api}.") };
    let mut all = vec![
        format!("{api}.STREAM.MSG.GET.KV_{bucket}"),
        format!("{before}$KV.{bucket}.ckpt"),
        // State that is more than a few bytes, which goes when no checkpoint needs it any more.
        format!("{api}.STREAM.MSG.GET.OBJ_{bucket}"),
        format!("{api}.STREAM.PURGE.OBJ_{bucket}"),
        format!("{before}$O.{bucket}.*.*"),
    ];
    if scope.create {
        all.extend(["KV", "OBJ"].map(|kind| format!("{api}.STREAM.CREATE.{kind}_{bucket}")));
    }
    all
}

#[cfg(test)]
mod tests {
    use millstream_pipelines::dsl::Pipeline;

    use super::*;
    use crate::connectors::{dead_letters, jetstream, jetstream_to};

    fn graph() -> Graph {
        let pipeline = Pipeline::new("p");
        pipeline
            .source("in", jetstream("IN").text().rejected_to("dead", dead_letters("DEAD").create()))
            .sink("out", jetstream_to("OUT").text().subject("out.all").stop_on_rejected());
        pipeline.build().unwrap()
    }

    fn scope() -> Scope {
        Scope { api: "$JS.API".to_owned(), inbox: "_INBOX".to_owned(), create: true, checkpoints: true }
    }

    fn subjects(grants: &Grants) -> Vec<&str> {
        grants.publish.iter().flat_map(|group| &group.subjects).map(String::as_str).collect()
    }

    #[test]
    fn grants_name_the_streams_consumers_subjects_and_checkpoints_of_the_graph() {
        let grants = Grants::of(&graph(), &scope());
        let all = subjects(&grants);
        for subject in [
            "$JS.API.CONSUMER.RESET.IN.mill-p-in",
            "$JS.ACK.IN.mill-p-in.>",
            "$JS.API.STREAM.MSG.GET.IN",
            "$JS.API.STREAM.INFO.OUT",
            "out.all",
            "mill.dlq.p.*",
            "$JS.API.STREAM.CREATE.DEAD",
            "$JS.API.STREAM.UPDATE.DEAD",
            "$KV.mill_p.ckpt",
        ] {
            assert!(all.contains(&subject), "{subject} is not in {all:?}");
        }
        assert!(!all.contains(&"$JS.API.STREAM.CREATE.OUT") && grants.unknown.is_empty());
        assert_eq!(grants.subscribe, ["_INBOX.>"]);
    }

    #[test]
    fn what_only_a_first_start_needs_can_be_left_out_and_a_domain_moves_the_api() {
        let scope = Scope { api: "$JS.hub.API".to_owned(), inbox: "_mine".to_owned(), create: false, ..scope() };
        let grants = Grants::of(&graph(), &scope);
        assert!(subjects(&grants).iter().all(|subject| !subject.contains("STREAM.CREATE")));
        assert!(subjects(&grants).iter().all(|subject| !subject.contains("STREAM.UPDATE")));
        assert!(subjects(&grants).contains(&"$JS.hub.API.$KV.mill_p.ckpt"));
        assert!(subjects(&grants).contains(&"$JS.hub.API.STREAM.INFO.IN"));
        assert_eq!(grants.subscribe, ["_mine.>"]);
    }

    #[test]
    fn a_sink_that_stores_each_row_once_reads_and_writes_its_marker() {
        let mut graph = graph();
        graph.settings.guarantee = Guarantee::EffectivelyOnce;
        let grants = Grants::of(&graph, &scope());
        for subject in ["mill.txn.p.out.*", "mill.txn.p.dead.*", "$JS.API.STREAM.MSG.GET.OUT", "$JS.API.INFO"] {
            assert!(subjects(&grants).contains(&subject), "{subject} is not in {:?}", subjects(&grants));
        }
        assert!(!subjects(&grants).contains(&"$JS.API.STREAM.UPDATE.OUT"), "its sink may not change the stream");
    }

    #[test]
    fn a_shared_source_that_gives_messages_up_listens_for_them() {
        let listens = |max_deliver| {
            let pipeline = Pipeline::new("p");
            let from = jetstream("IN").share(crate::connectors::Share { max_deliver, ..Default::default() });
            pipeline.source("in", from.text().ignore_rejected()).discard("out");
            Grants::of(&pipeline.build().unwrap(), &scope()).subscribe
        };
        assert_eq!(listens(None), ["_INBOX.>"]);
        assert_eq!(listens(Some(3)), ["_INBOX.>", "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.IN.mill-p-in"]);
    }

    #[cfg(feature = "columnar")]
    #[test]
    fn core_nats_needs_its_subjects_and_nothing_else() {
        let text = r#"
            name = "p"
            guarantee = "at-most-once"
            accept_loss = true
            [sources.in]
            kind = "core_nats"
            subject = "in.>"
            format = "json"
            schema = { id = "utf8" }
            on_error = "drop"
            [sinks.out]
            kind = "core_nats"
            from = "in"
            subject = "out.{id}"
            on_error = "drop"
        "#;
        let registry = crate::connectors::registry();
        let options = millstream_pipelines::config::Options::new(&registry);
        let graph = millstream_pipelines::config::load("p.toml", text, &options).unwrap().graph;
        let grants = Grants::of(&graph, &Scope { checkpoints: false, ..scope() });
        assert_eq!(
            (grants.subscribe.clone(), subjects(&grants)),
            (vec!["_INBOX.>".into(), "in.>".into()], vec!["out.*"])
        );
    }

    #[test]
    fn subjects_that_code_computes_are_said_to_be_unknown() {
        let pipeline = Pipeline::new("p");
        let to = jetstream_to("OUT").text().subject_of(|text: &String, to| {
            to.token("out").token(text);
        });
        pipeline.source("in", jetstream("IN").text().ignore_rejected()).sink("out", to.stop_on_rejected());
        assert_eq!(Grants::of(&pipeline.build().unwrap(), &scope()).unknown, ["out"]);
    }
}
