//! `millstream permissions`: what a pipeline's user must be allowed on the server, and nothing else.

mod grants;

use std::process::ExitCode;

use serde_json::json;

use super::args::Permissions;
use super::file::Ends;
use super::place::Place;
use super::settings::Settings;
use super::{Failure, Program, output};
use crate::checkpoint::S3Options;
use grants::{Grants, Scope};

pub(super) fn permissions(program: &Program, args: &Permissions, settings: &Settings) -> Result<ExitCode, Failure> {
    let file = program.load(&args.file, &Ends::default())?;
    let settings = settings.clone().with_checkpoints(args.checkpoints.as_ref(), None);
    let options = settings.connect_options(file.nats).resolve()?;
    let scope = Scope {
        api: options.js_prefix(),
        inbox: options.inbox_prefix.clone().unwrap_or_else(|| "_INBOX".to_owned()),
        create: !args.no_create,
        checkpoints: settings.checkpoints().is_none(),
    };
    let grants = Grants::of(&file.graph, &scope);
    for node in &grants.unknown {
        output::say(&format!(
            "the subjects that `{node}` publishes to are computed by code: add them to publish.allow yourself"
        ));
    }
    if let Some(Place::Bucket(url)) = settings.checkpoints() {
        let place = S3Options::to(url).map_err(|fault| Failure::usage(fault.chain()))?;
        output::say(&in_bucket(&place, &file.graph.name));
    }
    output::print(&if args.json { as_json(&grants) } else { as_block(&file.graph.name, &grants) });
    Ok(ExitCode::SUCCESS)
}

/// What the key of the bucket needs beside that.
fn in_bucket(place: &S3Options, pipeline: &str) -> String {
    let S3Options { bucket, prefix, .. } = place;
    let slash = if prefix.is_empty() { "" } else { "/" };
    let folder = format!("{prefix}{slash}{pipeline}/*");
    format!(
        "the key of the bucket needs s3:ListBucket on arn:aws:s3:::{bucket} (s3:prefix {folder}), and s3:GetObject, \
         s3:PutObject and s3:DeleteObject on arn:aws:s3:::{bucket}/{folder}"
    )
}

/// As they stand in a user's JWT, and as other tools take them.
fn as_json(grants: &Grants) -> String {
    let all = json!({
        "publish": { "allow": grants.publish.iter().flat_map(|group| &group.subjects).collect::<Vec<_>>() },
        "subscribe": { "allow": grants.subscribe },
    });
    format!("{all:#}")
}

/// As they stand in a server's configuration.
fn as_block(pipeline: &str, grants: &Grants) -> String {
    let mut text =
        format!("# What the user of pipeline {pipeline} needs: goes into its entry in `users`.\npermissions {{\n");
    text.push_str("  publish {\n    allow: [\n");
    for group in &grants.publish {
        text.push_str(&format!("      # {}\n", group.what));
        for subject in &group.subjects {
            text.push_str(&format!("      {subject:?}\n"));
        }
    }
    text.push_str("    ]\n  }\n  subscribe {\n    allow: [\n");
    for subject in &grants.subscribe {
        text.push_str(&format!("      {subject:?}\n"));
    }
    text.push_str("    ]\n  }\n}\n");
    text
}
