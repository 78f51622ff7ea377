//! [`World`]: one broker as a script sees it, and the record of all it says.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::broker::{BrokerError, Connection, Incoming, Outgoing, Subject, Subscription};
use millstream_operators::Headers;
use serde_json::{Value, json};

/// How long nothing must come until nothing is expected to come.
const QUIET: Duration = Duration::from_millis(300);
/// How long an answer may take; few calls get none.
const ANSWER: Duration = Duration::from_secs(1);
/// Time for a server to finish what it does behind its answers.
const SETTLE: Duration = Duration::from_millis(25);

pub(crate) struct World {
    connection: Connection,
    pub(crate) record: Vec<String>,
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
    pub(crate) fn new(connection: Connection) -> Self {
        World { connection, record: Vec::new(), deliveries: BTreeMap::new(), inboxes: BTreeMap::new() }
    }

    fn note(&mut self, line: impl Into<String>) {
        self.record.push(line.into());
    }

    pub(crate) async fn settle(&self) {
        tokio::time::sleep(SETTLE).await;
    }

    pub(crate) async fn wait(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    /// A call of the API; no body for null.
    pub(crate) async fn call(&mut self, call: &str, body: Value) -> Value {
        let text = match &body {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            body => body.to_string(),
        };
        self.note(format!("> {call} {text}"));
        let answer = self.connection.request(format!("$JS.API.{call}"), Headers::NONE, text, ANSWER).await;
        let answer = match answer {
            Ok(answer) => serde_json::from_slice(&answer.payload).unwrap_or(Value::Null),
            Err(error) => {
                self.note(format!("< {}", failure(&error)));
                return Value::Null;
            }
        };
        let told = normal(answer.clone());
        self.note(format!("< {told}"));
        answer
    }

    /// Deletes a message if it is there. How the server says that it is not depends on the layout of its files.
    pub(crate) async fn delete(&mut self, stream: &str, seq: u64) {
        let recorded = self.record.len();
        let answer = self.call(&format!("STREAM.MSG.DELETE.{stream}"), json!({ "seq": seq })).await;
        self.record.truncate(recorded);
        self.note(format!("> delete {seq} of {stream}: {}", answer.get("success").is_some()));
    }

    /// What is told of a consumer once all is done.
    pub(crate) async fn consumer(&mut self, stream: &str, name: &str) {
        self.settle().await;
        self.call(&format!("CONSUMER.INFO.{stream}.{name}"), Value::Null).await;
    }

    /// What is told of a stream once all is done.
    pub(crate) async fn stream(&mut self, name: &str) {
        self.settle().await;
        self.call(&format!("STREAM.INFO.{name}"), Value::Null).await;
    }

    /// A publish that wants an answer.
    pub(crate) async fn publish(&mut self, subject: &str, pairs: &[(&str, &str)], payload: &str) {
        self.note(format!("> publish {subject} {pairs:?} {payload:.20}"));
        let answer = self.connection.request(subject.to_owned(), headers(pairs), payload.to_owned(), ANSWER).await;
        let told = match answer {
            Ok(answer) => told(&answer, false),
            Err(error) => failure(&error),
        };
        self.note(format!("< {told}"));
    }

    /// A pull, and what it brings until it is over.
    pub(crate) async fn pull(&mut self, stream: &str, consumer: &str, body: Value) {
        let name = format!("pull {stream}.{consumer}");
        self.open(&name, stream, consumer, body.clone()).await;
        let batch = body.get("batch").and_then(Value::as_u64).unwrap_or(1);
        let bounded = body.get("max_bytes").is_some();
        let (_, mut inbox) = self.inboxes.remove(&name).unwrap();
        let mut delivered = 0;
        while let Ok(Some(message)) = tokio::time::timeout(QUIET * 2, inbox.next()).await {
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
        while let Ok(Some(message)) = tokio::time::timeout(QUIET, inbox.next()).await {
            self.hear(consumer, &message);
        }
        self.inboxes.insert(name.to_owned(), (subject, inbox));
    }

    /// Nobody listens to a pull any more.
    pub(crate) async fn close(&mut self, name: &str) {
        self.note(format!("> close {name}"));
        self.inboxes.remove(name);
        self.settle().await;
    }

    fn hear(&mut self, consumer: &str, message: &Incoming) {
        if let Some(reply) = &message.reply {
            self.deliveries.entry(consumer.to_owned()).or_default().push(reply.clone());
        }
        self.note(format!("< {}", told(message, true)));
    }

    pub(crate) fn delivered(&self, consumer: &str) -> usize {
        self.deliveries.get(consumer).map_or(0, Vec::len)
    }

    /// A word on a delivery, counted from 0 over all of the consumer's, and whether it is answered.
    pub(crate) async fn answer(&mut self, consumer: &str, delivery: usize, word: &str) {
        let reply = self.deliveries[consumer][delivery].clone();
        self.note(format!("> {word:?} to {}", normal_ack(&reply)));
        let answer = self.connection.request(reply, Headers::NONE, word.to_owned(), QUIET).await;
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
        while let Ok(Some(message)) = tokio::time::timeout(SETTLE * 2, subscription.next()).await {
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
