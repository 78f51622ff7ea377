//! `millstream doctor`: looks whether a server fits a pipeline, and what there could lose data.
//!
//! [`facts`] asks, [`findings`] judges without asking anybody, and this file prints.

mod facts;
mod findings;
mod streams;

use std::process::ExitCode;
use std::sync::Arc;

use super::args::Doctor;
use super::check::plural;
use super::file::Ends;
use super::settings::Settings;
use super::{Failure, Program, output};
use crate::connectors::{Connections, Purpose};
use facts::Facts;
use findings::{Finding, Grade};

pub(super) async fn doctor(program: &Program, args: Doctor, settings: Settings) -> Result<ExitCode, Failure> {
    let file = args.file.as_ref().map(|path| program.load(path, &Ends::default())).transpose()?;
    let settings = settings.with_server(&args.server);
    let options = settings.connect_options(file.as_ref().and_then(|file| file.nats.clone()));
    let setup = |fault: millstream_operators::Fault| Failure::fault(fault.chain());
    let connections = Arc::new(Connections::to_nats(options).map_err(setup)?);
    let js = connections.js(Purpose::Control).await.map_err(setup)?;
    let graph = file.as_ref().map(|file| &file.graph);
    let place = settings.checkpoints();
    let mut facts = Facts::ask(&js, graph, connections.describe(), settings.replicas(), place.is_none()).await;
    if let (Some(graph), Some(place)) = (graph, place) {
        let store = settings.store_at(place)?;
        facts.kept = Some((store.describe(&graph.name), store.read(&graph.name).await.map(|found| found.is_some())));
    }
    let findings = findings::judge(&facts);
    let colour = output::colour(&std::io::stdout());
    findings.iter().for_each(|finding| output::print(&line(finding, colour)));
    let number = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let (errors, warnings) = (number(Grade::Error), number(Grade::Warning));
    output::print(&format!("{}, {}", plural(errors, "error"), plural(warnings, "warning")));
    Ok(if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A finding as it is printed: what it is about, and what else there is to say below.
fn line(finding: &Finding, colour: bool) -> String {
    let (word, paint) = match finding.grade {
        Grade::Fact => ("", ""),
        Grade::Warning => ("warning: ", "33"),
        Grade::Error => ("error: ", "31"),
    };
    let word = match (word, colour) {
        ("", _) | (_, false) => word.to_owned(),
        _ => format!("\x1b[1;{paint}m{word}\x1b[0m"),
    };
    let indent = if finding.grade == Grade::Fact { "" } else { "  " };
    format!("{indent}{word}{}", finding.text)
}
