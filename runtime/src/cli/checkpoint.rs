//! `millstream checkpoint` and `millstream savepoint`: what is kept of a pipeline, looked at, checked and named.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use millstream_operators::{Fault, FaultKind};
use millstream_pipelines::graph::{Access, Graph};

use super::args::Server;
use super::file::Ends;
use super::settings::Settings;
use super::{Failure, Program, output, place};
use crate::checkpoint::{
    Manifest, OutputLog, Revision, StateIn, Store, StoreError, load, read_manifest, read_revision,
};
use crate::connectors::{Connections, Purpose, marked};
use crate::engine::Clock;

/// Look at the checkpoints and savepoints of a pipeline, and check them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  millstream checkpoint ls orders.toml
  millstream checkpoint verify orders.toml before-v2 --checkpoints /var/lib/orders")]
pub(super) struct Checkpoint {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List what is kept
    Ls(Kept),
    /// Show where the sources stood and what each operator held
    Show(Named),
    /// Read all of it, as a start would, and say what is damaged
    Verify(Named),
    /// Remove a savepoint
    Rm {
        #[command(flatten)]
        kept: Kept,
        /// The savepoint
        #[arg(value_name = "NAME")]
        name: String,
    },
}

#[derive(Debug, Args)]
struct Kept {
    /// Pipeline file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Checkpoints are in this directory or bucket
    #[arg(long, value_name = "PLACE")]
    checkpoints: Option<place::Place>,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
struct Named {
    #[command(flatten)]
    kept: Kept,
    /// The savepoint [default: the newest checkpoint; verify takes all that there is]
    #[arg(value_name = "NAME")]
    name: Option<String>,
}

/// Keep the newest checkpoint of a pipeline under a name
///
/// It stays, with all state that it names, until `millstream checkpoint rm` removes it. `millstream run --from NAME` starts
/// from it. The pipeline may run meanwhile; stop it first (SIGTERM) for a savepoint of everything that it has read.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  millstream savepoint orders.toml before-v2")]
pub(super) struct Savepoint {
    #[command(flatten)]
    kept: Kept,
    /// Letters, digits, - and _
    #[arg(value_name = "NAME", value_parser = savepoint_name)]
    name: String,
}

fn savepoint_name(text: &str) -> Result<String, String> {
    let sound = !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if sound { Ok(text.to_owned()) } else { Err("use up to 64 letters, digits, - and _".to_owned()) }
}

/// Where a pipeline keeps its checkpoints.
struct Place {
    store: Arc<dyn Store>,
    pipeline: String,
    graph: Graph,
    connections: Connections,
}

/// A checkpoint as it is stored, and what people call it.
struct Listed {
    name: String,
    // The place among checkpoints that it must have been written for; a savepoint has none.
    revision: Option<Revision>,
    stored: bytes::Bytes,
}

impl Place {
    fn of(program: &Program, kept: &Kept, settings: Settings) -> Result<Place, Failure> {
        let file = program.load(&kept.file, &Ends::default())?;
        let settings = settings.with_server(&kept.server).with_checkpoints(kept.checkpoints.as_ref(), None);
        let store = settings.store(file.nats.clone())?;
        let connections = Connections::to_nats(settings.connect_options(file.nats));
        let connections = connections.map_err(|fault| Failure::fault(fault.chain()))?;
        Ok(Place { store, pipeline: file.graph.name.clone(), graph: file.graph, connections })
    }

    fn describe(&self) -> String {
        self.store.describe(&self.pipeline)
    }

    /// Savepoints, and then checkpoints, the newest first.
    async fn all(&self) -> Result<Vec<Listed>, Failure> {
        let newest = self.store.read(&self.pipeline).await.map_err(told)?.map(|(revision, _)| revision);
        let history = self.store.history(&self.pipeline).await.map_err(told)?;
        let checkpoints = history.into_iter().map(|(revision, stored)| Listed {
            name: called(revision, newest),
            revision: Some(revision),
            stored,
        });
        let saved = self.store.saved(&self.pipeline).await.map_err(told)?;
        let saved = saved.into_iter().map(|(name, stored)| Listed { name, revision: None, stored });
        Ok(checkpoints.chain(saved).collect())
    }

    async fn one(&self, name: Option<&str>) -> Result<Listed, Failure> {
        let Some(name) = name else {
            let newest = self.store.read(&self.pipeline).await.map_err(told)?;
            let none = || Failure::fault(format!("there is no checkpoint at {}", self.describe()));
            let listed =
                newest.map(|(revision, stored)| Listed { name: NEWEST.to_owned(), revision: Some(revision), stored });
            return listed.ok_or_else(none);
        };
        let saved = self.store.saved(&self.pipeline).await.map_err(told)?;
        let names: Vec<String> = saved.iter().map(|(name, _)| name.clone()).collect();
        let found = saved.into_iter().find(|(other, _)| other == name);
        found.map(|(name, stored)| Listed { name, revision: None, stored }).ok_or_else(|| {
            let there = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
            Failure::fault(format!("there is no savepoint {name} at {}: {there}", self.describe()))
        })
    }

