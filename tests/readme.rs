//! The pipeline files of the README: they are sound, and their tests pass.

use millstream::connectors::registry;
use millstream::file::{Ends, load, run_tests};

/// The fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("\n```").next()).collect()
}

#[tokio::test]
async fn pipelines_of_the_readme_are_sound_and_pass_their_tests() {
    let readme = include_str!("../README.md");
    let work = tempfile::tempdir().unwrap();
    let pipelines: Vec<_> = blocks(readme, "toml").into_iter().filter(|block| block.contains("[sources.")).collect();
    assert!(!pipelines.is_empty());
    for (number, pipeline) in pipelines.iter().enumerate() {
        let path = work.path().join(format!("readme-{number}.toml"));
        std::fs::write(&path, pipeline).unwrap();
        load(&path, &registry(), &Ends::default()).unwrap_or_else(|report| panic!("{report}"));
        let outcomes = run_tests(&path, &registry(), None).await.unwrap();
        assert!(!outcomes.is_empty() && outcomes.iter().all(|o| o.failure.is_none()), "{outcomes:#?}");
    }
}
