//! What the stories on a real server share: orders, an independent computation of what must come of them, a process to
//! kill, and a reader of the output stream.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    missing_docs,
    missing_debug_implementations,
    reason = "it is test code, though not inside a test"
)]

mod bad;
mod command;
pub mod counts;
pub mod damaged;
mod dice;
mod feeding;
mod once;
pub mod program;
mod proxy;
mod setting;
mod stream;
mod twins;
pub mod weed;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use millstream::broker::{
    AckPolicy, ConnectOptions, Connection, ConsumerConfig, Js, NatsServer, Outgoing, StreamConfig, Subject,
};
use tokio::time::{Instant, sleep, timeout};

pub use bad::Bad;
use command::Reader;
pub use command::{Running, Said, call};
pub use dice::Dice;
pub use feeding::{Feeder, Messages, feed};
pub use once::{Once, idle_beyond_max_age, refused_for_max_age};
pub use proxy::LossyProxy;
pub use setting::{a_while, chance, setting};
pub use stream::{Stored, Tail, data, publish_each, read_all};

/// Order number `id`, as JSON.
pub fn order(id: u64) -> String {
    let region = ["eu", "us", "asia"][(id % 3) as usize];
    // Every tenth is not paid, and must not come out.
    let cents = if id.is_multiple_of(10) { 0 } else { id * 7 % 100_000 + 1 };
    format!(r#"{{"id":{id},"region":"{region}","cents":{cents}}}"#)
}

/// What must come of order number `id`: its subject and its text, or nothing.
pub fn expected(id: u64) -> Option<(String, String)> {
    let region = ["eu", "us", "asia"][(id % 3) as usize];
    let cents = if id.is_multiple_of(10) { return None } else { id * 7 % 100_000 + 1 };
    let subject = if region == "eu" { "out.eu" } else { "out.rest" };
    let tax = cents * 19 / 100;
    Some((subject.into(), format!(r#"{{"id":{id},"region":"{region}","cents":{cents},"tax":{tax}}}"#)))
}

pub async fn create_streams(connection: &Connection, replicas: usize) {
    let (js, deadline) = (Js::new(connection.clone()), Instant::now() + Duration::from_secs(60));
    for (name, subjects) in [("IN", "in.>"), ("OUT", "out.>")] {
        // The output takes fast ingest; what group replies do is told by `ingest.rs`.
        let allow_batched = name == "OUT";
        let config = StreamConfig { num_replicas: replicas, allow_batched, ..StreamConfig::new(name, [subjects]) };
        // Servers that have just found each other may not have elected yet.
        while let Err(error) = js.create_stream(&config).await {
            assert!(replicas > 1 && Instant::now() < deadline, "{error}");
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Where a server keeps a stream.
pub fn files_of(server: &NatsServer, stream: &str) -> PathBuf {
    server.folder().join("data/jetstream/$G/streams").join(stream)
}

/// Copies a folder with all it holds.
pub fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// The pipeline in a process of its own. What it logs is shown where the test fails.
pub struct Pump {
    child: Child,
    log: Reader,
}

impl Pump {
    pub fn start(program: &str, url: &str, pipeline: &str) -> Pump {
        Pump::start_with(program, &[url, pipeline])
    }

    pub fn start_with(program: &str, arguments: &[&str]) -> Pump {
        let mut command = Command::new(program);
        let mut child = command.args(arguments).env("RUST_BACKTRACE", "0").stderr(Stdio::piped()).spawn().unwrap();
        let log = Reader::of(child.stderr.take().unwrap());
        Pump { child, log }
    }

    /// Runs a program that ends by itself; its status and what it said.
    pub fn words(program: &str, arguments: &[&str]) -> (ExitStatus, String) {
        let output = Command::new(program).args(arguments).env("RUST_BACKTRACE", "0").output().unwrap();
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn kill_9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "SIGTERM did not end it within 30 s");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Waits until it ends by itself.
    pub async fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.ended() {
                return status;
            }
            assert!(Instant::now() < deadline, "it did not end within 30 s");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What it has logged so far.
    pub fn said(&self) -> String {
        self.log.so_far()
    }

    /// The status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.kill_9();
        if std::thread::panicking() {
            println!("what process {} logged:\n{}", self.child.id(), self.log.so_far());
        }
    }
}

/// What the output stream holds.
#[derive(Debug, Default)]
pub struct Output {
    /// How often each order came, by id.
    pub times: BTreeMap<u64, u64>,
    /// How many messages there are.
    pub messages: u64,
    /// Of those, how many differ from what must come of their order.
    pub wrong: u64,
    /// The ids in the order of the stream, repeats included.
    pub order: Vec<u64>,
}

impl Output {
    /// Of the orders `0..count`, how many that must be there are not.
    pub fn missing(&self, count: u64) -> usize {
        (0..count).filter(|id| expected(*id).is_some() && !self.times.contains_key(id)).count()
    }

    pub fn duplicates(&self) -> u64 {
        self.messages - self.times.len() as u64
    }

    /// How many messages repeat an earlier one, in each of the parts that begin behind so many messages.
    pub fn repeats_behind(&self, marks: &[u64]) -> Vec<u64> {
        let (mut seen, mut repeats) = (BTreeSet::new(), vec![0; marks.len() + 1]);
        for (place, id) in self.order.iter().enumerate() {
            if !seen.insert(id) {
                repeats[marks.partition_point(|mark| *mark <= place as u64)] += 1;
            }
        }
        repeats
    }
}

/// How many messages the output stream has.
pub async fn out_len(connection: &Connection) -> u64 {
    match Js::new(connection.clone()).stream("OUT").await {
        Ok(info) => info.state.messages,
        Err(_) => 0,
    }
}

/// Waits until the output stream has at least so many messages.
pub async fn until_out(connection: &Connection, messages: u64, within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let len = out_len(connection).await;
        if len >= messages {
            return;
        }
        assert!(Instant::now() < deadline, "the output has {len} messages, {messages} were expected within {within:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Reads the output stream from its beginning, with a consumer of its own; again when servers that have just come back do
/// not answer yet.
pub async fn read_output(connection: &Connection) -> Output {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut output = Output::default();
        let read = try_read_stream(connection, "OUT", |subject, id, text| {
            let right = expected(id).is_some_and(|(to, body)| to == subject && body == text);
            output.wrong += u64::from(!right);
            output.messages += 1;
            output.order.push(id);
            *output.times.entry(id).or_default() += 1;
        });
        match read.await {
            Ok(()) => return output,
            Err(error) => assert!(Instant::now() < deadline, "the output cannot be read: {error}"),
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Reads a stream as far as it goes now, with a consumer of its own: of each message its subject, the number of the order
/// that it is of, and its text.
pub async fn read_stream(connection: &Connection, stream: &str, read: impl FnMut(&str, u64, &str)) {
    try_read_stream(connection, stream, read).await.unwrap();
}

async fn try_read_stream(
    connection: &Connection,
    stream: &str,
    mut read: impl FnMut(&str, u64, &str),
) -> Result<(), Box<dyn std::error::Error>> {
    let js = Js::new(connection.clone());
    let _ = js.delete_consumer(stream, "oracle").await;
    let total = js.stream(stream).await?.state.messages;
    let config = ConsumerConfig { name: "oracle".into(), ack_policy: AckPolicy::None, ..ConsumerConfig::default() };
    js.create_consumer(stream, &config).await?;
    let inbox = connection.new_inbox();
    let mut messages = connection.subscribe(inbox.clone(), 1 << 18).await?;
    let mut done = 0;
    while done < total {
        let batch = (total - done).min(10_000);
        let pull = format!(r#"{{"batch":{batch},"expires":5000000000}}"#);
        let request = Outgoing::new(js.next_subject(stream, "oracle"), pull).reply_to(Subject::from(inbox.clone()));
        connection.publish(request).await?;
        for _ in 0..batch {
            let message = timeout(Duration::from_secs(10), messages.next()).await?.ok_or("the connection is closed")?;
            if message.is_status() {
                return Err(format!("{message:?}").into());
            }
            let text = std::str::from_utf8(&message.payload).unwrap();
            let id = serde_json::from_str::<serde_json::Value>(text).unwrap()["id"].as_u64().unwrap();
            read(message.subject.as_str(), id, text);
        }
        done += batch;
    }
    let _ = js.delete_consumer(stream, "oracle").await;
    Ok(())
}

/// Reads the output stream until every order of `ids` that must be there is, or the time is over; repeats count as
/// messages, so their number alone tells nothing.
pub async fn until_complete(connection: &Connection, ids: std::ops::Range<u64>, within: Duration) -> Output {
    let deadline = Instant::now() + within;
    loop {
        let output = read_output(connection).await;
        let missing = ids.clone().filter(|id| expected(*id).is_some() && !output.times.contains_key(id)).count();
        if missing == 0 || Instant::now() > deadline {
            assert_eq!(missing, 0, "of the orders {ids:?}, after {within:?}");
            return output;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// A server with both streams.
pub async fn server() -> (NatsServer, Connection) {
    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    create_streams(&connection, 1).await;
    (server, connection)
}

/// Three servers that keep both streams three times; their urls, with commas.
pub async fn cluster() -> (Vec<NatsServer>, String, Connection) {
    let servers = NatsServer::start_cluster(3).await.unwrap();
    let mut options = ConnectOptions::default();
    options.urls = servers.iter().map(NatsServer::url).collect();
    let urls = options.urls.join(",");
    let connection = options.connect().await.unwrap();
    create_streams(&connection, servers.len()).await;
    (servers, urls, connection)
}
