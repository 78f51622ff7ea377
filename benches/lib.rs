//! What the benchmarks share.

mod cost;
mod piped;
mod reader;
mod running;
mod size;
mod streams;

pub use cost::Cost;
pub use piped::piped;
pub use reader::{Reader, connect, waiting};
pub use running::running;
pub use size::Size;
pub use streams::{OUT_SUBJECT, Streams, Takes};

/// Whatever ends a benchmark; it is for people only.
pub type Failed = Box<dyn std::error::Error + Send + Sync>;

/// The value in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.len() % 2, values.get(middle), middle.checked_sub(1).and_then(|below| values.get(below))) {
        (0, Some(above), Some(below)) => (above + below) / 2.0,
        (_, Some(value), _) => *value,
        _ => f64::NAN,
    }
}

/// How many rounds a benchmark has: `usual`, or what `--rounds` says.
///
/// # Errors
/// The command line has something else, or something that is not a number.
pub fn rounds(usual: usize) -> Result<usize, String> {
    number_of(std::env::args().skip(1), "--rounds", usual)
}

/// How many keys a benchmark has: `usual`, or what `--keys` says.
///
/// # Errors
/// The command line has something else, or something that is not a number.
pub fn keys(usual: usize) -> Result<usize, String> {
    number_of(std::env::args().skip(1), "--keys", usual)
}

fn number_of(mut arguments: impl Iterator<Item = String>, known: &str, usual: usize) -> Result<usize, String> {
    let mut number = usual;
    while let Some(name) = arguments.next() {
        if name != known {
            return Err(format!("{name} is not known: use {known} with a number"));
        }
        let value = arguments.next().ok_or_else(|| format!("{known} needs a number"))?;
        number = value.parse().map_err(|_| format!("{known} needs a number, not {value:?}"))?;
    }
    Ok(number.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(words: &str) -> Result<usize, String> {
        number_of(words.split_whitespace().map(str::to_owned), "--rounds", 7)
    }

    #[test]
    fn the_median_of_an_even_number_of_values_lies_between_the_two_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn rounds_are_as_usual_unless_the_command_line_says_otherwise() {
        assert_eq!(given(""), Ok(7));
        assert_eq!(given("--rounds 1"), Ok(1));
        assert_eq!(given("--rounds 0"), Ok(1));
        assert_eq!(given("--round 1").unwrap_err(), "--round is not known: use --rounds with a number");
        assert_eq!(given("--rounds").unwrap_err(), "--rounds needs a number");
        assert_eq!(given("--rounds few").unwrap_err(), "--rounds needs a number, not \"few\"");
    }
}
