//! [`Folder`]: a server's data folder, claimed by one process; and the server that a killed one left in it.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::cannot;
use crate::cli::Failure;

/// A server that was started in a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Its process.
    pub(super) pid: u32,
    /// Its port on 127.0.0.1.
    pub(super) port: u16,
    /// What it calls itself: another at every start, so that a process or port that was given to somebody else is not
    /// taken for it.
    pub(super) server_id: String,
}

/// A data folder that no other process serves: two servers in one would destroy it.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    // The system lets go of it with the process, however that ends.
    _lock: File,
}

const LOCK: &str = "millstream.lock";
const SERVER: &str = "server.json";
const ANSWER: Duration = Duration::from_secs(2);

impl Folder {
    /// Claims a folder, which is made if it is not there.
    ///
    /// # Errors
    /// Another `millstream dev` serves it, or it cannot be used.
    pub(super) fn claim(path: &Path) -> Result<Self, Failure> {
        fs::create_dir_all(path).map_err(|error| cannot(path, "be made", &error))?;
        let lock = path.join(LOCK);
        let file = File::options().create(true).truncate(false).write(true).open(&lock);
        let file = file.map_err(|error| cannot(&lock, "be opened", &error))?;
        match file.try_lock() {
            Ok(()) => Ok(Folder { path: path.to_owned(), _lock: file }),
            Err(TryLockError::WouldBlock) => {
                let at = seen(path).map_or(String::new(), |seen| format!(" at nats://127.0.0.1:{}", seen.port));
                Err(Failure::usage(format!(
                    "another `millstream dev` serves {}{at}: use that, or give --store another directory",
                    path.display()
                )))
            }
            Err(TryLockError::Error(error)) => Err(cannot(&lock, "be locked", &error)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The server that was left running here by a process that was killed.
    ///
    /// # Errors
    /// It is there and does not answer: nobody else may use the folder until it is gone.
    pub(super) async fn leftover(&self) -> Result<Option<Seen>, Failure> {
        let Some(seen) = seen(&self.path) else { return Ok(None) };
        if server_id(seen.port).await.as_deref() == Some(&seen.server_id) {
            return Ok(Some(seen));
        }
        if self.is_alive(seen.pid) {
            let Seen { pid, .. } = seen;
            return Err(Failure::fault(format!(
                "an earlier `millstream dev` left a server in {} that does not answer (process {pid}): stop it with \
                 `kill -9 {pid}`, and start again",
                self.path.display()
            )));
        }
        Ok(None)
    }

    /// Whether the process is a server in this folder. Where the system does not tell, it is taken to be gone: its port
    /// is free or answers as somebody else.
    fn is_alive(&self, pid: u32) -> bool {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let config = self.path.join("nats-server.conf");
        !config.as_os_str().is_empty() && String::from_utf8_lossy(&command).contains(&*config.to_string_lossy())
    }

    /// Notes the server that runs here now, for whoever comes after a `kill -9`.
    pub(super) async fn note(&self, pid: u32, port: u16) -> Result<(), Failure> {
        let path = self.path.join(SERVER);
        let server_id = server_id(port).await.unwrap_or_default();
        let text = serde_json::to_vec(&Seen { pid, port, server_id }).unwrap_or_default();
        fs::write(&path, text).map_err(|error| cannot(&path, "be written", &error))
    }

    /// Notes that none does any more.
    pub(super) fn forget(&self) {
        let _ = fs::remove_file(self.path.join(SERVER));
    }
}

/// What is noted in a folder.
fn seen(folder: &Path) -> Option<Seen> {
    serde_json::from_slice(&fs::read(folder.join(SERVER)).ok()?).ok()
}

/// What the NATS server on a port calls itself: the first thing that it says.
pub(super) async fn server_id(port: u16) -> Option<String> {
    let ask = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).await.ok()?;
        let info: Value = serde_json::from_str(line.strip_prefix("INFO ")?.trim()).ok()?;
        info.get("server_id").and_then(Value::as_str).map(str::to_owned)
    };
    timeout(ANSWER, ask).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::NatsServer;

    #[tokio::test]
    async fn a_folder_is_served_once_and_its_leftover_is_known_by_what_it_calls_itself() {
        let place = tempfile::tempdir().unwrap();
        let mut server = NatsServer::start().await.unwrap();
        let folder = Folder::claim(place.path()).unwrap();
        assert_eq!(folder.leftover().await.unwrap(), None);
        folder.note(server.pid().unwrap(), server.port()).await.unwrap();
        let refused = Folder::claim(place.path()).unwrap_err().to_string();
        assert!(refused.contains(&server.url()), "{refused}");
        drop(folder);
        let folder = Folder::claim(place.path()).unwrap();
        let left = folder.leftover().await.unwrap().unwrap();
        assert_eq!((left.pid, left.port), (server.pid().unwrap(), server.port()));
        // The same port, another server: not the one that was left.
        server.restart().await.unwrap();
        assert_eq!(folder.leftover().await.unwrap(), None);
    }
}
