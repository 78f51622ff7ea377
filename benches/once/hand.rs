//! The loop that one would write by hand with the NATS client where each output must be stored once: atomic batches of outputs,
//! each with a marker that says how far the input is, expected where the last one was stored.
//!
//! While one batch is stored the next is gathered, whatever has come until then: no loop with one batch on its way, as streams
//! with replicas demand it, waits less. It goes on where the marker says, and the server refuses one that another has overtaken;
//! it does not survive errors, as a runtime has to.

use async_nats::{Client, HeaderMap, Subject};
use bytes::Bytes;
use futures::StreamExt;
use millstream_bench::{Failed, OUT_SUBJECT, Reader, connect, waiting};
use serde_json::{Value, json};

/// What fits in a batch beside the marker.
const MOST: usize = 999;

/// The batch that is on its way.
struct Batch {
    id: String,
    outputs: u64,
    /// Where the last of its inputs is acknowledged.
    last: Subject,
}

struct Writer {
    client: Client,
    inbox: String,
    marker: String,
    /// Where the marker was stored last.
    marked: u64,
    batches: u64,
}

impl Writer {
    /// Sends a batch; the answer comes to the inbox.
    async fn send(&mut self, outputs: &mut Vec<Bytes>, last: Subject) -> Result<Batch, Failed> {
        self.batches += 1;
        let (id, count) = (format!("{}-{}", self.marker, self.batches), outputs.len() as u64);
        // `$JS.ACK.<stream>.<consumer>.<delivered>.<sequence>. ...`, from behind because there may be more before.
        let sequence = last.rsplit('.').nth(3).ok_or("no delivery")?;
        let headers = |place: u64| {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", id.as_str());
            headers.insert("Nats-Batch-Sequence", place.to_string());
            headers
        };
        let mut marker = headers(1);
        marker.insert("Nats-Rollup", "sub");
        marker.insert("Nats-Expected-Last-Subject-Sequence", self.marked.to_string());
        let position = json!({ "sequence": sequence }).to_string();
        self.client.publish_with_headers(self.marker.clone(), marker, position.into()).await?;
        for (place, output) in (2..).zip(outputs.drain(..)) {
            let mut headers = headers(place);
            if place <= count {
                self.client.publish_with_headers(OUT_SUBJECT, headers, output).await?;
            } else {
                headers.insert("Nats-Batch-Commit", "1");
                let inbox = self.inbox.clone();
                self.client.publish_with_reply_and_headers(OUT_SUBJECT, inbox, headers, output).await?;
            }
        }
        Ok(Batch { id, outputs: count, last })
    }

    /// What the server says of the batch that was on its way.
    fn stored(&mut self, batch: &Batch, answer: &Bytes) -> Result<(), Failed> {
        let told: Value = serde_json::from_slice(answer)?;
        let (count, sequence) = (batch.outputs + 1, told.get("seq").and_then(Value::as_u64));
        match sequence {
            Some(last) if told.get("batch") == Some(&json!(batch.id)) && told.get("count") == Some(&json!(count)) => {
                self.marked = last - batch.outputs;
                Ok(())
            }
            _ => Err(format!("a batch was not stored: {told}").into()),
        }
    }
}

/// From IN to OUT, so many messages.
pub(crate) async fn batches(url: &str, messages: u64, run: usize) -> Result<(), Failed> {
    let client = connect(url).await?;
    let mut reader = Reader::open(&client, format!("batches-{run}")).await?;
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await?;
    let marker = format!("mill.txn.by-hand-{run}.out.0");
    let mut writer = Writer { client: client.clone(), inbox, marker, marked: 0, batches: 0 };
    let (mut gathered, mut last) = (Vec::with_capacity(MOST), Subject::from_static(""));
    let mut on_its_way: Option<Batch> = None;
    let (mut read, mut stored) = (0, 0);
    while stored < messages {
        reader.pull().await?;
        let room = gathered.len() < MOST && read < messages;
        let (mut answer, mut delivery) = (None, None);
        tokio::select! {
            biased;
            heard = answers.next(), if on_its_way.is_some() => answer = heard,
            come = reader.deliveries.next(), if room => delivery = come,
        }
        while let Some(message) = delivery {
            let (payload, delivered) = reader.take(message)?;
            gathered.push(payload);
            (last, read) = (delivered, read + 1);
            let room = gathered.len() < MOST && read < messages;
            delivery = if room { waiting(&mut reader.deliveries) } else { None };
        }
        if let Some(answer) = answer
            && let Some(batch) = on_its_way.take()
        {
            writer.stored(&batch, &answer.payload)?;
            stored += batch.outputs;
            reader.ack(batch.last).await?;
        }
        if on_its_way.is_none() && !gathered.is_empty() {
            on_its_way = Some(writer.send(&mut gathered, last.clone()).await?);
        }
    }
    Ok(client.flush().await?)
}
