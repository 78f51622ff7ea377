//! A SeaweedFS as a child process: a service that speaks S3, with one bucket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use millstream::checkpoint::{S3Options, S3Store, Store};
use millstream::testkit::free_port;
use tokio::time::{Instant, sleep};

const BUCKET: &str = "ckpt";
const KEY: &str = "stories";
const SECRET: &str = "not much of a secret";

/// A running service. It is killed when this is dropped.
pub struct Weed {
    child: Option<Child>,
    folder: tempfile::TempDir,
    ports: Vec<(&'static str, u16)>,
}

impl Weed {
    /// Starts one with an empty bucket.
    pub async fn start() -> Weed {
        let names = [
            "s3.port",
            "s3.port.grpc",
            "filer.port",
            "filer.port.grpc",
            "master.port",
            "master.port.grpc",
            "volume.port",
            "volume.port.grpc",
            "admin.port",
            "admin.port.grpc",
        ];
        let ports = names.into_iter().map(|name| (name, free_port().unwrap())).collect();
        let mut weed = Weed { child: None, folder: tempfile::tempdir().unwrap(), ports };
        weed.restart().await;
        weed
    }

    fn port(&self, name: &str) -> u16 {
        self.ports.iter().find(|(other, _)| *other == name).unwrap().1
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port("s3.port"))
    }

    /// How the environment tells a process of it.
    pub fn variables(&self) -> [(&'static str, String); 3] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ]
    }

    /// A place in the bucket.
    pub fn options(&self, prefix: &str) -> S3Options {
        let mut options = S3Options::to(&format!("s3://{BUCKET}/{prefix}")).unwrap();
        options.endpoint = Some(self.endpoint());
        options.access_key_id = Some(KEY.to_owned());
        options.secret_access_key = Some(SECRET.to_owned().into());
        options
    }

    /// A store at a place in the bucket.
    pub fn store(&self, prefix: &str) -> S3Store {
        S3Store::new(self.options(prefix)).unwrap()
    }

    /// Kills it at once, as `kill -9`.
    pub fn kill_9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // It does not remove its sockets then.
        for (name, port) in &self.ports {
            let name = name.replace(".port", "").replace('.', "-");
            let _ = std::fs::remove_file(std::env::temp_dir().join(format!("seaweedfs-{name}-{port}.sock")));
        }
    }

    /// Starts it again, with what it has kept.
    pub async fn restart(&mut self) {
        self.kill_9();
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        // On Linux it shall die with us even if we are killed.
        let mut command = match cfg!(target_os = "linux") {
            true => Command::new("setpriv"),
            false => Command::new(program()),
        };
        if cfg!(target_os = "linux") {
            command.args(["--pdeathsig", "KILL", "--"]).arg(program());
        }
        command.args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-webdav=false", "-admin.ui=false"]);
        command.args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-volume.max=8"]);
        command.arg(format!("-dir={}", self.folder.path().display())).arg(format!("-bucket={BUCKET}"));
        command.args(self.ports.iter().map(|(name, port)| format!("-{name}={port}")));
        // What it keeps for itself goes beside that.
        command.env("HOME", self.folder.path()).current_dir(self.folder.path());
        command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        let (store, deadline) = (self.store("ready"), Instant::now() + Duration::from_secs(60));
        while let Err(error) = store.put("p", READY.parse().unwrap(), bytes::Bytes::from_static(b"ready")).await {
            let log = std::fs::read_to_string(self.log()).unwrap();
            assert!(Instant::now() < deadline, "SeaweedFS does not get ready: {error:?}\n{log}");
            assert!(self.child.as_mut().unwrap().try_wait().unwrap().is_none(), "SeaweedFS ended: {log}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What is in an object, past S3; `None` if it is not there.
    pub fn look(&self, object: &str) -> Option<Vec<u8>> {
        let mut link = TcpStream::connect(("127.0.0.1", self.port("filer.port"))).unwrap();
        write!(link, "GET /buckets/{BUCKET}/{object} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        link.read_to_end(&mut answer).unwrap();
        let body = answer.windows(4).position(|part| part == b"\r\n\r\n").unwrap() + 4;
        String::from_utf8_lossy(&answer[..body]).contains(" 200 ").then(|| answer[body..].to_vec())
    }

    /// Puts an object there past S3, or deletes it: the service says that it is as it was written.
    pub fn tamper(&self, object: &str, bytes: Option<&[u8]>) {
        let mut link = TcpStream::connect(("127.0.0.1", self.port("filer.port"))).unwrap();
        let path = format!("/buckets/{BUCKET}/{object}");
        let (verb, body) = bytes.map_or(("DELETE", &[][..]), |bytes| ("PUT", bytes));
        write!(link, "{verb} {path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n", body.len()).unwrap();
        link.write_all(body).unwrap();
        let mut answer = String::new();
        link.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(" 20"), "{verb} {path}: {answer}");
    }
}

/// The SHA-256 of the word "ready": what is empty it takes even where its disk is full, and then refuses all else.
const READY: &str = "b24d6d33736ecd5604a4b17bc9c6481039fac362bb7df044ef1c10a2bfd21db6";

fn program() -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/weed");
    assert!(tools.is_file(), "{} is not there: `bash tests/setup` installs it", tools.display());
    tools
}

impl Drop for Weed {
    fn drop(&mut self) {
        self.kill_9();
    }
}
