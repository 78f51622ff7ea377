//! The loops that one would write by hand with the NATS client: read ahead, publish ahead, acknowledge what is stored.
//!
//! Both are sound: an input is acknowledged only when its output is confirmed, an answer that is not a confirmation ends
//! the run, and at the end everything is accounted for. Neither does what a runtime has to do besides: survive errors.

use std::collections::VecDeque;

use async_nats::Subject;
use bytes::Bytes;
use futures::StreamExt;
use millstream_bench::{Failed, OUT_SUBJECT, Reader, connect, waiting};
use serde_json::{Value, json};

/// Group replies: one reply subject for 256 messages, which are confirmed when so many acknowledgements came to it.
pub(crate) async fn groups(url: &str, messages: u64, run: usize) -> Result<(), Failed> {
    const GROUP: u64 = 256;
    const WINDOW: u64 = 4_096;
    const ACK_EVERY: u64 = 1_000;
    struct Group {
        acked: u64,
        messages: u64,
        last: Subject,
    }
    let client = connect(url).await?;
    let mut reader = Reader::open(&client, format!("groups-{run}")).await?;
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(format!("{inbox}.*")).await?;
    let to = Subject::from_static(OUT_SUBJECT);
    let mut groups: VecDeque<Group> = VecDeque::new();
    let (mut first_group, mut reply) = (0_u64, Subject::from_static(""));
    let (mut sent, mut confirmed, mut acked) = (0, 0, 0);
    while confirmed < messages {
        reader.pull().await?;
        let room = sent < messages && sent - confirmed < WINDOW;
        let (mut answer, mut delivery) = (None, None);
        tokio::select! {
            biased;
            heard = answers.next() => answer = heard,
            read = reader.deliveries.next(), if room => delivery = read,
        }
        while let Some(message) = delivery {
            let (payload, delivered) = reader.take(message)?;
            match groups.back_mut().filter(|group| group.messages < GROUP) {
                Some(group) => {
                    group.messages += 1;
                    group.last = delivered;
                }
                None => {
                    reply = format!("{inbox}.{}", first_group + groups.len() as u64).into();
                    groups.push_back(Group { acked: 0, messages: 1, last: delivered });
                }
            }
            client.publish_with_reply(to.clone(), reply.clone(), payload).await?;
            sent += 1;
            let room = sent < messages && sent - confirmed < WINDOW;
            delivery = if room { waiting(&mut reader.deliveries) } else { None };
        }
        while let Some(message) = answer {
            if message.status.is_some() || !message.payload.starts_with(br#"{"stream":"OUT","seq":"#) {
                return Err(format!("a message was not stored: {:?}", message.payload).into());
            }
            let group = message.subject.rsplit('.').next().and_then(|id| id.parse::<u64>().ok());
            let index = group.and_then(|id| usize::try_from(id.checked_sub(first_group)?).ok());
            if let Some(group) = index.and_then(|index| groups.get_mut(index)) {
                group.acked += 1;
            }
            answer = waiting(&mut answers);
        }
        // A group that is not full is whole only at the end of the input.
        let whole = |group: &Group| group.acked == group.messages && (group.messages == GROUP || sent == messages);
        let mut last = None;
        while groups.front().is_some_and(whole)
            && let Some(done) = groups.pop_front()
        {
            first_group += 1;
            confirmed += done.messages;
            last = Some(done.last);
        }
        if let Some(last) = last.filter(|_| confirmed - acked >= ACK_EVERY || confirmed == messages) {
            reader.ack(last).await?;
            acked = confirmed;
        }
    }
    Ok(client.flush().await?)
}

/// Fast ingest: the stream says every 500 messages that all so far are stored; the batch's end confirms the rest.
pub(crate) async fn fast(url: &str, messages: u64, run: usize) -> Result<(), Failed> {
    const FLOW: u64 = 500;
    const WINDOW: u64 = 4_000;
    let client = connect(url).await?;
    let mut reader = Reader::open(&client, format!("fast-{run}")).await?;
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(format!("{inbox}.>")).await?;
    let to = Subject::from_static(OUT_SUBJECT);
    let place = format!("{inbox}.by-hand-{run}.{FLOW}.fail");
    // Where each message that a flow acknowledgement can name is acknowledged in turn.
    let mut deliveries: VecDeque<(u64, Subject)> = VecDeque::new();
    let (mut sent, mut confirmed) = (0, 0);
    while confirmed < messages {
        reader.pull().await?;
        let room = sent < messages && sent - confirmed < WINDOW;
        let (mut answer, mut delivery) = (None, None);
        tokio::select! {
            biased;
            heard = answers.next() => answer = heard,
            read = reader.deliveries.next(), if room => delivery = read,
        }
        while let Some(message) = delivery {
            let (payload, delivered) = reader.take(message)?;
            sent += 1;
            if sent % FLOW == 0 || sent == messages {
                deliveries.push_back((sent, delivered));
            }
            let operation = u8::from(sent > 1);
            client.publish_with_reply(to.clone(), format!("{place}.{sent}.{operation}.$FI"), payload).await?;
            if sent == messages {
                let end = format!("{place}.{}.3.$FI", sent + 1);
                client.publish_with_reply(to.clone(), end, Bytes::new()).await?;
            }
            let room = sent < messages && sent - confirmed < WINDOW;
            delivery = if room { waiting(&mut reader.deliveries) } else { None };
        }
        while let Some(message) = answer {
            let told: Value = serde_json::from_slice(&message.payload).unwrap_or_default();
            confirmed = match (told.get("type").and_then(Value::as_str), told.get("seq"), told.get("count")) {
                (Some("ack"), Some(upto), _) => upto.as_u64().unwrap_or(0).max(confirmed),
                (None, Some(_), Some(count))
                    if told.get("stream") == Some(&json!("OUT")) && *count == json!(messages) =>
                {
                    messages
                }
                _ => return Err(format!("messages were not stored: {:?}", message.payload).into()),
            };
            answer = waiting(&mut answers);
        }
        let mut last = None;
        while deliveries.front().is_some_and(|(number, _)| *number <= confirmed)
            && let Some((_, delivered)) = deliveries.pop_front()
        {
            last = Some(delivered);
        }
        if let Some(last) = last {
            reader.ack(last).await?;
        }
    }
    Ok(client.flush().await?)
}
