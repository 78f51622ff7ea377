//! [`Once`]: what is told of every pipeline that promises effectively-once, by whichever protocol.
//!
//! `MILLSTREAM_ONCE` and `MILLSTREAM_ONCE_ORDERS` make the stories longer (the form: 40 kills of the runtime, 20 of
//! the server, 30 rounds of twins).

use std::collections::BTreeSet;
use std::time::Duration;

use millstream::broker::{Connection, Js, NatsServer, StreamConfig};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::twins::Twins;
use super::{Bad, Feeder, Running, Tail, a_while, call, publish_each, server, setting};

/// A pipeline that promises effectively-once, and what its stories have to know of it.
///
/// Its program takes `<nats urls> <pipeline name> <parallelism> <replicas>`, reads orders from the stream IN and writes to
/// the stream OUT. Each story gives how many orders there were, when their outputs are there and the pipeline has ended.
pub struct Once {
    pub program: &'static str,
    /// The sinks that write to the stream OUT.
    pub sinks: &'static [&'static str],
    /// How long OUT knows message ids, if not as long as usual.
    pub duplicate_window: Option<Duration>,
    /// A stream in which it can be seen how far it is.
    pub seen_in: &'static str,
    /// How many messages that stream holds when so many orders are done.
    pub due: fn(u64) -> usize,
    /// The streams whose leaders step down.
    pub led: &'static [&'static str],
}

impl Once {
    /// How many orders come, at least.
    pub fn orders() -> u64 {
        setting("MILLSTREAM_ONCE_ORDERS", 30_000)
    }

    /// How often something is killed.
    pub fn kills() -> u64 {
        setting("MILLSTREAM_ONCE", 10)
    }

    pub fn start(&self, urls: &str, pipeline: &str, parallelism: u64, replicas: usize) -> Running {
        self.start_with(urls, pipeline, parallelism, replicas, &[])
    }

    /// As [`start`](Once::start), with what its environment says.
    pub fn start_with(
        &self,
        urls: &str,
        pipeline: &str,
        parallelism: u64,
        replicas: usize,
        variables: &[(&str, &str)],
    ) -> Running {
        let (parallelism, replicas) = (parallelism.to_string(), replicas.to_string());
        Running::start(self.program, &[urls, pipeline, &parallelism, &replicas], variables)
    }

    /// Gives the stream OUT what it needs; others are made by their sinks.
    pub async fn allow(&self, connection: &Connection, pipeline: &str) {
        let js = Js::new(connection.clone());
        let mut out = js.stream("OUT").await.unwrap().config;
        out.subjects.extend(self.sinks.iter().map(|sink| format!("mill.txn.{pipeline}.{sink}.*")));
        (out.allow_atomic, out.allow_rollup_hdrs) = (true, true);
        if let Some(window) = self.duplicate_window {
            out.duplicate_window = window.as_nanos() as u64;
        }
        js.update_stream(&out).await.unwrap();
    }

    /// Waits until so many outputs are there, and ends the pipeline.
    pub async fn settle(&self, story: &str, connection: &Connection, due: usize, bad: Bad, running: Running) {
        bad.all().await;
        let why = || format!("{story}: {}", running.err());
        Tail::of(self.seen_in).until(connection, due, Duration::from_secs(120), why).await;
        running.signal("TERM");
        let said = running.ended().await;
        assert_eq!(said.code, Some(0), "{story}: {}", said.err);
    }

    async fn settled(&self, story: &str, connection: &Connection, feeder: Feeder, bad: Bad, running: Running) -> u64 {
        let orders = feeder.finish().await;
        self.settle(story, connection, (self.due)(orders), bad, running).await;
        orders
    }

    /// The runtime is killed, and goes on with other numbers of subtasks.
    pub async fn runtime_killed(&self, server: &NatsServer, connection: &Connection) -> u64 {
        self.allow(connection, "killed").await;
        let (feeder, bad) = (Feeder::start(connection, Once::orders()), Bad::start(connection));
        let mut running = self.start(&server.url(), "killed", 1, 1);
        for round in 0..Once::kills() {
            a_while().await;
            running.killed().await;
            running = self.start(&server.url(), "killed", 1 + round % 3, 1);
        }
        self.settled("runtime killed", connection, feeder, bad, running).await
    }

