//! [`World`]: one broker as a script sees it, and the record of all it says.
//!
//! No script depends on how quick a real server is. What the embedded broker said first is known when the script runs on
//! the server, which is given much time to say the same: an answer is waited for, and what is told of streams and consumers
//! is asked for again until it is so. Only that nothing more comes is believed after a short while.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::broker::{BrokerError, Connection, Incoming, Outgoing, Subject, Subscription};
use millstream_operators::Headers;
use serde_json::{Value, json};
use tokio::time::Instant;

/// How long nothing must come until nothing is expected to come.
const QUIET: Duration = Duration::from_millis(300);
/// How long an answer may take that nobody expects.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a server may take for what it is expected to say.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time for the embedded broker to finish what it does behind its answers, in virtual time.
const SETTLE: Duration = Duration::from_millis(25);

pub(crate) struct World {
    connection: Connection,
    pub(crate) record: Vec<String>,
    /// What the other broker said, and whether this one has said the same so far.
    expected: Option<Vec<String>>,
    agrees: bool,
    /// What was delivered of each consumer and can be acknowledged.
    deliveries: BTreeMap<String, Vec<Subject>>,
    /// Pulls and batches that stay open.
    inboxes: BTreeMap<String, (Subject, Subscription)>,
}

pub(crate) fn headers(pairs: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::NONE;
    for (name, value) in pairs {
        headers.push(name, value).unwrap();
    }
    headers
}

impl World {
    /// The broker that is first to speak, in virtual time.
    pub(crate) fn first(connection: Connection) -> Self {
        World {
            connection,
            record: Vec::new(),
            expected: None,
            agrees: true,
            deliveries: BTreeMap::new(),
            inboxes: BTreeMap::new(),
        }
    }

    /// The broker that shall say the same.
    pub(crate) fn second(connection: Connection, expected: Vec<String>) -> Self {
        World { expected: Some(expected), ..World::first(connection) }
    }

    fn note(&mut self, line: impl Into<String>) {
        let line = line.into();
        if let Some(expected) = &self.expected {
            self.agrees &= expected.get(self.record.len()) == Some(&line);
        }
        self.record.push(line);
    }

    /// What must be said next, as long as both have said the same.
    fn expected(&self) -> Option<&str> {
        let expected = self.expected.as_ref().filter(|_| self.agrees)?;
        expected.get(self.record.len()).map(String::as_str)
    }

    /// How long to wait for what the broker says next; `otherwise` where it is not known to say anything.
    fn patience(&self, otherwise: Duration) -> Duration {
        match self.expected() {
            Some(line) if line.starts_with("< ") && line != "< silence" => PATIENCE,
            _ => otherwise,
        }
    }

