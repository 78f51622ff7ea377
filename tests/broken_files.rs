//! Broken pipeline files: each is reported with all its mistakes, as the snapshot beside it says.
//!
//! `MILLSTREAM_BLESS=1` writes the snapshots anew; read the difference before it is committed.

use std::fmt::Write as _;
use std::path::Path;

use millstream::connectors::registry;
use millstream::pipelines::config::{Options, load};

/// What is said of a file; of one that is not broken, that it should be.
fn report(text: &str) -> String {
    let registry = registry();
    match load("pipeline.toml", text, &Options::new(&registry)) {
        Ok(_) => "nothing is wrong with it\n".to_owned(),
        Err(report) => format!("{report}\n"),
    }
}

#[test]
fn every_mistake_of_a_broken_file_is_reported_with_its_place() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("broken_files");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    files.sort();
    assert!(files.len() >= 60, "only {} files", files.len());
    let (bless, mut different) = (std::env::var_os("MILLSTREAM_BLESS").is_some(), String::new());
    for file in files {
        let said = report(&std::fs::read_to_string(&file).unwrap());
        let snapshot = file.with_extension("txt");
        if bless {
            std::fs::write(&snapshot, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&snapshot).unwrap_or_default();
        assert!(!said.starts_with("nothing"), "{} is not broken", file.display());
        if said != expected {
            let _ = write!(different, "== {}\nexpected:\n{expected}\nsaid:\n{said}\n", file.display());
        }
    }
    assert!(different.is_empty(), "{different}");
}
