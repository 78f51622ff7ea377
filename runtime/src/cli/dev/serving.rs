//! [`serve`]: keeps one server running until a signal comes.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::leftover::{Folder, server_id};
use crate::broker::{BrokerError, NatsServer, ServerOptions, signal};
use crate::cli::{Failure, output};
use crate::launch::Signals;

/// What serves.
#[derive(Debug)]
pub(super) enum Serving {
    /// Nothing yet, or nothing any more.
    Nothing,
    /// A child of this process.
    Child(NatsServer),
    /// A server that a killed process left: not our child, but ours to stop.
    Leftover { pid: u32, port: u16 },
}

const LOOK: Duration = Duration::from_millis(200);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
// A server that ran for so long did not crash because of how it was started.
const STEADY: Duration = Duration::from_secs(30);
// So many crashes in a row, and it will go on crashing.
const CRASHES: u32 = 10;
const STOP: Duration = Duration::from_secs(15);

impl Serving {
    pub(super) fn nothing() -> Self {
        Serving::Nothing
    }

    pub(super) fn leftover(pid: u32, port: u16) -> Self {
        Serving::Leftover { pid, port }
    }

    pub(super) fn port(&self) -> Option<u16> {
        match self {
            Serving::Nothing => None,
            Serving::Child(server) => Some(server.port()),
            Serving::Leftover { port, .. } => Some(*port),
        }
    }

    /// Waits until it has ended by itself; gives the words for how.
    async fn ended(&mut self) -> String {
        loop {
            match self {
                Serving::Nothing => return "it was not started".to_owned(),
                Serving::Child(server) => {
                    if let Some(status) = server.exited() {
                        return format!("{status}");
                    }
                }
                Serving::Leftover { port, .. } => {
                    if server_id(*port).await.is_none() {
                        return "it does not answer any more".to_owned();
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    /// Asks it to end, and kills it when it does not.
    async fn stop(&mut self) {
        match self {
            Serving::Nothing => {}
            Serving::Child(server) => server.terminate().await,
            Serving::Leftover { pid, port } => {
                let deadline = Instant::now() + STOP;
                let asked = signal("TERM", *pid);
                while asked && server_id(*port).await.is_some() && Instant::now() < deadline {
                    sleep(LOOK).await;
                }
                if server_id(*port).await.is_some() {
                    signal("KILL", *pid);
                }
            }
        }
        *self = Serving::Nothing;
    }
}

/// Serves until a signal comes, and starts the server again when it crashes.
pub(super) async fn serve(
    mut serving: Serving,
    options: ServerOptions,
    folder: Option<&Folder>,
    mut signals: Signals,
    interval: &str,
) -> Result<ExitCode, Failure> {
    let served = tokio::select! {
        biased;
        () = signals.heard() => Ok(()),
        failed = keep(&mut serving, &options, folder, interval) => Err(failed),
    };
    serving.stop().await;
    if let Some(folder) = folder {
        folder.forget();
    }
    served.map(|()| ExitCode::SUCCESS)
}

/// Keeps a server running; gives back why that cannot be.
async fn keep(serving: &mut Serving, options: &ServerOptions, folder: Option<&Folder>, interval: &str) -> Failure {
    let (mut pause, mut crashes, mut greeted) = (FIRST_PAUSE, 0, false);
    loop {
        let started = Instant::now();
        let why = match begin(serving, options, folder).await {
            Ok(()) => {
                if !greeted {
                    greet(serving, options, folder.map(Folder::path), interval).await;
                    greeted = true;
                }
                serving.ended().await
            }
            // The first start tells whether it can work at all.
            Err(error) if !greeted => return error,
            Err(error) => error.text,
        };
        let words = match &*serving {
            Serving::Child(server) => server.last_words(),
            _ => String::new(),
        };
        *serving = Serving::Nothing;
        if started.elapsed() > STEADY {
            (pause, crashes) = (FIRST_PAUSE, 0);
        }
        crashes += 1;
        if crashes >= CRASHES {
            return Failure::fault(format!("nats-server ended {crashes} times in a row ({why}):\n{words}"));
        }
        tracing::warn!("nats-server ended ({why}): starting it again in {pause:?}");
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Starts the server, unless one is there.
async fn begin(serving: &mut Serving, options: &ServerOptions, folder: Option<&Folder>) -> Result<(), Failure> {
    if let Serving::Nothing = serving {
        *serving = Serving::Child(NatsServer::start_as(options.clone()).await?);
    }
    match (folder, &*serving) {
        (Some(folder), Serving::Child(server)) => folder.note(server.pid().unwrap_or_default(), server.port()).await,
        _ => Ok(()),
    }
}

/// Says where it is and how it is used.
async fn greet(serving: &Serving, options: &ServerOptions, store: Option<&Path>, interval: &str) {
    let port = serving.port().unwrap_or_default();
    let url = format!("nats://127.0.0.1:{port}");
    let version = version(&url).await.unwrap_or_else(|error| error.to_string());
    let log = options.folder.as_deref().unwrap_or(Path::new("")).join("nats-server.log");
    let streams = match store {
        Some(store) => format!("streams in {}", store.display()),
        None => "streams gone when it ends".to_owned(),
    };
    let synced = match interval {
        "always" => "every message synced to the disk".to_owned(),
        interval => format!("synced to the disk every {interval}"),
    };
    let end = if store.is_some() { "Ctrl-C stops it; its streams stay." } else { "Ctrl-C stops it." };
    output::print(&format!(
        "nats-server {version} at {url}\n{streams}, {synced}; log in {}\n\n  export NATS_URL={url}\n  millstream run \
         FILE\n\n{end}",
        log.display()
    ));
}

async fn version(url: &str) -> Result<String, BrokerError> {
    Ok(crate::broker::ConnectOptions::to(url).connect().await?.server_version())
}
