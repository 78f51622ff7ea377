//! [`FileSource`] and [`FileSink`]: files of lines, one payload a line (NDJSON).

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use millstream_operators::{
    Batch, Epoch, Fault, FaultKind, Origin, Origins, Place, Record, Result, Retry, Sink, Source,
};
use serde::{Deserialize, Serialize};
use tokio::fs::{File, OpenOptions};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncSeekExt, AsyncWriteExt, BufReader, BufWriter};

use crate::engine::Clock;

/// A source that gives the lines of a file, without their line ends, and ends with it. Empty lines are passed over.
#[derive(Debug)]
pub struct FileSource {
    path: PathBuf,
    clock: Clock,
    place: Arc<Place>,
    file: Option<BufReader<File>>,
    at: FilePosition,
    // A line that is being read: kept here so that `next` can be dropped in the middle of one.
    partial: Vec<u8>,
}

/// How far a [`FileSource`] has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilePosition {
    /// Lines that were read.
    pub lines: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

// A line that is longer is more likely no file of lines than a row.
const LONGEST_LINE: usize = 64 << 20;

impl FileSource {
    /// A source of the lines of `path`, as node `node`.
    pub fn new(node: &str, path: impl Into<PathBuf>, clock: Clock) -> Self {
        let path = path.into();
        let place = Arc::new(Place { node: node.into(), stream: path.display().to_string() });
        FileSource { path, clock, place, file: None, at: FilePosition::default(), partial: Vec::new() }
    }

    fn fault(&self, kind: FaultKind, what: &str) -> Fault {
        Fault::new(kind, format!("{} {what}", self.path.display()))
    }
}

impl Source for FileSource {
    type Out = Vec<Bytes>;
    type Position = FilePosition;

    async fn open(&mut self, from: Option<FilePosition>) -> Result {
        let cannot = |what: &str, error| self.fault(FaultKind::Setup, what).because(error);
        let mut file = File::open(&self.path).await.map_err(|e| cannot("cannot be opened", e))?;
        let length = file.metadata().await.map_err(|e| cannot("cannot be examined", e))?.len();
        let from = from.unwrap_or_default();
        if from.bytes > length {
            let words = format!(
                "has {length} bytes, but {} were read at the last checkpoint: it is another file now",
                from.bytes
            );
            return Err(self.fault(FaultKind::SourceLost, &words).retry_with(Retry::Never));
        }
        file.seek(std::io::SeekFrom::Start(from.bytes)).await.map_err(|e| cannot("cannot be read", e))?;
        self.at = from;
        self.partial.clear();
        self.file = Some(BufReader::with_capacity(256 << 10, file));
        Ok(())
    }

    async fn next(&mut self, max_rows: usize) -> Result<Option<Batch<Vec<Bytes>>>> {
        let Some(file) = self.file.as_mut() else { return Ok(None) };
        let (mut rows, mut messages, mut weight) = (Vec::new(), Vec::new(), 0);
        let now = self.clock.now();
        while rows.len() < max_rows && weight < 4 << 20 {
            // Once there are rows, only what needs no more reading is added: a read that waits could be cancelled, and
            // these rows with it.
            if !rows.is_empty() && !file.buffer().contains(&b'\n') {
                break;
            }
            let room = (LONGEST_LINE - self.partial.len()) as u64;
            let read = (&mut *file).take(room).read_until(b'\n', &mut self.partial).await;
            if let Err(error) = read {
                return Err(self.fault(FaultKind::Connection, "cannot be read").because(error));
            }
            if self.partial.is_empty() {
                break;
            }
            if self.partial.len() >= LONGEST_LINE {
                let words = format!("has a line of more than {} MiB after line {}", LONGEST_LINE >> 20, self.at.lines);
                return Err(self.fault(FaultKind::Setup, &words));
            }
            let mut line = std::mem::take(&mut self.partial);
            self.at.lines += 1;
            self.at.bytes += line.len() as u64;
            weight += line.len();
            while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                line.pop();
            }
            if line.is_empty() {
                continue;
            }
            let payload = Bytes::from(line);
            messages.push(Origin {
                sequence: self.at.lines,
                stored_at: now,
                payload: payload.clone(),
                ..Origin::default()
            });
            rows.push(payload);
        }
        if rows.is_empty() {
            return Ok(None);
        }
        let batch = Batch::at(now, rows).weighing(weight);
        batch.with_origins(Origins::one_each(Arc::clone(&self.place), messages)).map(Some)
    }

    fn position(&self) -> FilePosition {
        self.at
    }
}

