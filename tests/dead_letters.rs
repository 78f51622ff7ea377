//! Dead letters on a real server: whose stream they go to, and what is left of a message in one.

#![allow(clippy::unwrap_used, reason = "it is test code, though not all inside a test")]

use std::time::Duration;

use millstream::broker::{Connection, Js, NatsServer, Outgoing, Purge, StreamConfig, Subject};
use millstream::operators::Headers;
use millstream_tests::support::*;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

const MILLSTREAM: &str = env!("CARGO_BIN_EXE_own");

/// A pipeline of this name, whose dead letters go to a sink of these settings.
fn file(folder: &TempDir, name: &str, dead: &str) -> String {
    let path = folder.path().join(format!("{name}.toml")).display().to_string();
    let text = format!(
        r#"
name = "{name}"

[sources.in]
kind = "jetstream"
stream = "IN"
format = "json"
schema = {{ id = "int64 not null" }}
on_error = {{ send_to = "dead" }}

[sinks.out]
kind = "jetstream"
from = "in"
stream = "OUT"
subject = "out.all"
on_error = "stop"

[sinks.dead]
kind = "dead_letter"
{dead}
"#
    );
    std::fs::write(&path, text).unwrap();
    path
}

fn run<'a>(file: &'a str, url: &'a str) -> [&'a str; 5] {
    ["run", file, "--until-end", "--nats", url]
}

/// The subjects of the letters in a stream.
async fn letters(connection: &Connection, stream: &str) -> Vec<String> {
    let mut all: Vec<_> = read_all(connection, stream).await.into_iter().map(|letter| letter.subject).collect();
    all.sort();
    all
}

