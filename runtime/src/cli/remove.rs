//! `millstream remove`: what a pipeline left on the server goes.

use std::io::Write as _;
use std::process::ExitCode;

use millstream_pipelines::graph::{Access, Graph, Guarantee};

use super::args::Remove;
use super::file::Ends;
use super::settings::Settings;
use super::{Failure, Program, output};
use crate::broker::{Js, Purge, codes};
use crate::checkpoint::{Store, read_manifest};
use crate::connectors::{Connections, Purpose, consumer_name, marker_subjects};

/// Something that goes.
#[derive(Debug)]
struct Left {
    what: Thing,
    words: String,
    /// Whether somebody seems to use it right now.
    busy: bool,
}

#[derive(Debug)]
enum Thing {
    Consumer { stream: String, name: String },
    Markers { stream: String, subjects: String },
    Checkpoints,
}

pub(super) async fn remove(program: &Program, args: Remove, settings: Settings) -> Result<ExitCode, Failure> {
    let file = program.load(&args.file, &Ends::default())?;
    let settings = settings.with_server(&args.server).with_checkpoints(args.checkpoints.as_ref(), None);
    if !args.yes && !output::can_ask() {
        return Err(Failure::usage("nobody can be asked here: add --yes to remove without asking"));
    }
    let setup = |fault: millstream_operators::Fault| Failure::fault(fault.chain());
    let connections = Connections::to_nats(settings.connect_options(file.nats.clone())).map_err(setup)?;
    let store = settings.store(file.nats.clone())?;
    let js = connections.js(Purpose::Control).await.map_err(setup)?;
    let (graph, name) = (&file.graph, file.graph.name.as_str());
    let mut left = consumers(&js, graph).await?;
    left.extend(markers(&js, graph).await?);
    left.extend(checkpoints(store.as_ref(), &js, name, settings.checkpoints().is_none()).await?);
    if left.is_empty() {
        output::print(&format!("pipeline {name} left nothing at {}", connections.describe()));
        return Ok(ExitCode::SUCCESS);
    }
    output::print(&format!("pipeline {name} at {}:", connections.describe()));
    left.iter().for_each(|left| output::print(&format!("  {}", left.words)));
    if let Some(busy) = left.iter().find(|left| left.busy) {
        return Err(Failure::fault(format!(
            "the pipeline seems to run (somebody waits at the {}): stop it first",
            busy.words
        )));
    }
    if !args.yes && !agreed(name) {
        output::say("nothing was removed");
        return Ok(ExitCode::FAILURE);
    }
    for left in left {
        match left.what {
            Thing::Consumer { stream, name } => match js.delete_consumer(&stream, &name).await {
                Err(error) if error.api_code() != Some(codes::CONSUMER_NOT_FOUND) => return Err(error.into()),
                _ => {}
            },
            Thing::Markers { stream, subjects } => {
                js.purge(&stream, &Purge { filter: Some(subjects), ..Purge::default() }).await?;
            }
            Thing::Checkpoints => store.remove(name).await.map_err(|error| Failure::fault(told(&error)))?,
        }
    }
    output::print("removed; the streams hold what they held");
    Ok(ExitCode::SUCCESS)
}

async fn consumers(js: &Js, graph: &Graph) -> Result<Vec<Left>, Failure> {
    let mut left = Vec::new();
    for node in &graph.nodes {
        for access in &node.access {
            let Access::Read { stream, .. } = access else { continue };
            let name = consumer_name(&graph.name, &node.name);
            let info = match js.consumer(stream, &name).await {
                Ok(info) => info,
                Err(error) if matches!(error.api_code(), Some(codes::CONSUMER_NOT_FOUND | codes::STREAM_NOT_FOUND)) => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let words = format!(
                "consumer {name} of stream {stream}: {} messages acknowledged up to {}, {} to come",
                output::count(info.ack_floor.consumer_seq),
                output::count(info.ack_floor.stream_seq),
                output::count(info.num_pending + info.num_ack_pending)
            );
            left.push(Left {
                what: Thing::Consumer { stream: stream.clone(), name },
                words,
                busy: info.num_waiting > 0,
            });
        }
    }
    Ok(left)
}

/// The markers of sinks that store each row once: with them there, a new start from no checkpoint would be refused.
async fn markers(js: &Js, graph: &Graph) -> Result<Vec<Left>, Failure> {
    let mut left = Vec::new();
    for node in graph.nodes.iter().filter(|_| graph.settings.guarantee == Guarantee::EffectivelyOnce) {
        for access in &node.access {
            let Access::Write { stream, .. } = access else { continue };
            let subjects = marker_subjects(&graph.name, &node.name);
            match js.last_message(stream, &subjects).await {
                Ok(None) => continue,
                Err(error) if error.api_code() == Some(codes::STREAM_NOT_FOUND) => continue,
                Err(error) => return Err(error.into()),
                Ok(Some(_)) => {}
            }
            let words = format!("markers {subjects} of stream {stream}: how far the outputs are in it");
            left.push(Left { what: Thing::Markers { stream: stream.clone(), subjects }, words, busy: false });
        }
    }
    Ok(left)
}

async fn checkpoints(store: &dyn Store, js: &Js, name: &str, on_server: bool) -> Result<Option<Left>, Failure> {
    let found = store.read(name).await.map_err(|error| Failure::fault(told(&error)))?;
    let place = store.describe(name);
    let mut words = match &found {
        Some((_, bytes)) => {
            // What cannot be read can be removed all the same: that may be why it is.
            let held = read_manifest(store, name, bytes).await.map_or_else(
                |error| format!("unreadable: {}", told(&error)),
                |(manifest, _)| format!("checkpoint {} of {}", manifest.epoch, manifest.at),
            );
            format!("checkpoints, {place}: {held}, {}", output::bytes(bytes.len() as u64))
        }
        None => format!("checkpoints, {place}: none"),
    };
    if on_server {
        match js.find_stream(&format!("KV_mill_{name}")).await {
            Ok(None) => return Ok(None),
            Ok(Some(info)) => words.push_str(&format!("; the bucket has {}", output::bytes(info.state.bytes))),
            Err(error) => words.push_str(&format!("; the bucket cannot be looked at: {error}")),
        }
    } else if found.is_none() {
        return Ok(None);
    }
    Ok(Some(Left { what: Thing::Checkpoints, words, busy: false }))
}

/// A store's error, and why.
fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut beneath = error.source();
    while let Some(error) = beneath {
        text.push_str(": ");
        text.push_str(&error.to_string());
        beneath = error.source();
    }
    text
}

fn agreed(name: &str) -> bool {
    let mut err = std::io::stderr().lock();
    let _ = write!(err, "Remove all of this? The next start of {name} begins from the beginning. [y/N] ");
    let _ = err.flush();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
