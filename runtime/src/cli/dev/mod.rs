//! `millstream dev`: a NATS server with JetStream as a child of this process, for development.
//!
//! It is stopped on every way out, started again when it crashes, and found again when this process itself was killed.

mod leftover;
mod serving;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use leftover::{Folder, Seen};
use serving::{Serving, serve};

use super::args::Dev;
use super::new_enough::{Choice, new_enough};
use super::{Failure, output};
use crate::broker::{INSTALL, ServerOptions, free_port};
use crate::launch::Signals;

/// Where streams are kept unless it is said.
pub(super) const DEFAULT_STORE: &str = ".millstream/nats";
const DEFAULT_PORT: u16 = 4222;

pub(super) async fn dev(args: Dev) -> Result<ExitCode, Failure> {
    let signals = Signals::listen().map_err(|fault| Failure::fault(fault.chain()))?;
    let program = program()?;
    let folder = match args.ephemeral {
        true => None,
        false => Some(Folder::claim(&args.store)?),
    };
    let interval = if args.always_sync { "always" } else { "10s" };
    let sync_interval = Some(interval.to_owned());
    let found = match &folder {
        Some(folder) => folder.leftover().await?,
        None => None,
    };
    let serving = match found {
        Some(Seen { pid, port, .. }) if args.port.is_none_or(|wanted| wanted == 0 || wanted == port) => {
            output::say(&format!("a server that an earlier `millstream dev` left running (process {pid}) is used on"));
            Serving::leftover(pid, port)
        }
        Some(Seen { pid, port, .. }) => {
            return Err(Failure::usage(format!(
                "an earlier `millstream dev` left its server running here, on port {port} (process {pid}): leave out \
                 --port to use it on, or stop it with `kill {pid}`"
            )));
        }
        None => Serving::nothing(),
    };
    let port = match serving.port() {
        Some(port) => port,
        None => choose(args.port)?,
    };
    if args.store == Path::new(DEFAULT_STORE) && !args.ephemeral {
        keep_out_of_git(&args.store);
    }
    let store = folder.as_ref().map(|folder| folder.path().to_owned());
    // A fresh folder is this process's to name: a server that is started again must find its streams.
    let ephemeral = match store {
        Some(_) => None,
        None => Some(Ephemeral::make()?),
    };
    let place = store.or_else(|| ephemeral.as_ref().map(|folder| folder.0.clone()));
    let options = {
        let mut options = ServerOptions::default();
        (options.program, options.folder, options.port) = (Some(program), place, Some(port));
        options.sync_interval = sync_interval;
        options
    };
    serve(serving, options, folder.as_ref(), signals, interval).await
}

/// A folder that goes with this process.
struct Ephemeral(PathBuf);

impl Ephemeral {
    fn make() -> Result<Self, Failure> {
        let folder = std::env::temp_dir().join(format!("millstream-dev-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|error| cannot(&folder, "be made", &error))?;
        Ok(Ephemeral(folder))
    }
}

impl Drop for Ephemeral {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn cannot(path: &Path, what: &str, error: &std::io::Error) -> Failure {
    Failure::usage(format!("{} cannot {what}: {error}", path.display()))
}

/// The program to run.
fn program() -> Result<PathBuf, Failure> {
    let Choice { program, words } = new_enough()?;
    program.ok_or_else(|| Failure::usage(format!("{words}; {INSTALL}")))
}

/// The port to listen on: the wanted one, which must be free; without a wish the usual one, or a free one.
fn choose(wanted: Option<u16>) -> Result<u16, Failure> {
    let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port)).and_then(|bound| bound.local_addr());
    let any = || free_port().map_err(|error| Failure::fault(format!("no port is free: {error}")));
    match wanted {
        Some(0) => any(),
        Some(port) => match free(port) {
            Ok(_) => Ok(port),
            Err(error) => Err(Failure::usage(format!(
                "port {port} cannot be used ({error}): take another, or --port 0 for a free one"
            ))),
        },
        None if free(DEFAULT_PORT).is_ok() => Ok(DEFAULT_PORT),
        None => {
            output::say(&format!("port {DEFAULT_PORT} is taken, perhaps by another NATS server: taking a free one"));
            any()
        }
    }
}

/// Streams are nothing to commit. A convenience: where it cannot be, it is not.
fn keep_out_of_git(store: &Path) {
    if let Some(folder) = store.parent() {
        let _ = std::fs::write(folder.join(".gitignore"), "*\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_refused_when_it_was_wished_for() {
        let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = choose(Some(port)).unwrap_err();
        assert!(refused.to_string().contains("--port 0"), "{refused}");
        assert_ne!(choose(Some(0)).unwrap(), port);
    }
}