    /// Lets time pass for the embedded broker. On a server the next look, pull or read waits for what it brings.
    pub(crate) async fn pass(&self, millis: u64) {
        if self.expected.is_none() {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }

    /// Lets time pass on either, for what must still be so however much passes.
    pub(crate) async fn elapse(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    async fn ask(&self, call: &str, body: &Value) -> (Value, String) {
        let text = text(body);
        let (subject, within) = (format!("$JS.API.{call}"), self.patience(ANSWER));
        match self.connection.request(subject, Headers::NONE, text, within).await {
            Ok(answer) => {
                let answer: Value = serde_json::from_slice(&answer.payload).unwrap_or(Value::Null);
                let told = normal(answer.clone()).to_string();
                (answer, told)
            }
            Err(error) => (Value::Null, failure(&error)),
        }
    }

    /// A call of the API; no body for null.
    pub(crate) async fn call(&mut self, call: &str, body: Value) -> Value {
        self.note(format!("> {call} {}", text(&body)));
        let (answer, told) = self.ask(call, &body).await;
        self.note(format!("< {told}"));
        answer
    }

    /// What is told once all is done.
    async fn look(&mut self, call: String) {
        self.pass(u64::try_from(SETTLE.as_millis()).unwrap()).await;
        self.note(format!("> {call}"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let line = format!("< {}", self.ask(&call, &Value::Null).await.1);
            let is_so = self.expected().is_none_or(|expected| expected == line);
            if is_so || Instant::now() > deadline {
                self.note(line);
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Deletes a message if it is there. How the server says that it is not depends on the layout of its files.
    pub(crate) async fn delete(&mut self, stream: &str, seq: u64) {
        let (answer, _) = self.ask(&format!("STREAM.MSG.DELETE.{stream}"), &json!({ "seq": seq })).await;
        self.note(format!("> delete {seq} of {stream}: {}", answer.get("success").is_some()));
    }

    /// What is told of a consumer once all is done.
    pub(crate) async fn consumer(&mut self, stream: &str, name: &str) {
        self.look(format!("CONSUMER.INFO.{stream}.{name}")).await;
    }

    /// What is told of a stream once all is done.
    pub(crate) async fn stream(&mut self, name: &str) {
        self.look(format!("STREAM.INFO.{name}")).await;
    }

    /// A publish that wants an answer.
    pub(crate) async fn publish(&mut self, subject: &str, pairs: &[(&str, &str)], payload: &str) {
        self.note(format!("> publish {subject} {pairs:?} {payload:.20}"));
        let told = self.published(subject, pairs, payload).await;
        self.note(format!("< {told}"));
    }

    async fn published(&self, subject: &str, pairs: &[(&str, &str)], payload: &str) -> String {
        let (headers, within) = (headers(pairs), self.patience(ANSWER));
        match self.connection.request(subject.to_owned(), headers, payload.to_owned(), within).await {
            Ok(answer) => told(&answer, false),
            Err(error) => failure(&error),
        }
    }

    /// As [`publish`](World::publish), again and again until the stream does not know the message's id any more.
    pub(crate) async fn publish_until_forgotten(&mut self, subject: &str, pairs: &[(&str, &str)]) {
        self.note(format!("> publish {subject} {pairs:?} until it is taken"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told = self.published(subject, pairs, "x").await;
            if !told.contains("\"duplicate\":true") || Instant::now() > deadline {
                self.note(format!("< {told}"));
                return;
            }
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// A pull, and what it brings until it is over.
    pub(crate) async fn pull(&mut self, stream: &str, consumer: &str, body: Value) {
        let name = format!("pull {stream}.{consumer}");
        self.open(&name, stream, consumer, body.clone()).await;
        let batch = body.get("batch").and_then(Value::as_u64).unwrap_or(1);
        let bounded = body.get("max_bytes").is_some();
        let (_, mut inbox) = self.inboxes.remove(&name).unwrap();
        let mut delivered = 0;
        while let Ok(Some(message)) = tokio::time::timeout(self.patience(QUIET * 2), inbox.next()).await {
            self.hear(consumer, &message);
            delivered += u64::from(message.status.is_none());
            let over = message.status.is_some_and(|status| status != 100);
            if over || (delivered == batch && !bounded) {
                break;
            }
        }
    }

    /// A pull that stays open under a name.
    pub(crate) async fn open(&mut self, name: &str, stream: &str, consumer: &str, body: Value) {
        self.note(format!("> {name} of {stream}.{consumer} {body}"));
        let inbox = self.inbox(name).await;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.connection.publish(Outgoing::new(subject, body).reply_to(inbox)).await.unwrap();
    }

    async fn inbox(&mut self, name: &str) -> Subject {
        let subject = self.connection.new_inbox();
        let pattern = if name.starts_with("batch") { format!("{subject}.>") } else { subject.clone() };
        let subscription = self.connection.subscribe(pattern, 4096).await.unwrap();
        self.connection.flush().await.unwrap();
        let subject = Subject::from(subject);
        self.inboxes.insert(name.to_owned(), (subject.clone(), subscription));
        subject
    }

    /// All that an open pull or batch brought and brings now.
    pub(crate) async fn read(&mut self, name: &str, consumer: &str) {
        self.note(format!("> read {name}"));
        let (subject, mut inbox) = self.inboxes.remove(name).unwrap();
        while let Ok(Some(message)) = tokio::time::timeout(self.patience(QUIET), inbox.next()).await {
            self.hear(consumer, &message);
        }
        self.inboxes.insert(name.to_owned(), (subject, inbox));
    }

    /// Nobody listens to a pull any more.
    pub(crate) async fn close(&mut self, name: &str) {
        self.note(format!("> close {name}"));
        self.inboxes.remove(name);
        self.connection.flush().await.unwrap();
        self.pass(25).await;
    }

    fn hear(&mut self, consumer: &str, message: &Incoming) {
        if let Some(reply) = &message.reply {
            self.deliveries.entry(consumer.to_owned()).or_default().push(reply.clone());
        }
        let line = format!("< {}", told(message, true));
        // How many heartbeats there are is a matter of time.
        if message.status != Some(100) || self.record.last() != Some(&line) {
            self.note(line);
        }
    }

    pub(crate) fn delivered(&self, consumer: &str) -> usize {
        self.deliveries.get(consumer).map_or(0, Vec::len)
    }

    /// A word on a delivery, counted from 0 over all of the consumer's, and whether it is answered.
    pub(crate) async fn answer(&mut self, consumer: &str, delivery: usize, word: &str) {
        let reply = self.deliveries[consumer][delivery].clone();
        self.note(format!("> {word:?} to {}", normal_ack(&reply)));
        let answer = self.connection.request(reply, Headers::NONE, word.to_owned(), self.patience(QUIET)).await;
        let told = match answer {
            Ok(answer) => told(&answer, true),
            Err(error) => failure(&error),
        };
        self.note(format!("< {told}"));
    }

    /// A message of fast ingest, on the inbox of that name, and what it brings.
    pub(crate) async fn fast(&mut self, id: &str, place: &str, subject: &str, pairs: &[(&str, &str)]) {
        let name = format!("batch {id}");
        if !self.inboxes.contains_key(&name) {
            self.inbox(&name).await;
        }
        let (inbox, mut subscription) = self.inboxes.remove(&name).unwrap();
        self.note(format!("> fast {id}.{place} {subject} {pairs:?}"));
        let message = Outgoing::new(subject.to_owned(), "x").headers(headers(pairs));
        self.connection.publish(message.reply_to(format!("{inbox}.{id}.{place}.$FI"))).await.unwrap();
        while let Ok(Some(message)) = tokio::time::timeout(self.patience(SETTLE * 2), subscription.next()).await {
            self.note(format!("< {}", told(&message, false)));
        }
        self.inboxes.insert(name, (inbox, subscription));
    }

    /// Listens to advisories, or whatever else is published.
    pub(crate) async fn listen(&mut self, name: &str, pattern: &str) {
        let subscription = self.connection.subscribe(pattern.to_owned(), 4096).await.unwrap();
        self.connection.flush().await.unwrap();
        self.inboxes.insert(name.to_owned(), (pattern.to_owned().into(), subscription));
    }
}

fn text(body: &Value) -> String {
    match body {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        body => body.to_string(),
    }
}

fn failure(error: &BrokerError) -> String {
    match error {
        BrokerError::NoResponders { .. } => "nobody".to_owned(),
        BrokerError::Timeout { .. } => "silence".to_owned(),
        other => other.to_string(),
    }
}

/// A message without what differs from run to run.
fn told(message: &Incoming, delivery: bool) -> String {
    let mut headers: Vec<String> = message.headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
    headers.sort();
    let body = String::from_utf8_lossy(&message.payload).into_owned();
    let body = serde_json::from_str::<Value>(&body).map_or(body, |json| normal(json).to_string());
    let reply = message.reply.as_ref().map_or_else(String::new, |reply| normal_ack(reply));
    let subject = if delivery && !message.subject.starts_with("_INBOX") { message.subject.as_str() } else { "" };
    let (status, description) = (message.status, message.description.as_deref());
    format!("{subject} {status:?} {description:?} {headers:?} {reply} {body:.200}")
}

/// The reply subject of a delivery without the time.
fn normal_ack(reply: &str) -> String {
    let mut tokens: Vec<&str> = reply.split('.').collect();
    if let [.., time, _] = tokens.as_mut_slice() {
        *time = "T";
    }
    tokens.join(".")
}

/// An answer without times, generated names, and what only a server among servers has.
fn normal(mut json: Value) -> Value {
    if let Some(error) = json.get_mut("error").map(Value::take) {
        if error.get("err_code") == Some(&json!(10025)) {
            return json!({ "error": 10025 });
        }
        return json!({ "error": error });
    }
    strip(&mut json);
    json
}

fn strip(json: &mut Value) {
    const RUN: [&str; 14] = [
        "ts",
        "created",
        "time",
        "first_ts",
        "last_ts",
        "last_active",
        "cluster",
        "total",
        "offset",
        "limit",
        "id",
        "timestamp",
        "hdrs",
        "domain",
    ];
    match json {
        Value::Object(fields) => {
            fields.retain(|name, _| !RUN.contains(&name.as_str()) && !name.starts_with("_nats."));
            fields.values_mut().for_each(strip);
            if fields.get("metadata") == Some(&json!({})) {
                fields.remove("metadata");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}