#[tokio::test]
async fn pipelines_have_dead_letter_streams_of_their_own_or_share_one() {
    let (server, connection) = server().await;
    publish_each(&connection, "in.x", &[b"no row".to_vec()]).await;
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
    // At once, so that all of them find the shared stream without their subject.
    let stories = [("a", "stream = \"A\""), ("b", ""), ("c", ""), ("d", ""), ("e", ""), ("f", "stream = \"F\"")];
    let files = stories.map(|(name, dead)| file(&folder, name, dead));
    let running: Vec<_> = files.iter().map(|file| Running::start(MILLSTREAM, &run(file, &url), &[])).collect();
    for running in running {
        let said = running.ended().await;
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(!said.err.contains("the output waits"), "{}", said.err);
    }
    let shared = ["mill.dlq.b.in", "mill.dlq.c.in", "mill.dlq.d.in", "mill.dlq.e.in"];
    assert_eq!(letters(&connection, "mill_dlq").await, shared);
    assert_eq!(letters(&connection, "A").await, ["mill.dlq.a.in"]);
    assert_eq!(letters(&connection, "F").await, ["mill.dlq.f.in"]);
    // A stream that takes all of them is used as it is.
    let js = Js::new(connection.clone());
    for stream in ["A", "F", "mill_dlq"] {
        js.delete_stream(stream).await.unwrap();
    }
    js.create_stream(&StreamConfig::new("ALL", ["mill.dlq.>"])).await.unwrap();
    let said = call(MILLSTREAM, &run(&file(&folder, "g", "stream = \"ALL\"\ncreate = false"), &url), &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(js.stream("ALL").await.unwrap().config.subjects, ["mill.dlq.>"]);
    assert_eq!(letters(&connection, "ALL").await, ["mill.dlq.g.in"]);
}

#[tokio::test]
async fn a_stream_that_cannot_be_had_ends_the_run_at_once_and_names_the_way_out() {
    let (server, connection) = server().await;
    let js = Js::new(connection.clone());
    js.create_stream(&StreamConfig::new("THEIRS", ["mill.dlq.a.*"])).await.unwrap();
    js.create_stream(&StreamConfig::new("OTHER", ["other.>"])).await.unwrap();
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
    for (name, dead, words) in [
        ("a", "", "another stream takes some of mill.dlq.a.> already: name that stream here in place of mill_dlq"),
        ("b", "stream = \"OTHER\"\ncreate = false", "does not take mill.dlq.b.*: add that to its subjects (other.>)"),
        ("a", "stream = \"OTHER\"", "another stream takes some of mill.dlq.a.> already"),
    ] {
        let began = Instant::now();
        let said = call(MILLSTREAM, &run(&file(&folder, name, dead), &url), &[]).await;
        assert_eq!(said.code, Some(2), "{}", said.err);
        assert!(said.err.contains(words) && !said.err.contains("restarting"), "{}", said.err);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_row_that_the_server_would_not_take_is_a_letter_also_with_an_id_or_in_a_batch() {
    const MOST: usize = 1 << 16;
    for (name, more, dedup) in [("a", "", false), ("b", "", true), ("c", "guarantee = \"effectively-once\"", false)] {
        let server = NatsServer::start_with(&format!("max_payload: {MOST}\n")).await.unwrap();
        let connection = server.connect().await.unwrap();
        create_streams(&connection, 1).await;
        Js::new(connection.clone()).delete_stream("OUT").await.unwrap();
        let row = |id: usize, size: usize| format!("{{\"id\":{id},\"text\":\"{}\"}}", "x".repeat(size - 18));
        let sizes = [100, MOST - 300, MOST - 200, MOST - 1, MOST, 100];
        let rows = sizes.iter().enumerate().map(|(id, size)| row(id, *size).into_bytes()).collect::<Vec<_>>();
        publish_each(&connection, "in.x", &rows).await;
        let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
        let path = file(&folder, name, "");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = text.replace("id = \"int64 not null\"", "id = \"int64 not null\", text = \"utf8\"");
        let text =
            text.replace("stream = \"OUT\"", &format!("stream = \"OUT\"\ncreate = [\"out.>\"]\ndedup = {dedup}"));
        let text = text.replace("on_error = \"stop\"", "on_error = { send_to = \"dead\" }");
        std::fs::write(&path, format!("{more}\n{text}")).unwrap();
        let said = call(MILLSTREAM, &run(&path, &url), &[]).await;
        assert_eq!(said.code, Some(0), "{name}: {}", said.err);
        let all = read_all(&connection, "OUT").await.into_iter();
        let stored = all.filter(|row| row.subject == "out.all").map(|row| row.payload.len()).collect::<Vec<_>>();
        let letters = read_all(&connection, "mill_dlq").await.into_iter();
        let reasons: Vec<_> = letters
            .filter(|letter| letter.subject.starts_with("mill.dlq."))
            .map(|letter| letter.headers.get("Mill-Dlq-Reason").unwrap().to_owned())
            .collect();
        assert_eq!(stored.len() + reasons.len(), sizes.len(), "{name}: {stored:?} {reasons:?}");
        assert!(stored.len() >= 2 && reasons.iter().all(|reason| reason == "oversize"), "{name}: {reasons:?}");
        assert_eq!(
            stored.len(),
            if name == "a" {
                6
            } else if dedup {
                2
            } else {
                3
            },
            "{name}: {stored:?}"
        );
    }
}

#[tokio::test]
async fn a_recorded_gap_is_a_letter_in_the_place_of_what_is_gone() {
    let (server, connection) = server().await;
    let js = Js::new(connection.clone());
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
    let file = file(&folder, "p", "");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("stream = \"IN\"", "stream = \"IN\"\non_gap = \"record_and_skip\"")).unwrap();
    let orders = |ids: std::ops::Range<u32>| ids.map(|id| format!("{{\"id\":{id}}}").into_bytes()).collect::<Vec<_>>();
    publish_each(&connection, "in.x", &orders(1..4)).await;
    let said = call(MILLSTREAM, &run(&file, &url), &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    publish_each(&connection, "in.x", &orders(4..9)).await;
    js.purge("IN", &Purge { seq: 7, ..Purge::default() }).await.unwrap();
    let said = call(MILLSTREAM, &run(&file, &url), &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let ids: Vec<_> = read_all(&connection, "OUT").await.into_iter().map(|row| row.payload).collect();
    assert_eq!(ids, [1, 2, 3, 7, 8].map(|id| format!("{{\"id\":{id}}}").into_bytes()));
    let letters = read_all(&connection, "mill_dlq").await;
    let [gap] = letters.as_slice() else { unreachable!("{} letters", letters.len()) };
    assert_eq!((gap.subject.as_str(), gap.headers.get("Mill-Dlq-Reason")), ("mill.dlq.p.in", Some("gap")));
    let words = gap.headers.get("Mill-Dlq-Error").unwrap();
    assert!(words.contains("stream IN no longer has the messages 4 to 6, which were not read yet"), "{words}");
    assert_eq!(gap.payload, br#"{"first":4,"last":6,"stream":"IN"}"#);
    // It is behind a checkpoint, and not found again.
    let said = call(MILLSTREAM, &run(&file, &url), &[]).await;
    assert_eq!((said.code, read_all(&connection, "mill_dlq").await.len()), (Some(0), 1), "{}", said.err);
}

async fn publish(connection: &Connection, headers: &[(&str, &str)], payload: Vec<u8>) {
    let mut all = Headers::NONE;
    headers.iter().for_each(|(name, value)| all.push(name, value).unwrap());
    let inbox = connection.new_inbox();
    let mut acks = connection.subscribe(inbox.clone(), 8).await.unwrap();
    let message = Outgoing::new("in.x", payload).headers(all).reply_to(Subject::from(inbox));
    connection.publish(message).await.unwrap();
    let ack = acks.next().await.unwrap();
    assert!(ack.payload.starts_with(b"{\"stream\""), "{ack:?}");
}

#[tokio::test]
async fn a_letter_has_the_headers_and_the_payload_of_its_message() {
    let (server, connection) = server().await;
    let (long, big) = ("l".repeat(5_000), "b".repeat(65_400));
    publish(&connection, &[("X-Tab", "a\tb"), ("X-Long", &long), ("X", "1"), ("X", "2")], b"no row".to_vec()).await;
    publish(&connection, &[("Nats-Msg-Id", "mine"), ("Mill-Dlq-Error", "forged")], b"no row".to_vec()).await;
    publish(&connection, &[("X-Big", &big), ("X", "1")], b"no row".to_vec()).await;
    publish(&connection, &[("X-Long", &long)], vec![b'x'; (1 << 20) - 5_100]).await;
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
    let said = call(MILLSTREAM, &run(&file(&folder, "p", ""), &url), &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let letters = read_all(&connection, "mill_dlq").await;
    let [plain, reserved, large, heavy] = letters.as_slice() else { unreachable!("{} letters", letters.len()) };
    let all = |letter: &Stored, name: &str| -> Vec<String> {
        letter.headers.iter().filter(|(key, _)| *key == name).map(|(_, value)| value.to_owned()).collect()
    };
    let truncated = "Mill-Dlq-Truncated";
    assert_eq!((all(plain, "X-Tab"), all(plain, "X")), (vec!["a\tb".to_owned()], vec!["1".to_owned(), "2".to_owned()]));
    assert!(all(plain, "X-Long") == [long.clone()] && all(plain, truncated).is_empty());

    assert_eq!(all(reserved, "Mill-Orig-Nats-Msg-Id"), ["mine"]);
    assert_eq!(all(reserved, "Mill-Orig-Mill-Dlq-Error"), ["forged"]);
    assert_eq!(all(reserved, "Mill-Dlq-Error").len(), 1);

    // JetStream takes 64 KiB of headers, and those of the letter come on top.
    assert_eq!(
        (all(large, truncated), all(large, "X"), &large.payload[..]),
        (vec!["X-Big".into()], vec!["1".into()], &b"no row"[..])
    );
    let left = all(large, "X-Big").concat();
    assert!(left.len() > 60_000 && big.starts_with(&left), "{}", left.len());

    assert_eq!((all(heavy, "Mill-Dlq-Ref"), heavy.payload.len()), (vec!["IN/4".to_owned()], 0));
    assert!(all(heavy, "X-Long") == [long] && all(heavy, truncated).is_empty());
}

#[tokio::test]
async fn a_letter_of_core_nats_that_is_too_large_keeps_what_fits() {
    let (server, connection) = server().await;
    let (folder, url) = (tempfile::tempdir().unwrap(), server.url());
    let text = std::fs::read_to_string(file(&folder, "c", "")).unwrap();
    let text = text.replace("kind = \"jetstream\"\nstream = \"IN\"", "kind = \"core_nats\"\nsubject = \"core.x\"");
    let path = folder.path().join("core.toml").display().to_string();
    std::fs::write(&path, text.replace("name = \"c\"", "name = \"c\"\naccept_loss = true")).unwrap();
    let running = Running::start(MILLSTREAM, &["run", &path, "--nats", &url], &[]);
    let payload = vec![b'x'; 1 << 20];
    let (js, deadline) = (Js::new(connection.clone()), Instant::now() + Duration::from_secs(30));
    // Nobody hears what is published before it listens.
    while js.find_stream("mill_dlq").await.unwrap().is_none_or(|info| info.state.messages == 0) {
        assert!(Instant::now() < deadline, "{}", running.err());
        connection.publish(Outgoing::new("core.x", payload.clone())).await.unwrap();
        sleep(Duration::from_millis(100)).await;
    }
    running.signal("TERM");
    assert_eq!(running.ended().await.code, Some(0));
    let letters = read_all(&connection, "mill_dlq").await;
    let letter = letters.first().unwrap();
    assert_eq!((letter.headers.get("Mill-Dlq-Truncated"), letter.headers.get("Mill-Dlq-Ref")), (Some("payload"), None));
    assert!(letter.payload.len() > payload.len() - 2_048 && payload.starts_with(&letter.payload));
}
