//! The README: its pipeline files are sound and their tests pass, its settings are settings, its trial needs no server, and
//! what it makes on one is what its quick starts need.

use millstream::broker::{Js, NatsServer, StreamConfig};
use millstream::connectors::registry;
use millstream::file::{Ends, load, run_tests};
use millstream::operators::Headers;
use millstream_tests::support::{call, publish_each, read_all};

const MILLSTREAM: &str = env!("CARGO_BIN_EXE_own");

/// The fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[tokio::test]
async fn pipelines_of_the_readme_pass_their_tests_and_its_settings_are_read() {
    let readme = include_str!("../README.md");
    let work = tempfile::tempdir().unwrap();
    let blocks = blocks(readme, "toml").into_iter().filter(|block| !block.contains("[dependencies]"));
    let (pipelines, settings): (Vec<_>, Vec<_>) = blocks.partition(|block| block.contains("[sources."));
    assert_eq!((pipelines.len(), settings.len()), (1, 1));
    for (number, pipeline) in pipelines.iter().enumerate() {
        let path = work.path().join(format!("readme-{number}.toml"));
        std::fs::write(&path, pipeline).unwrap();
        load(&path, &registry(), &Ends::default()).unwrap_or_else(|report| panic!("{report}"));
        let outcomes = run_tests(&path, &registry(), None).await.unwrap();
        assert!(!outcomes.is_empty() && outcomes.iter().all(|o| o.failure.is_none()), "{outcomes:#?}");
    }
    // What is no pipeline file is the settings file: a command reads it, and a pipeline file takes its `[nats]` table.
    let path = work.path().join("millstream.toml");
    std::fs::write(&path, settings[0]).unwrap();
    let run = |arguments: &[&str]| std::process::Command::new(MILLSTREAM).args(arguments).output().unwrap();
    let file = work.path().join("readme-0.toml").display().to_string();
    let output = run(&["check", &file, "--config", &path.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(&path, settings[0].replace("credentials", "credentails")).unwrap();
    let output = run(&["check", &file, "--config", &path.display().to_string()]);
    assert_eq!(output.status.code(), Some(2), "a mistake in it is seen");
    let nats = settings[0].split("\n\n").find(|part| part.starts_with("[nats]")).unwrap();
    std::fs::write(&file, format!("{}\n{nats}\n", pipelines[0])).unwrap();
    load(file.as_ref(), &registry(), &Ends::default()).unwrap_or_else(|report| panic!("{report}"));
}

#[test]
fn a_program_with_the_dependencies_of_the_readme_has_what_its_quick_start_uses() {
    let readme = include_str!("../README.md");
    let all = blocks(readme, "toml");
    let block = all.into_iter().find(|block| block.contains("[dependencies]")).unwrap();
    let runtime = include_str!("../runtime/Cargo.toml");
    assert!(block.contains("path = \"../millstream/runtime\"") && runtime.contains("name = \"millstream\""));
    // The derives name the crate `serde`, and `tokio::main` the runtime of its flavor.
    for line in ["serde = { version = \"1\", features = [\"derive\"] }", "features = [\"macros\", \"rt\"]"] {
        assert!(block.contains(line), "{line} is not in {block}");
    }
    assert!(
        readme.contains("`default-features = false, features = [\"jetstream\"]`")
            && runtime.contains("\njetstream = [")
    );
}

#[tokio::test]
async fn both_quick_starts_work_on_the_streams_that_are_made_next_to_them() {
    let readme = include_str!("../README.md");
    let server = NatsServer::start().await.unwrap();
    let connection = server.connect().await.unwrap();
    let js = Js::new(connection.clone());
    let commands = blocks(readme, "sh").into_iter().find(|block| block.contains("nats stream add")).unwrap();
    for command in commands.lines() {
        let words: Vec<&str> = command.split_whitespace().collect();
        let ["nats", "stream", "add", name, "--subjects", subjects, "--defaults", ..] = words[..] else {
            panic!("{command}")
        };
        js.create_stream(&StreamConfig::new(name, [subjects.trim_matches('\'')])).await.unwrap();
    }
    publish_each(&connection, "orders.new", &[br#"{"id": "1", "region": "EU", "amount": 100}"#.to_vec()]).await;
    let work = tempfile::tempdir().unwrap();
    let file = work.path().join("large-orders.toml").display().to_string();
    std::fs::write(&file, blocks(readme, "toml")[0]).unwrap();
    let said = call(MILLSTREAM, &["run", &file, "--until-end", "--nats", &server.url()], &[]).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let [large] = &read_all(&connection, "LARGE").await[..] else { panic!("{}", said.err) };
    assert_eq!(large.subject, "large.eu");
    // The one in Rust reads and writes the same streams, and its subject is one of theirs.
    let rust = blocks(readme, "rust,no_run")[0];
    assert!(rust.contains("jetstream(\"ORDERS\")") && rust.contains("jetstream_to(\"LARGE\")"), "{rust}");
    let subject = rust.split(".subject(\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let ack = js.publish(subject.to_owned(), Headers::NONE, "{}").await.unwrap();
    assert_eq!(ack.stream, "LARGE");
}

#[test]
fn the_commands_for_a_pipeline_file_run_as_they_stand_there_and_need_no_server() {
    let readme = include_str!("../README.md");
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name);
    std::fs::write(path("large-orders.toml"), blocks(readme, "toml")[0]).unwrap();
    let rows = [
        r#"{"id": "1", "region": "EU", "amount": 100}"#,
        r#"{"id": "2", "region": "EU", "amount": 5}"#,
        r#"{"id": "3", "region": "a.b", "amount": 100}"#,
        "no row",
    ];
    std::fs::write(path("some.ndjson"), rows.join("\n")).unwrap();
    let commands = blocks(readme, "sh").into_iter().find(|block| block.contains("millstream check")).unwrap();
    let commands: Vec<&str> = commands.lines().filter_map(|line| line.split('#').next()).map(str::trim).collect();
    let (server, trials): (Vec<_>, Vec<_>) =
        commands.into_iter().partition(|command| *command == "millstream run large-orders.toml");
    assert_eq!((server.len(), trials.len()), (1, 3));
    for command in trials {
        let mut program = std::process::Command::new(MILLSTREAM);
        program.args(command.split_whitespace().skip(1)).current_dir(work.path());
        // Nobody is there: whoever connects fails.
        let output = program.env("NATS_URL", "nats://127.0.0.1:1").output().unwrap();
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let out = std::fs::read_to_string(path("out.ndjson")).unwrap();
    assert_eq!(out, "{\"id\":\"1\",\"region\":\"eu\",\"amount\":100.0,\"tax\":19.0}\n");
    assert_eq!(std::fs::read_to_string(path("dead.ndjson")).unwrap().lines().count(), 2);
}
