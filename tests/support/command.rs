//! A command line program as a black box: what it prints, and how it ends.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// What a program printed and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// A program that runs, with what it prints so far.
pub struct Running {
    child: Child,
    out: Reader,
    err: Reader,
}

/// What comes from a pipe, read as it comes.
pub(super) struct Reader {
    text: Arc<Mutex<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    pub(super) fn of(mut pipe: impl Read + Send + 'static) -> Reader {
        let text = Arc::<Mutex<String>>::default();
        let shared = Arc::clone(&text);
        let thread = std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read @ 1..) = pipe.read(&mut part) {
                shared.lock().unwrap().push_str(&String::from_utf8_lossy(&part[..read]));
            }
        });
        Reader { text, thread: Some(thread) }
    }

    pub(super) fn so_far(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    fn all(&mut self) -> String {
        self.thread.take().into_iter().for_each(|thread| thread.join().unwrap());
        std::mem::take(&mut *self.text.lock().unwrap())
    }
}

impl Running {
    /// Starts a program whose settings come from the arguments alone.
    pub fn start(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Running {
        let mut command = Command::new(program);
        command.args(arguments).env_remove("NATS_URL").env("RUST_BACKTRACE", "0").envs(variables.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (out, err) = (Reader::of(child.stdout.take().unwrap()), Reader::of(child.stderr.take().unwrap()));
        Running { child, out, err }
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success(), "it has ended: {}", self.err());
    }

    /// What it has printed on the standard error so far.
    pub fn err(&self) -> String {
        self.err.so_far()
    }

    /// What it has printed on the standard output so far.
    pub fn out(&self) -> String {
        self.out.so_far()
    }

    /// Waits until the standard error holds `part`.
    pub async fn says(&mut self, part: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.err().contains(part) {
            assert!(self.child.try_wait().unwrap().is_none(), "it ended and never said {part:?}: {}", self.err());
            assert!(Instant::now() < deadline, "it did not say {part:?} within 30 s: {}", self.err());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits for its end.
    pub async fn ended(self) -> Said {
        self.ended_within(Duration::from_secs(40)).await
    }

    /// Waits for its end so long.
    pub async fn ended_within(mut self, within: Duration) -> Said {
        let deadline = Instant::now() + within;
        let status: ExitStatus = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                let _ = self.child.kill();
                panic!("it did not end within {within:?}: {}", self.err());
            }
            sleep(Duration::from_millis(20)).await;
        };
        Said { code: status.code(), out: self.out.all(), err: self.err.all() }
    }

    /// Kills it, and gives what it had printed.
    pub async fn killed(mut self) -> Said {
        let _ = self.child.kill();
        self.ended().await
    }
}

impl Drop for Running {
    /// A test that fails leaves no process behind, and shows what it said.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let said = self.err();
        #[allow(clippy::print_stdout, reason = "the test harness shows it where a test fails")]
        if std::thread::panicking() && !said.is_empty() {
            println!("what process {} logged:\n{said}", self.child.id());
        }
    }
}

/// Runs a program to its end.
pub async fn call(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    Running::start(program, arguments, variables).ended().await
}
