//! [`StdoutSink`]: a line a record on the standard output.

use millstream_operators::{Batch, Epoch, Fault, FaultKind, Record, Result, Retry, Sink};
use tokio::io::{AsyncWriteExt, Stdout, stdout};

use super::file::add_lines;

/// A sink that prints the payload of each record, and its subject before it if asked. Payloads must be lines: what makes
/// them sees to it.
#[derive(Debug)]
pub struct StdoutSink {
    out: Stdout,
    subjects: bool,
}

impl StdoutSink {
    /// A sink that prints payloads, and `subjects` if they shall be seen.
    pub fn new(subjects: bool) -> Self {
        StdoutSink { out: stdout(), subjects }
    }
}

fn gone(error: std::io::Error) -> Fault {
    // Whoever read has left: `millstream run … | head`.
    Fault::new(FaultKind::Connection, "the standard output cannot be written").because(error).retry_with(Retry::Never)
}

impl Sink for StdoutSink {
    type In = Vec<Record>;

    async fn write(&mut self, batch: Batch<Vec<Record>>) -> Result {
        let mut lines = Vec::with_capacity(batch.weight() + 2 * batch.len());
        for record in batch.rows() {
            if self.subjects {
                lines.extend_from_slice(&record.subject);
                lines.push(b' ');
            }
            add_lines(&mut lines, &record.payload);
        }
        self.out.write_all(&lines).await.map_err(gone)
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        self.out.flush().await.map_err(gone)
    }
}