/// A sink that writes the payload of each record, and a line end unless it has one; what a checkpoint holds is synced to
/// the disk. Payloads must be lines, one or several: what makes them sees to it.
#[derive(Debug)]
pub struct FileSink {
    path: PathBuf,
    start: FileStart,
    single: bool,
    file: Option<BufWriter<File>>,
}

/// What a [`FileSink`] does with what is in its file already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileStart {
    /// It goes: the file begins anew.
    Anew,
    /// It stays. A last line without a line end gets one, so that no row is glued to it.
    Append,
    /// It is the sink's own work, up to the last line end: a run was killed, and what it wrote behind that comes again.
    Continue,
}

impl FileSink {
    /// A sink that writes to `path`.
    pub fn new(path: impl Into<PathBuf>, start: FileStart) -> Self {
        FileSink { path: path.into(), start, single: false, file: None }
    }

    /// The same, where a payload that is more than one line is a fault: for payloads that nobody has seen to.
    #[must_use]
    pub fn of_single_lines(self) -> Self {
        FileSink { single: true, ..self }
    }

    /// Sees to a last line that has no end.
    async fn mend(&self, file: &mut File) -> std::io::Result<()> {
        let about = file.metadata().await?;
        // A pipe or a terminal holds nothing.
        if self.start == FileStart::Anew || !about.is_file() || about.len() == 0 {
            return Ok(());
        }
        let whole = whole_lines(&mut File::open(&self.path).await?, about.len()).await?;
        if whole == about.len() {
            return Ok(());
        }
        match self.start {
            FileStart::Continue => file.set_len(whole).await,
            FileStart::Append | FileStart::Anew => file.write_all(b"\n").await,
        }
    }

    fn fault(&self, what: &str, error: std::io::Error) -> Fault {
        Fault::new(FaultKind::Connection, format!("{} {what}", self.path.display())).because(error)
    }
}

/// Adds a payload, and a line end unless it has one.
pub(super) fn add_lines(lines: &mut Vec<u8>, payload: &[u8]) {
    lines.extend_from_slice(payload);
    if !payload.ends_with(b"\n") {
        lines.push(b'\n');
    }
}

