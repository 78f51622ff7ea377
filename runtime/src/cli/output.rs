//! What a command says: results on the standard output, everything else on the standard error.

use std::io::{self, IsTerminal as _, Write as _};

/// Prints a result. A reader that has left (`millstream explain … | head`) is no error.
pub(super) fn print(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = out.write_all(b"\n");
    }
    let _ = out.flush();
}

/// Says something beside the result.
pub(super) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Says why the program ends.
pub(super) fn error(text: &str) {
    let word = if colour(&io::stderr()) { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    // A report of mistakes begins with the word itself.
    say(&format!("{word} {}", text.strip_prefix("error: ").unwrap_or(text)));
}

/// Whether colours are welcome there.
pub(super) fn colour(to: &impl io::IsTerminal) -> bool {
    to.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether somebody can be asked.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// A number with commas: 1,204.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes as people read them: 1.2 MB.
pub(super) fn bytes(number: u64) -> String {
    scaled(number as f64, &[" B", " kB", " MB", " GB", " TB"])
}

/// A rate, short: 12.3k.
pub(super) fn short(number: f64) -> String {
    scaled(number, &["", "k", "M", "G"])
}

fn scaled(mut number: f64, units: &[&str]) -> String {
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or("");
    while number >= 999.95 {
        let Some(next) = units.next() else { break };
        number /= 1_000.0;
        unit = next;
    }
    let whole = number >= 99.95 || (number - number.round()).abs() < 0.05;
    if whole { format!("{number:.0}{unit}") } else { format!("{number:.1}{unit}") }
}

/// A span of time as people read it: 1.2 ms, 3 s, 2 h.
pub(super) fn span(span: std::time::Duration) -> String {
    let seconds = span.as_secs_f64();
    match seconds {
        _ if seconds >= 2.0 * 86_400.0 => format!("{:.0} d", seconds / 86_400.0),
        _ if seconds >= 2.0 * 3_600.0 => format!("{:.0} h", seconds / 3_600.0),
        _ if seconds >= 120.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds >= 1.0 => scaled(seconds, &[" s"]),
        _ if seconds >= 0.001 => scaled(seconds * 1e3, &[" ms"]),
        _ if seconds > 0.0 => scaled(seconds * 1e6, &[" µs"]),
        _ => "0 s".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_are_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 999, 1_000, 1_250, 5_000_000].map(bytes), ["0 B", "999 B", "1 kB", "1.2 kB", "5 MB"]);
        assert_eq!([0.0, 12.34, 123.4, 12_345.0, 999_960.0].map(short), ["0", "12.3", "123", "12.3k", "1M"]);
        let spans = [0, 250, 1_200, 3_000_000, 150_000_000, 7_200_000_000].map(Duration::from_micros).map(span);
        assert_eq!(spans, ["0 s", "250 µs", "1.2 ms", "3 s", "2 min", "2 h"]);
    }
}
