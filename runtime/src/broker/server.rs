//! [`NatsServer`]: a nats-server as a child process, for `millstream dev`, `millstream demo` and tests.
//!
//! Production servers are never managed: there Millstream only connects.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use millstream_operators::Headers;
use tokio::time::{Instant, sleep};

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
    /// Lines of the configuration file beyond the generated ones.
    extra: String,
    /// Whether the folder goes with the server.
    ephemeral: bool,
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
        let mut server = NatsServer::prepare(fresh_folder().map_err(failed)?, extra)?;
        server.ephemeral = true;
        server.launch().map_err(failed)?;
        server.ready().await?;
        Ok(server)
    }

    /// Starts a server that keeps its streams in `folder`.
    ///
    /// # Errors
    /// As [`start`](NatsServer::start).
    pub async fn start_in(folder: impl Into<PathBuf>, extra: &str) -> Result<NatsServer, BrokerError> {
        let mut server = NatsServer::prepare(folder.into(), extra)?;
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
            let mut server = NatsServer::prepare(fresh_folder().map_err(failed)?, &extra)?;
            server.ephemeral = true;
            server.name = format!("n{number}");
            server.launch().map_err(failed)?;
            servers.push(server);
        }
        for server in &servers {
            server.ready().await?;
        }
        Ok(servers)
    }

    fn prepare(folder: PathBuf, extra: &str) -> Result<NatsServer, BrokerError> {
        let program = find_program().ok_or_else(|| BrokerError::Options {
            what: "no nats-server found: set MILLSTREAM_NATS_SERVER, put it on PATH, or run `tests/setup`".to_owned(),
        })?;
        let port = free_port().map_err(failed)?;
        let (name, extra) = ("millstream".to_owned(), extra.to_owned());
        Ok(NatsServer { child: None, program, name, port, folder, extra, ephemeral: false })
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
        // The standard library sends nothing but SIGKILL, and our own call would be unsafe code.
        let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        let deadline = Instant::now() + STOP;
        while asked.as_ref().is_ok_and(std::process::ExitStatus::success) && Instant::now() < deadline {
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
        std::fs::write(
            &config,
            format!(
                "server_name: {}\nlisten: \"127.0.0.1:{}\"\njetstream {{ store_dir: {:?} }}\n{}\n",
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
    async fn ready(&self) -> Result<(), BrokerError> {
        let deadline = Instant::now() + READY;
        let mut last = "it never took a connection".to_owned();
        while Instant::now() < deadline {
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

/// `MILLSTREAM_NATS_SERVER`, else the one on PATH, else the one in the project's tools folder.
pub fn find_program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MILLSTREAM_NATS_SERVER") {
        return Some(PathBuf::from(path));
    }
    on_path("nats-server").or_else(|| {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.join(".tools/bin/nats-server");
        tools.is_file().then_some(tools)
    })
}

fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
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