    async fn manifest(&self, listed: &Listed) -> Result<Manifest, StoreError> {
        let (store, stored) = (self.store.as_ref(), &listed.stored);
        Ok(match listed.revision {
            Some(revision) => read_revision(store, &self.pipeline, (revision, stored)).await?.0,
            None => read_manifest(store, &self.pipeline, stored).await?.0,
        })
    }

    /// Reads all of it, as a start would; where the sources stand is what the marker of a sink says, if that is ahead.
    async fn verify(&self, listed: &Listed) -> Result<Manifest, StoreError> {
        let manifest = self.manifest(listed).await?;
        let manifest = load(self.store.as_ref(), &self.pipeline, manifest, StateIn::Store).await?.manifest;
        self.by_marker(manifest).await.map_err(StoreError::Failed)
    }

    /// The checkpoint that a start would go on from: this one, or what the marker of a sink makes of it.
    async fn by_marker(&self, mut manifest: Manifest) -> Result<Manifest, Fault> {
        let Some(node) = manifest.ahead().map(str::to_owned) else { return Ok(manifest) };
        let sink = self.graph.nodes.iter().find(|other| other.name == node);
        let stream = sink.and_then(|sink| sink.access.first()).map(Access::stream);
        let Some(stream) = stream else {
            let words = format!(
                "where the sources stood is in the marker of the sink {node}, which the pipeline no longer has"
            );
            return Err(Fault::new(FaultKind::Checkpoint, words));
        };
        let js = self.connections.js(Purpose::Control).await?;
        let kept = manifest.sinks.get(&node).into_iter().flatten().find(|log| log.subtask == 0);
        let kept = kept.map(OutputLog::without_records).unwrap_or_default();
        let (found, published) = marked(&js, stream, &self.pipeline, &node, &kept).await?;
        if !published {
            // Whoever starts from it publishes the rest of the log first, and then goes on by checkpoints.
            manifest.sinks.values_mut().flatten().for_each(|log| log.ahead = false);
            return Ok(manifest);
        }
        if let Some(positions) = found.positions {
            manifest.sources = serde_json::from_value(positions).map_err(|error| {
                Fault::new(FaultKind::Checkpoint, "the positions in the marker cannot be read").because(error).at(&node)
            })?;
            (manifest.epoch, manifest.at) = (found.epoch, Clock::system().now());
        }
        manifest.mark(&node, found.epoch, found.total, false);
        Ok(manifest)
    }
}

const NEWEST: &str = "(newest)";

fn called(revision: Revision, newest: Option<Revision>) -> String {
    if Some(revision) == newest { NEWEST.to_owned() } else { "(before)".to_owned() }
}

pub(super) async fn checkpoint(program: &Program, args: Checkpoint, settings: Settings) -> Result<ExitCode, Failure> {
    match args.what {
        What::Ls(kept) => list(&Place::of(program, &kept, settings)?).await,
        What::Show(Named { kept, name }) => {
            let place = Place::of(program, &kept, settings)?;
            let listed = place.one(name.as_deref()).await?;
            let manifest = place.manifest(&listed).await.map_err(told)?;
            let mut text = shown(&listed.name, &manifest);
            if let Some(node) = manifest.ahead().map(str::to_owned) {
                text.push_str(&format!(
                    "positions are kept beside the outputs of {node}; by the marker that is there now:\n"
                ));
                match place.by_marker(manifest).await {
                    Ok(now) => text.push_str(&format!("micro-batch {}\n{}", now.epoch, sources(&now))),
                    Err(fault) => text.push_str(&fault.chain()),
                }
            }
            output::print(&text);
            Ok(ExitCode::SUCCESS)
        }
        What::Verify(Named { kept, name }) => {
            let place = Place::of(program, &kept, settings)?;
            let listed = match name {
                Some(name) => vec![place.one(Some(&name)).await?],
                None => place.all().await?,
            };
            verify(&place, listed).await
        }
        What::Rm { kept, name } => {
            let place = Place::of(program, &kept, settings)?;
            place.one(Some(&name)).await?;
            place.store.unsave(&place.pipeline, &name).await.map_err(told)?;
            output::print(&format!("savepoint {name} is removed; what only it needed goes while the pipeline runs"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

pub(super) async fn savepoint(program: &Program, args: Savepoint, settings: Settings) -> Result<ExitCode, Failure> {
    let place = Place::of(program, &args.kept, settings)?;
    let saved = place.store.saved(&place.pipeline).await.map_err(told)?;
    let taken = || {
        let (name, file) = (&args.name, args.kept.file.display());
        let out = format!("choose another name, or let go of that one: `millstream checkpoint rm {file} {name}`");
        Failure::usage(format!("there is a savepoint {name} already: {out}"))
    };
    if saved.iter().any(|(name, _)| *name == args.name) {
        return Err(taken());
    }
    let newest = place.one(None).await?;
    let now = place.verify(&newest).await.map_err(told)?;
    // Where positions are beside the outputs, the checkpoint does not have them: then it is made of both.
    // A pipeline that runs may have let go of its place among checkpoints by now.
    let named = Listed { revision: None, ..newest };
    let stored = match place.manifest(&named).await.map_err(told)?.ahead() {
        Some(_) => now.encode().map_err(|fault| Failure::fault(fault.chain()))?,
        None => named.stored.clone(),
    };
    if !place.store.save(&place.pipeline, &args.name, stored).await.map_err(told)? {
        return Err(taken());
    }
    // And of some of it before it saw the name.
    let manifest = match place.verify(&named).await {
        Ok(_) => now,
        Err(error) => {
            let _ = place.store.unsave(&place.pipeline, &args.name).await;
            let why = told(error);
            return Err(Failure::fault(format!("the pipeline went on meanwhile, try again: {why}")));
        }
    };
    output::print(&format!(
        "savepoint {} of {}: checkpoint {} of {}, {} of state",
        args.name,
        place.pipeline,
        manifest.epoch,
        manifest.at,
        output::bytes(size(&manifest))
    ));
    Ok(ExitCode::SUCCESS)
}

async fn list(place: &Place) -> Result<ExitCode, Failure> {
    let all = place.all().await?;
    if all.is_empty() {
        output::print(&format!("pipeline {} has no checkpoints at {}", place.pipeline, place.describe()));
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&format!("pipeline {} at {}:", place.pipeline, place.describe()));
    let width = all.iter().map(|listed| listed.name.len()).max().unwrap_or(0);
    for listed in &all {
        let words = match place.manifest(listed).await {
            Ok(manifest) => format!(
                "checkpoint {:>6} of {}, {} of state, by millstream {}",
                manifest.epoch.to_string(),
                manifest.at,
                output::bytes(size(&manifest)),
                manifest.version
            ),
            Err(error) => format!("unreadable: {}", told(error)),
        };
        output::print(&format!("  {:<width$}  {words}", listed.name));
    }
    Ok(ExitCode::SUCCESS)
}

async fn verify(place: &Place, all: Vec<Listed>) -> Result<ExitCode, Failure> {
    if all.is_empty() {
        return Err(Failure::fault(format!("there is no checkpoint at {}", place.describe())));
    }
    let mut code = ExitCode::SUCCESS;
    for listed in &all {
        match place.verify(listed).await {
            Ok(manifest) => output::print(&format!(
                "{}: checkpoint {} is whole, {} of state",
                listed.name,
                manifest.epoch,
                output::bytes(size(&manifest))
            )),
            Err(error) => {
                code = ExitCode::FAILURE;
                output::print(&format!("{}: {}", listed.name, told(error)));
            }
        }
    }
    Ok(code)
}

/// The bytes that its keyed state takes where it is stored.
fn size(manifest: &Manifest) -> u64 {
    let states = manifest.operators.values().flatten();
    states.flat_map(|state| state.keyed.values()).flatten().map(|segment| segment.size).sum()
}

fn shown(name: &str, manifest: &Manifest) -> String {
    let Manifest { pipeline, epoch, at, version, run, key_groups, operators, sinks, .. } = manifest;
    let run = if run.is_empty() { String::new() } else { format!(", run {run}") };
    let mut text =
        format!("{name}: checkpoint {epoch} of pipeline {pipeline}\nmade {at} by millstream {version}{run}\n");
    text.push_str(&self::sources(manifest));
    for (node, states) in operators {
        for state in states {
            text.push_str(&format!("operator {node}[{}/{}]\n", state.subtask, state.of));
            for name in state.small.names() {
                text.push_str(&format!("  {name}\n"));
            }
            for (name, segments) in &state.keyed {
                let size = segments.iter().map(|segment| segment.size).sum();
                text.push_str(&format!(
                    "  {name}: {} in {} {}, by {key_groups} key groups\n",
                    output::bytes(size),
                    segments.len(),
                    if segments.len() == 1 { "run" } else { "runs" }
                ));
            }
        }
    }
    for (node, logs) in sinks {
        for log in logs {
            let size = log.pieces.iter().map(|piece| piece.size).sum();
            text.push_str(&format!(
                "sink {node}[{}]: {} outputs of checkpoint {}, {}, {}\n",
                log.subtask,
                log.total,
                log.epoch,
                output::bytes(size),
                if log.published { "all published" } else { "to be published" }
            ));
        }
    }
    text
}

fn sources(manifest: &Manifest) -> String {
    let mut text = String::new();
    for (node, positions) in &manifest.sources {
        for of in positions {
            text.push_str(&format!("source {node}[{}/{}] stood at {}\n", of.subtask, of.of, of.position));
        }
    }
    text
}

/// A store's error, and why.
fn told(error: StoreError) -> Failure {
    match error {
        StoreError::Failed(fault) | StoreError::Unknown(fault) => Failure::fault(fault.chain()),
        StoreError::Fenced => Failure::fault(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_savepoint_has_a_name_that_is_a_key_and_a_file() {
        assert!(savepoint_name("before-v2_1").is_ok());
        for wrong in ["", "a.b", "a/b", "a b", "ü", &"x".repeat(65)] {
            assert!(savepoint_name(wrong).is_err(), "{wrong}");
        }
    }
}
