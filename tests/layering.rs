//! Imports go one way: operators <- pipelines <- runtime <- {examples, benches, tests}; the lower crates stay pure.

#![allow(clippy::unwrap_used, reason = "it is test code, though not inside a test")]

use std::path::{Path, PathBuf};

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// Lines of a crate's sources that say one of `words`, with their places.
fn lines_with(folder: &str, words: &[&str]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(folder).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 5, "{} has few sources", root.display());
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let is_code = !line.trim_start().starts_with("//");
            if is_code && words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{}: {}", file.display(), number + 1, line.trim()));
            }
        }
    }
    found
}

#[test]
fn operators_know_nothing_above_them_and_do_no_io() {
    let forbidden = [
        "millstream_pipelines",
        "millstream::",
        "tokio::",
        "async_nats",
        "std::net",
        "std::fs",
        "SystemTime::now",
        "Instant::now",
    ];
    assert_eq!(lines_with("operators", &forbidden), [""; 0]);
}

#[test]
fn pipelines_know_no_runtime_and_do_no_io() {
    let forbidden = ["millstream::", "tokio::", "async_nats", "std::net", "std::fs", "SystemTime::now", "Instant::now"];
    assert_eq!(lines_with("pipelines", &forbidden), [""; 0]);
}

#[test]
fn the_client_is_used_behind_the_seam_only() {
    let outside: Vec<String> =
        lines_with("runtime", &["async_nats"]).into_iter().filter(|line| !line.contains("/src/broker/")).collect();
    assert_eq!(outside, [""; 0]);
}

#[test]
fn no_file_is_longer_than_five_hundred_lines() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for folder in ["operators/src", "pipelines/src", "runtime/src", "examples", "benches", "tests"] {
        sources(&root.join(folder), &mut files);
    }
    let long: Vec<_> = files
        .into_iter()
        .map(|file| (std::fs::read_to_string(&file).unwrap().lines().count(), file))
        .filter(|(lines, _)| *lines > 500)
        .collect();
    assert_eq!(long, []);
}

/// The folders and files of the runtime, each above those before it.
const RUNTIME: [&[&str]; 6] =
    [&["broker"], &["checkpoint"], &["engine"], &["connectors"], &["file", "launch", "testkit"], &["cli"]];

#[test]
fn the_folders_of_the_runtime_import_those_below_them_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("runtime/src");
    let mut upward = Vec::new();
    for (rank, folder) in
        RUNTIME.iter().enumerate().flat_map(|(rank, all)| all.iter().map(move |folder| (rank, folder)))
    {
        let above: Vec<String> =
            RUNTIME.iter().skip(rank + 1).flat_map(|all| all.iter()).map(|name| format!("crate::{name}")).collect();
        let (mut files, alone) = (Vec::new(), root.join(format!("{folder}.rs")));
        match alone.exists() {
            true => files.push(alone),
            false => sources(&root.join(folder), &mut files),
        }
        assert!(!files.is_empty(), "there is no {folder}");
        // `tests.rs`, or `spill_tests.rs` where a file has its tests beside it.
        let is_tests = |file: &Path| file.to_string_lossy().ends_with("tests.rs");
        for file in files.iter().filter(|file| !is_tests(file)) {
            let text = std::fs::read_to_string(file).unwrap();
            // What only tests import stands at the foot of a file.
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            let wrong = lines.filter(|line| above.iter().any(|name| line.contains(name.as_str())));
            upward.extend(wrong.map(|line| format!("{}: {}", file.display(), line.trim())));
        }
    }
    assert_eq!(upward, [""; 0]);
}

/// The operators of a file, and the steps of passes: their names, and the docs of those that are public.
fn operators_in(text: &str) -> Vec<(String, Vec<&str>)> {
    // `Whole` is where a pass begins, before its first step.
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines: Vec<&str> = code.lines().collect();
    let names = lines.iter().filter(|line| line.starts_with("impl")).filter_map(|line| {
        let (_, rest) = line.split_once(" Operator for ").or_else(|| line.split_once(" RowFn for "))?;
        rest.split(|c: char| !c.is_alphanumeric()).next().filter(|name| *name != "Whole")
    });
    let documented = |name: &str| {
        let begins = |line: &&str| {
            let rest = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub(super) struct "));
            let rest = rest.and_then(|rest| rest.strip_prefix(name));
            rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
        };
        let at = lines.iter().position(begins)?;
        let docs = lines.iter().take(at).rev().take_while(|line| line.starts_with("///") || line.starts_with("#["));
        Some((name.to_owned(), docs.copied().collect()))
    };
    names.filter_map(documented).collect()
}

/// What shows that it matters neither where an operator's input is cut nor where it is restarted: the generic properties, or one of
/// an operator's own that restarts it.
const PROPERTIES: [&str; 3] = ["cuts_do_not_matter", "steps_do_not_matter", "Bench::restored"];

/// The tests of a file.
fn tests_in<'a>(file: &Path, text: &'a str) -> &'a str {
    let is_all_tests = file.iter().any(|part| part.to_string_lossy().starts_with("tests"));
    match text.find("#[cfg(test)]\nmod tests {") {
        Some(begin) => &text[begin..],
        None if is_all_tests => text,
        None => "",
    }
}

/// Whether code has a name as a whole word.
fn names(code: &str, name: &str) -> bool {
    let in_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines
        .flat_map(|line| line.match_indices(name).map(move |(at, _)| line.split_at(at)))
        .any(|(before, from)| !in_word(before.chars().next_back()) && !in_word(from[name.len()..].chars().next()))
}

#[test]
fn every_operator_has_a_timeline_in_its_docs_and_is_cut_and_restarted_in_a_test() {
    let mut files = Vec::new();
    for folder in ["operators/src", "runtime/src/connectors"] {
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(folder), &mut files);
    }
    let texts: Vec<(PathBuf, String)> =
        files.into_iter().map(|file| (file.clone(), std::fs::read_to_string(file).unwrap())).collect();
    let (mut seen, mut wrong) = (0, Vec::new());
    for (file, text) in &texts {
        let near = texts.iter().filter(|(other, _)| other.starts_with(file.parent().unwrap()));
        let tests: Vec<&str> = near.map(|(other, text)| tests_in(other, text)).collect();
        let with_properties: Vec<&&str> =
            tests.iter().filter(|text| PROPERTIES.iter().any(|property| text.contains(property))).collect();
        for (name, docs) in operators_in(text) {
            seen += 1;
            if !docs.contains(&"/// ```text") {
                wrong.push(format!("{} has no timeline ({})", name, file.display()));
            }
            if !with_properties.iter().any(|text| names(text, &name)) {
                wrong.push(format!("{} has no test that cuts its input and restarts it ({})", name, file.display()));
            }
        }
    }
    assert!(seen > 40, "only {seen} operators were found");
    assert_eq!(wrong, [""; 0]);
}
