//! [`Screen`]: the standard error, with one line at its bottom that is drawn anew.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// Where logs and the live line go together without tearing each other up. Clones are the same screen.
#[derive(Clone)]
pub(in crate::cli) struct Screen(Arc<Mutex<Lines>>);

struct Lines {
    out: Box<dyn Write + Send>,
    terminal: bool,
    /// The live line as it stands there; empty for none.
    line: String,
}

// To the start of the line, and all of it away.
const CLEAR: &str = "\r\x1b[2K";

impl Screen {
    /// The standard error.
    pub(in crate::cli) fn stderr() -> Self {
        let terminal = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Screen::on(Box::new(io::stderr()), terminal)
    }

    fn on(out: Box<dyn Write + Send>, terminal: bool) -> Self {
        Screen(Arc::new(Mutex::new(Lines { out, terminal, line: String::new() })))
    }

    /// Whether a live line can be drawn.
    pub(in crate::cli) fn is_terminal(&self) -> bool {
        self.lines().terminal
    }

    /// How many columns there are.
    pub(super) fn width() -> usize {
        terminal_size::terminal_size_of(io::stderr()).map_or(80, |(width, _)| usize::from(width.0))
    }

    /// Draws the live line in place of the one before; an empty one takes it away.
    pub(super) fn draw(&self, line: &str) {
        let mut lines = self.lines();
        if lines.terminal {
            line.clone_into(&mut lines.line);
            // A screen that is gone is no reason to stop the pipeline.
            let _ = lines.out.write_all(format!("{CLEAR}{line}").as_bytes()).and_then(|()| lines.out.flush());
        }
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Screen {
    /// Writes whole lines above the live one.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut lines = self.lines();
        if lines.line.is_empty() {
            return lines.out.write_all(text).map(|()| text.len());
        }
        // One write: a terminal that draws between two would flicker.
        let all = [CLEAR.as_bytes(), text, lines.line.as_bytes()].concat();
        lines.out.write_all(&all)?;
        lines.out.flush().map(|()| text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lines().out.flush()
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Screen")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_line_goes_above_the_live_line() {
        let paper = Paper::default();
        let mut screen = Screen::on(Box::new(paper.clone()), true);
        screen.draw("live");
        screen.write_all(b"log\n").unwrap();
        screen.draw("");
        let text = String::from_utf8(paper.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.replace(CLEAR, "|"), "|live|log\nlive|");
    }

    #[test]
    fn nothing_is_drawn_where_there_is_no_terminal() {
        let paper = Paper::default();
        let mut screen = Screen::on(Box::new(paper.clone()), false);
        screen.draw("live");
        screen.write_all(b"log\n").unwrap();
        assert_eq!(paper.0.lock().unwrap().as_slice(), b"log\n");
    }
}