    /// The server is killed, every second time together with the runtime if so.
    pub async fn server_killed(&self, server: &mut NatsServer, connection: &Connection, runtime_too: bool) -> u64 {
        let story = if runtime_too { "both-killed" } else { "server-killed" };
        self.allow(connection, story).await;
        let (feeder, bad) = (Feeder::start(connection, Once::orders()), Bad::start(connection));
        let mut running = Some(self.start(&server.url(), story, 2, 1));
        for round in 0..Once::kills().div_ceil(2) {
            a_while().await;
            let kills = runtime_too && round % 2 == 0;
            if let Some(running) = running.take_if(|_| kills) {
                running.killed().await;
            }
            server.kill_9();
            server.restart().await.unwrap();
            running.get_or_insert_with(|| self.start(&server.url(), story, 2, 1));
        }
        self.settled(story, connection, feeder, bad, running.unwrap()).await
    }

    /// Rounds in which an instance sleeps, its twin takes over, and it wakes: it stores nothing more, ends, and says why.
    pub async fn twins(&self, server: &NatsServer, connection: &Connection) -> u64 {
        self.allow(connection, "twins").await;
        // So many that a checkpoint's outputs are several batches.
        let (feeder, bad) = (Feeder::start(connection, 1_000), Bad::start(connection));
        let twins = Twins { once: self, story: "twins", urls: &server.url(), pipeline: "twins", replicas: 1 };
        let mut running = twins.start(0).await;
        let rounds = Once::kills().div_ceil(2).max(3);
        for round in 0..rounds {
            running = twins.replace(connection, running, round, round % 2 == 0).await;
        }
        self.settled("twins", connection, feeder, bad, running.running).await
    }

    /// On three servers leaders step down while an instance sleeps and its twin takes over; then instances are killed so often
    /// while they step down again.
    pub async fn stepping(&self, urls: &str, connection: &Connection, kills: u64) -> u64 {
        self.allow(connection, "stepping").await;
        let (feeder, bad) = (Feeder::start_with(connection, 1_000, 100), Bad::start(connection));
        let twins = Twins { once: self, story: "twins on three servers", urls, pipeline: "stepping", replicas: 3 };
        let mut twin = twins.start(0).await;
        for round in 0..2 {
            twin = twins.replace(connection, twin, round, round == 0).await;
        }
        let mut running = twin.running;
        self.step_down_amid_batch(connection, &running).await;
        let mut stepped = 0;
        for _ in 0..kills {
            a_while().await;
            stepped += self.step_down(connection).await;
            running.killed().await;
            running = self.start(urls, "stepping", 1, 3);
        }
        println!("twins on three servers: {stepped} leaders stepped down in {kills} rounds");
        assert!(u64::from(stepped) >= kills, "only {stepped} leaders stepped down");
        self.settled("twins on three servers", connection, feeder, bad, running).await
    }

    /// The leader of OUT steps down while a batch of outputs is open there, as the instance itself says: the batch was not whole
    /// for the next leader, or nobody told what became of it. It is tried until that is hit.
    async fn step_down_amid_batch(&self, connection: &Connection, running: &Running) {
        let hits = || running.err().lines().filter(|line| is_cut(line)).count();
        let mut leaders = Vec::new();
        for attempt in 1..=60 {
            let (before, leader) = (hits(), leader(connection, "OUT").await);
            let mut data = connection.subscribe("out.>", 1 << 16).await.unwrap();
            let first = timeout(Duration::from_secs(30), data.next()).await;
            assert!(first.is_ok(), "nothing is stored any more: {}", running.err());
            if !step_down(connection, "OUT").await {
                continue;
            }
            drop(data);
            let deadline = Instant::now() + Duration::from_secs(2);
            while hits() == before && Instant::now() < deadline {
                sleep(Duration::from_millis(20)).await;
            }
            leaders.push(leader);
            if hits() > before {
                let line = running.err().lines().rfind(|line| is_cut(line)).unwrap().to_owned();
                println!("step-down {attempt} of OUT's leader ({leaders:?}) was amid a batch: {line}");
                return;
            }
        }
        panic!("no leader of OUT stepped down amid a batch, of {leaders:?}: {}", running.err());
    }

    /// The leaders of the streams step down, one after the other; how many did.
    pub async fn step_down(&self, connection: &Connection) -> u32 {
        let mut stepped = 0;
        for stream in self.led {
            // One that is not there, or has no leader at the moment, is left alone.
            stepped += u32::from(step_down(connection, stream).await);
            sleep(Duration::from_millis(100)).await;
        }
        stepped
    }
}

/// What an instance says of a batch to OUT that a leader took with it.
fn is_cut(line: &str) -> bool {
    let is_unknown = line.contains("no answer on") || line.contains("10176");
    let is_again = line.contains("nothing of a batch of outputs is stored, sending it again") && is_unknown;
    line.contains("OUT") && (is_again || line.contains("a batch of outputs is stored that was not confirmed"))
}

