//! [`NatsServer`]: a nats-server as a child process, for `millstream dev`, `millstream demo` and tests.
//!
//! Production servers are never managed: there Millstream only connects.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use millstream_operators::Headers;
use tokio::time::{Instant, sleep};

use super::ports::free_port;
use super::program::{find_program, on_path};
use super::{BrokerError, ConnectOptions, Connection};

const READY: Duration = Duration::from_secs(20);
const STOP: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(20);

/// A running nats-server with JetStream on the loopback interface. It is killed when this is dropped.
#[derive(Debug)]
pub struct NatsServer {
    child: Option<Child>,
    program: PathBuf,
    name: String,
    port: u16,
    folder: PathBuf,
    sync_interval: Option<String>,
    /// Lines of the configuration file beyond the generated ones.
    extra: String,
    /// Whether the folder goes with the server.
    ephemeral: bool,
}

/// How a [`NatsServer`] is started. The default is a fresh folder that goes with it, and a free port.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ServerOptions {
    /// The program; the one that [`find_program`] finds if this is not given.
    pub program: Option<PathBuf>,
    /// Where it keeps its streams; a fresh folder that is removed with it if this is not given.
    pub folder: Option<PathBuf>,
    /// The port on 127.0.0.1; a free one if this is not given.
    pub port: Option<u16>,
    /// How often it syncs to the disk, such as `10s` or `always`; the server's own default, two minutes, if this is not
    /// given.
    pub sync_interval: Option<String>,
    /// More lines of its configuration: users, limits.
    pub extra: String,
}

impl NatsServer {
    /// Starts a server in a fresh folder that is removed with it.
    ///
    /// # Errors
    /// There is no `nats-server`, or it does not start; the error says where was looked and where its log is.
    pub async fn start() -> Result<NatsServer, BrokerError> {
        NatsServer::start_with("").await
    }

    /// Starts a server in a fresh folder, with more configuration (users, limits).
    ///
    /// # Errors
    /// As [`start`](NatsServer::start).
    pub async fn start_with(extra: &str) -> Result<NatsServer, BrokerError> {
        NatsServer::start_as(ServerOptions { extra: extra.to_owned(), ..ServerOptions::default() }).await
    }

    /// Starts a server that keeps its streams in `folder`.
    ///
    /// # Errors
    /// As [`start`](NatsServer::start).
    pub async fn start_in(folder: impl Into<PathBuf>, extra: &str) -> Result<NatsServer, BrokerError> {
        let (folder, extra) = (Some(folder.into()), extra.to_owned());
        NatsServer::start_as(ServerOptions { folder, extra, ..ServerOptions::default() }).await
    }

    /// Starts a server.
    ///
    /// # Errors
    /// As [`start`](NatsServer::start).
    pub async fn start_as(options: ServerOptions) -> Result<NatsServer, BrokerError> {
        let mut server = NatsServer::prepare(options)?;
        server.launch().map_err(failed)?;
        server.ready().await?;
        Ok(server)
    }

    /// Starts a cluster of `nodes` servers on the loopback interface, for replicated streams.
    ///
    /// # Errors
    /// As [`start`](NatsServer::start).
    pub async fn start_cluster(nodes: usize) -> Result<Vec<NatsServer>, BrokerError> {
        let routes: Vec<u16> = (0..nodes).map(|_| free_port()).collect::<io::Result<_>>().map_err(failed)?;
        let list: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut servers = Vec::with_capacity(nodes);
        for (number, route) in routes.iter().enumerate() {
            let extra = format!(
                "cluster {{ name: millstream, listen: \"127.0.0.1:{route}\", routes: [{}] }}\n",
                list.iter().map(|url| format!("\"{url}\"")).collect::<Vec<_>>().join(", ")
            );
            let mut server = NatsServer::prepare(ServerOptions { extra, ..ServerOptions::default() })?;
            server.name = format!("n{number}");
            server.launch().map_err(failed)?;
            servers.push(server);
        }
        for server in &mut servers {
            server.ready().await?;
        }
        Ok(servers)
    }

    fn prepare(options: ServerOptions) -> Result<NatsServer, BrokerError> {
        let program = options.program.map_or_else(find_program, Ok)?;
        let port = options.port.map_or_else(free_port, Ok).map_err(failed)?;
        let ephemeral = options.folder.is_none();
        let folder = options.folder.map_or_else(fresh_folder, Ok).map_err(failed)?;
        let (sync_interval, extra) = (options.sync_interval, options.extra);
        let name = "millstream".to_owned();
        Ok(NatsServer { child: None, program, name, port, folder, sync_interval, extra, ephemeral })
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Where the server keeps its streams, its configuration and its log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("nats-server.log")
    }

    /// A connection to it, without authentication.
    ///
    /// # Errors
    /// As [`ConnectOptions::connect`].
    pub async fn connect(&self) -> Result<Connection, BrokerError> {
        ConnectOptions::to(self.url()).connect().await
    }

    /// How the process ended, if it did by itself.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// The last lines of its log, for an error.
    pub fn last_words(&self) -> String {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
    }

    /// Kills the process at once, as `kill -9`.
    pub fn kill_9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the process to end, and kills it after 15 seconds.
    pub async fn terminate(&mut self) {
        let Some(child) = &mut self.child else { return };
        let asked = signal("TERM", child.id());
        let deadline = Instant::now() + STOP;
        while asked && Instant::now() < deadline {
            match child.try_wait() {
                Ok(None) => sleep(LOOK).await,
                _ => break,
            }
        }
        self.kill_9();
    }

