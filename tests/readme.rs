//! The README: its pipeline files are sound and their tests pass, its settings are settings, its trial needs no server.

use millstream::connectors::registry;
use millstream::file::{Ends, load, run_tests};

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
    let (pipelines, settings): (Vec<_>, Vec<_>) =
        blocks(readme, "toml").into_iter().partition(|block| block.contains("[sources."));
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