/// Has the leader of a stream step down; whether it did.
async fn step_down(connection: &Connection, stream: &str) -> bool {
    let answer = ask(connection, &format!("STREAM.LEADER.STEPDOWN.{stream}")).await;
    answer.pointer("/success").and_then(serde_json::Value::as_bool).unwrap_or(false)
}

/// Which server leads a stream; nothing while it has no leader.
async fn leader(connection: &Connection, stream: &str) -> String {
    let info = ask(connection, &format!("STREAM.INFO.{stream}")).await;
    info.pointer("/cluster/leader").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
}

/// What the API answers, nothing if it does not.
async fn ask(connection: &Connection, what: &str) -> serde_json::Value {
    let subject = Js::new(connection.clone()).subject(what);
    let answer = connection.request(subject, Default::default(), "", Duration::from_secs(2)).await;
    answer.ok().and_then(|answer| serde_json::from_slice(&answer.payload).ok()).unwrap_or_default()
}

/// A pipeline file of the name `filed`, from IN to the stream FILED, whose messages go after two seconds, is idle for longer, again
/// and again: it goes on as the same run, and stores each output once. A stream that sources the output keeps all of it.
pub async fn idle_beyond_max_age(own: &str, file: &str) {
    let (server, connection) = server().await;
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
    let path = folder.path().join("filed.toml").display().to_string();
    std::fs::write(&path, file).unwrap();
    let js = Js::new(connection.clone());
    let aging =
        StreamConfig { max_age: 2_000_000_000, ..StreamConfig::new("FILED", ["filed.>", "mill.txn.filed.out.*"]) };
    js.create_stream(&StreamConfig { allow_atomic: true, allow_rollup_hdrs: true, ..aging }).await.unwrap();
    let sources = json!([{ "name": "FILED", "filter_subject": "filed.>" }]);
    let rest = [("sources".to_owned(), sources)].into_iter().collect();
    js.create_stream(&StreamConfig { rest, ..StreamConfig::new("KEPT", [""; 0]) }).await.unwrap();
    let running = Running::start(own, &["run", &path, "--nats", &url], &[]);
    let (mut kept, mut owners, mut texts) = (Tail::of("KEPT"), BTreeSet::new(), Vec::new());
    for id in 1..=4 {
        texts.push(format!("{{\"id\":{id}}}"));
        publish_each(&connection, "in.order", &[format!("{{\"id\":{id}}}").into_bytes()]).await;
        kept.until(&connection, texts.len(), Duration::from_secs(20), || running.err()).await;
        // The marker was stored with it: not rewritten, it would be as old.
        let deadline = Instant::now() + Duration::from_secs(20);
        while js.next_message("FILED", 1, "filed.>").await.unwrap().is_some() {
            assert!(Instant::now() < deadline, "the output does not age away");
            sleep(Duration::from_millis(50)).await;
        }
        let marker = js.last_message("FILED", "mill.txn.filed.out.0").await.unwrap();
        let marker = marker.unwrap_or_else(|| panic!("the marker has gone: {}", running.err()));
        let marker: Value = serde_json::from_slice(&marker.payload).unwrap();
        owners.insert(marker["owner"].as_str().unwrap().to_owned());
    }
    assert_eq!(owners.len(), 1, "it began anew: {}", running.err());
    let warned = "max_age of stream FILED lets go of the marker";
    assert!(running.err().contains(warned), "{}", running.err());
    running.signal("TERM");
    let said = running.ended().await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    kept.read(&connection).await;
    assert_eq!(kept.data.into_iter().map(|(_, text)| text).collect::<Vec<_>>(), texts);
}

/// The same, into a stream whose messages go before the marker could be rewritten: it is refused.
pub async fn refused_for_max_age(own: &str, file: &str) {
    let (server, connection) = server().await;
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
    let path = folder.path().join("filed.toml").display().to_string();
    std::fs::write(&path, file).unwrap();
    let brief = StreamConfig { max_age: 500_000_000, ..StreamConfig::new("FILED", ["filed.>"]) };
    Js::new(connection.clone()).create_stream(&brief).await.unwrap();
    for command in [&["run", "--until-end"][..], &["doctor"]] {
        let said = call(own, &[command, &[&path, "--nats", &url]].concat(), &[]).await;
        assert_ne!(said.code, Some(0), "{command:?}");
        let told = format!("{}{}", said.out, said.err);
        assert!(told.contains("max_age of a second at least"), "{command:?}: {told}");
    }
}