/// How many of the bytes of a file are in lines that have an end; it is read from behind.
async fn whole_lines(file: &mut File, length: u64) -> std::io::Result<u64> {
    const PART: u64 = 64 << 10;
    let mut end = length;
    while end > 0 {
        let from = end.saturating_sub(PART);
        file.seek(std::io::SeekFrom::Start(from)).await?;
        let mut part = Vec::new();
        (&mut *file).take(end - from).read_to_end(&mut part).await?;
        if let Some(at) = part.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

impl Sink for FileSink {
    type In = Vec<Record>;

    async fn open(&mut self) -> Result {
        let anew = self.start == FileStart::Anew;
        let mut options = OpenOptions::new();
        options.create(true).write(true).append(!anew).truncate(anew);
        let file = options.open(&self.path).await;
        let mut file =
            file.map_err(|error| self.fault("cannot be opened for writing", error).retry_with(Retry::Never))?;
        let mended = self.mend(&mut file).await;
        mended.map_err(|error| self.fault("cannot be gone on with", error).retry_with(Retry::Never))?;
        self.file = Some(BufWriter::with_capacity(256 << 10, file));
        Ok(())
    }

    async fn write(&mut self, batch: Batch<Vec<Record>>) -> Result {
        let Some(file) = self.file.as_mut() else { return Err(Fault::bug("a file sink was not opened")) };
        let mut lines = Vec::with_capacity(batch.weight() + batch.len());
        for record in batch.rows() {
            if self.single && record.payload.strip_suffix(b"\n").unwrap_or(&record.payload).contains(&b'\n') {
                let words = format!(
                    "{} takes a line a message, and one of {} bytes has line breaks: leave the sink that the file stands in \
                     for where it was, or write JSON there",
                    self.path.display(),
                    record.payload.len()
                );
                return Err(Fault::new(FaultKind::Setup, words).retry_with(Retry::Never));
            }
            add_lines(&mut lines, &record.payload);
        }
        match file.write_all(&lines).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.fault("cannot be written", error)),
        }
    }

    async fn flush(&mut self, _: Epoch) -> Result {
        let Some(file) = self.file.as_mut() else { return Ok(()) };
        let flushed = match file.flush().await {
            Ok(()) => file.get_ref().sync_data().await,
            Err(error) => Err(error),
        };
        // A pipe or a terminal cannot be synced, and need not be.
        match flushed {
            Err(error) if error.kind() != std::io::ErrorKind::InvalidInput => {
                Err(self.fault("cannot be written", error))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use millstream_operators::Timestamp;

    use super::*;

    fn clock() -> Clock {
        Clock::starting_at(Timestamp::from_millis(0))
    }

    async fn all(source: &mut FileSource, at_once: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(batch) = source.next(at_once).await.unwrap() {
            lines.extend(batch.rows().iter().map(|row| String::from_utf8(row.to_vec()).unwrap()));
        }
        lines
    }

    #[tokio::test]
    async fn gives_lines_with_their_numbers_and_goes_on_where_it_stood() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in.ndjson");
        std::fs::write(&path, "one\r\n\ntwo\nthree").unwrap();
        let mut source = FileSource::new("in", &path, clock());
        source.open(None).await.unwrap();
        let first = source.next(1).await.unwrap().unwrap();
        assert_eq!((&first.rows()[0][..], first.origins().unwrap().get(0).unwrap().sequence), (&b"one"[..], 1));
        let position = source.position();
        assert_eq!(all(&mut source, 10).await, ["two", "three"]);
        let mut again = FileSource::new("in", &path, clock());
        again.open(Some(position)).await.unwrap();
        assert_eq!(all(&mut again, 1).await, ["two", "three"]);
    }

    #[tokio::test]
    async fn a_file_that_shrank_is_a_lost_source() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in.ndjson");
        std::fs::write(&path, "one\n").unwrap();
        let mut source = FileSource::new("in", &path, clock());
        let fault = source.open(Some(FilePosition { lines: 9, bytes: 900 })).await.unwrap_err();
        assert_eq!((fault.kind(), fault.retry()), (FaultKind::SourceLost, Retry::Never));
    }

    #[tokio::test]
    async fn writes_a_line_a_record() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.ndjson");
        for _ in 0..2 {
            write(&path, FileStart::Append, &["a", "b"]).await;
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\nb\na\nb\n");
    }

    #[tokio::test]
    async fn lines_have_one_end_and_what_is_more_than_a_line_is_refused_where_nobody_has_seen_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.ndjson");
        write(&path, FileStart::Anew, &["a\nb\n", "c", "", "d\n"]).await;
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a\nb\nc\n\nd\n");
        let mut sink = FileSink::new(&path, FileStart::Anew).of_single_lines();
        sink.open().await.unwrap();
        let batch = |text| Batch::at(Timestamp::MIN, vec![Record::of(text)]);
        sink.write(batch("a\n")).await.unwrap();
        let fault = sink.write(batch("a\nb")).await.unwrap_err();
        assert!(fault.to_string().contains("line breaks") && fault.retry() == Retry::Never, "{fault}");
    }

    async fn write(path: &std::path::Path, start: FileStart, rows: &'static [&'static str]) {
        let mut sink = FileSink::new(path, start);
        sink.open().await.unwrap();
        sink.write(Batch::at(Timestamp::MIN, rows.iter().map(|row| Record::of(*row)).collect())).await.unwrap();
        sink.flush(Epoch(1)).await.unwrap();
    }

    #[tokio::test]
    async fn a_last_line_without_an_end_is_ended_or_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.ndjson");
        let long = "x".repeat(200_000);
        for (before, start, after) in [
            ("a\ntorn", FileStart::Append, "a\ntorn\nnew\n".to_owned()),
            ("a\ntorn", FileStart::Continue, "a\nnew\n".to_owned()),
            ("a\ntorn", FileStart::Anew, "new\n".to_owned()),
            ("torn", FileStart::Continue, "new\n".to_owned()),
            ("a\n", FileStart::Continue, "a\nnew\n".to_owned()),
            ("", FileStart::Append, "new\n".to_owned()),
            (&format!("a\n{long}"), FileStart::Continue, "a\nnew\n".to_owned()),
            (&format!("a\n{long}"), FileStart::Append, format!("a\n{long}\nnew\n")),
        ] {
            std::fs::write(&path, before).unwrap();
            write(&path, start, &["new"]).await;
            assert!(std::fs::read_to_string(&path).unwrap() == after, "{start:?} of {before:.20}");
        }
    }
}
