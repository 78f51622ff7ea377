//! Logs: text for people, JSON for machines, always on the standard error.

use tracing_subscriber::EnvFilter;

use super::Failure;
use super::args::LogFormat;
use super::live::Screen;
use super::output;
use super::settings::Settings;
use crate::broker::CLIENT;

/// Sends logs to `screen` from now on.
///
/// # Errors
/// The level is none: usage.
pub(super) fn init(settings: &Settings, screen: &Screen) -> Result<(), Failure> {
    let level = settings.log_level();
    // The clients log URLs at debug, and every connection and every other try at info: neither is ours to say, unless it is
    // asked for.
    let mut quiet = level.to_owned();
    for client in [CLIENT, "object_store"] {
        if !level.contains(client) {
            quiet = format!("{client}=warn,{quiet}");
        }
    }
    let filter = EnvFilter::try_new(quiet).map_err(|error| {
        Failure::usage(format!("the log level {level:?} is none ({error}): use error, warn, info, debug or trace"))
    })?;
    let format = settings.log_format();
    let people = format.map_or_else(|| screen.is_terminal(), |format| format == LogFormat::Text);
    let writer = screen.clone();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || writer.clone());
    // Whoever set another subscriber before (a program of its own) wants that one.
    let _ = if people {
        log.with_ansi(output::colour(&std::io::stderr())).with_target(false).try_init()
    } else {
        log.json().flatten_event(true).try_init()
    };
    Ok(())
}
