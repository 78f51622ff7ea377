//! [`Once`]: what is told of every pipeline that promises effectively-once, by whichever protocol.
//!
//! `MILLSTREAM_ONCE` and `MILLSTREAM_ONCE_ORDERS` make the stories longer (the issue's form: 40 kills of the runtime, 20 of
//! the server, 30 rounds of twins).

use std::time::Duration;

use millstream::broker::{Connection, Js, NatsServer};
use tokio::time::sleep;

use super::{Bad, Feeder, Running, Tail, a_while, setting};

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
        let (feeder, bad) = (Feeder::start_with(connection, 1_000, 20), Bad::start(connection));
        let start = || self.start(&server.url(), "twins", 1, 1);
        let rounds = Once::kills().div_ceil(2).max(3);
        let running = self.replaced("twins", connection, start(), start, rounds, false).await;
        self.settled("twins", connection, feeder, bad, running).await
    }

    /// On three servers leaders step down while an instance sleeps and its twin takes over; then instances are killed so often
    /// while they step down again.
    pub async fn stepping(&self, urls: &str, connection: &Connection, kills: u64) -> u64 {
        self.allow(connection, "stepping").await;
        let (feeder, bad) = (Feeder::start_with(connection, 1_000, 20), Bad::start(connection));
        let start = || self.start(urls, "stepping", 1, 3);
        let mut running = self.replaced("twins on three servers", connection, start(), start, 1, true).await;
        let mut stepped = 0;
        for _ in 0..kills {
            a_while().await;
            stepped += self.step_down(connection).await;
            running.killed().await;
            running = start();
        }
        println!("twins on three servers: {stepped} leaders stepped down in {kills} rounds");
        assert!(u64::from(stepped) >= kills, "only {stepped} leaders stepped down");
        self.settled("twins on three servers", connection, feeder, bad, running).await
    }

    /// So many rounds of twins; the last one is running.
    async fn replaced(
        &self,
        story: &str,
        connection: &Connection,
        mut running: Running,
        start: impl Fn() -> Running,
        rounds: u64,
        steps: bool,
    ) -> Running {
        let mut out = Tail::of(self.seen_in);
        // One that sleeps before it has begun would be the later starter when it wakes.
        let before = out.read(connection).await;
        let why = || format!("{story}: the first instance does not go on: {}", running.err());
        out.until(connection, before + 50, Duration::from_secs(30), why).await;
        for round in 0..rounds {
            a_while().await;
            running.signal("STOP");
            let before = out.read(connection).await;
            let twin = start();
            if steps {
                assert!(self.step_down(connection).await > 0, "{story}: no leader stepped down");
            }
            // The twin has stored something of its own.
            let why = || format!("{story}, round {round}: the twin does not go on: {}", twin.err());
            out.until(connection, before + 50, Duration::from_secs(30), why).await;
            running.signal("CONT");
            let said = running.ended().await;
            assert_eq!(said.code, Some(3), "{story}, round {round}: {}", said.err);
            assert!(said.err.contains("has taken over"), "{story}, round {round}: {}", said.err);
            running = twin;
        }
        println!("{story}: {rounds} rounds");
        running
    }

    /// The leaders of the streams step down, one after the other, in the middle of commits; how many did.
    pub async fn step_down(&self, connection: &Connection) -> u32 {
        let mut stepped = 0;
        let js = Js::new(connection.clone()).timeout(Duration::from_secs(2));
        for stream in self.led {
            let subject = js.subject(&format!("STREAM.LEADER.STEPDOWN.{stream}"));
            // One that is not there, or has no leader at the moment, is left alone.
            let answer = connection.request(subject, Default::default(), "", Duration::from_secs(2)).await;
            let done = |answer: &str| answer.contains(r#""success":true"#) || answer.contains(r#""success": true"#);
            stepped += u32::from(answer.is_ok_and(|answer| done(&String::from_utf8_lossy(&answer.payload))));
            sleep(Duration::from_millis(100)).await;
        }
        stepped
    }
}
