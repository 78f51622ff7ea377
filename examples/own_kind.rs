//! A kind of node of your own for pipeline files: `mask = ["email"]` hides what stands in text columns.

use std::process::ExitCode;

use millstream::connectors::registry;
use millstream::file;
use millstream::pipelines::registry::{Registry, Spec, Wiring};
use millstream::prelude::*;
use schemars::JsonSchema;

/// Hides what stands in text columns, but for its first letter.
#[derive(Deserialize, JsonSchema)]
struct Mask {
    /// The columns to hide.
    mask: Vec<String>,
}

impl Spec for Mask {
    const KIND: &'static str = "mask";

    fn wire(self, wiring: &mut Wiring<'_>) {
        // What is wrong with a column is reported with the other mistakes of the file, at its place.
        let hidden = |column: &String| (column.clone(), format!("left(\"{column}\", 1) || '***'"));
        let rows = wiring.input().set_as(wiring.name(), "mask", self.mask.iter().map(hidden));
        wiring.output(rows);
    }
}

fn kinds() -> Registry {
    registry().step::<Mask>()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let path = std::env::args().nth(1).unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/own_kind.toml").into());
    match file::load(path.as_ref(), &kinds(), &file::Ends::default()) {
        Ok(loaded) => millstream::main_graph(&loaded.graph).await,
        Err(report) => {
            #[expect(clippy::print_stderr, reason = "the last word of a program")]
            {
                eprintln!("{report}");
            }
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_tests_of_its_file_pass() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/own_kind.toml");
        let outcomes = file::run_tests(path.as_ref(), &kinds(), None).await.unwrap();
        assert!(outcomes.len() == 1 && outcomes[0].failure.is_none(), "{outcomes:?}");
    }
}