    /// Starts the server again, on the same port and folder; kills it first if it runs.
    ///
    /// # Errors
    /// As [`start`](NatsServer::start).
    pub async fn restart(&mut self) -> Result<(), BrokerError> {
        self.kill_9();
        self.launch().map_err(failed)?;
        self.ready().await
    }

    /// Starts the process without waiting until it answers.
    fn launch(&mut self) -> io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let config = self.folder.join("nats-server.conf");
        let sync = self.sync_interval.as_ref().map(|interval| format!(", sync_interval: {interval}"));
        let sync = sync.unwrap_or_default();
        std::fs::write(
            &config,
            format!(
                "server_name: {}\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: {:?}{sync} }}\n{}\n",
                self.name,
                self.port,
                self.folder.join("data").display().to_string(),
                self.extra
            ),
        )?;
        let log = File::options().create(true).append(true).open(self.log())?;
        // On Linux the server shall die with us even if we are killed.
        let mut command = if cfg!(target_os = "linux") && on_path("setpriv").is_some() {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        command.arg("-c").arg(&config).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own: Ctrl-C reaches us, and we decide when the server stops.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// Waits until JetStream answers.
    async fn ready(&mut self) -> Result<(), BrokerError> {
        let deadline = Instant::now() + READY;
        let mut last = "it never took a connection".to_owned();
        while Instant::now() < deadline {
            if let Some(status) = self.exited() {
                let (log, words) = (self.log().display().to_string(), self.last_words());
                return Err(BrokerError::Disconnected {
                    why: format!("nats-server ended at its start ({status}); the end of its log {log}:\n{words}"),
                });
            }
            // Not through the client: with users configured, an anonymous connection is refused for good.
            match tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await {
                Err(error) => last = error.to_string(),
                Ok(_) => match self.connect().await {
                    Ok(connection) => {
                        let wait = Duration::from_secs(1);
                        match connection.request("$JS.API.INFO", Headers::NONE, "", wait).await {
                            Ok(_) => return Ok(()),
                            Err(error) => last = error.to_string(),
                        }
                    }
                    Err(BrokerError::Disconnected { why }) if why.contains("cannot be used") => return Ok(()),
                    Err(error) => last = error.to_string(),
                },
            }
            sleep(LOOK).await;
        }
        Err(BrokerError::Disconnected {
            why: format!("nats-server does not get ready ({last}): see {}", self.log().display()),
        })
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill_9();
        if self.ephemeral {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Sends a signal to a process; whether there is one that takes it. By the `kill` program: the standard library sends
/// nothing but SIGKILL, and to children only, and our own call would be unsafe code.
pub(crate) fn signal(name: &str, pid: u32) -> bool {
    let sent = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
    sent.is_ok_and(|status| status.success())
}

fn fresh_folder() -> io::Result<PathBuf> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("millstream-nats-{}-{count}", std::process::id()));
        match std::fs::create_dir(&folder) {
            Ok(()) => return Ok(folder),
            // Left over by an earlier process of the same number.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn failed(error: io::Error) -> BrokerError {
    BrokerError::Options { what: format!("nats-server cannot be started: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{DeniedAction, Outgoing};

    #[tokio::test]
    async fn a_server_comes_back_on_the_same_port_and_the_link_follows() {
        let mut server = NatsServer::start().await.unwrap();
        let connection = server.connect().await.unwrap();
        assert_eq!(connection.generation(), 1);
        let mut link = connection.link();
        server.kill_9();
        link.wait_for(|link| !link.connected).await.unwrap();
        server.restart().await.unwrap();
        link.wait_for(|link| link.connected && link.generation == 2).await.unwrap();
        assert_eq!(connection.generation(), 2);
        server.terminate().await;
        assert!(server.pid().is_none());
    }

    #[tokio::test]
    async fn requests_tell_nobody_there_from_denied() {
        let users = r#"authorization { users: [{ user: u, password: p, permissions: {
            publish: { deny: ["secret.>"] } } }] }"#;
        let server = NatsServer::start_with(users).await.unwrap();
        assert!(server.connect().await.unwrap_err().to_string().contains("check token, user and password"));
        let options = ConnectOptions {
            user: Some("u".to_owned()),
            password: Some("p".to_owned().into()),
            ..ConnectOptions::to(server.url())
        };
        let connection = options.connect().await.unwrap();
        let second = Duration::from_secs(1);
        let error = connection.request("nobody", Headers::NONE, "", second).await.unwrap_err();
        assert!(matches!(error, BrokerError::NoResponders { .. }), "{error}");
        let error = connection.request("secret.a", Headers::NONE, "", second).await.unwrap_err();
        assert!(matches!(error, BrokerError::Permission { action: DeniedAction::Publish, .. }), "{error}");
        connection.publish(Outgoing::new("secret.b", "x")).await.unwrap();
        let error = connection.request("secret.b", Headers::NONE, "", second).await.unwrap_err();
        assert!(matches!(error, BrokerError::Permission { .. }), "{error}");
        assert!(connection.denied("secret.b").is_some());
        assert!(connection.denied("open").is_none());
    }
}
