//! [`Size`]: how much a benchmark over JetStream does.

use crate::Failed;

/// A payload begins with the number of its message, in so many digits.
pub(crate) const LEAST_BYTES: usize = 12;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Messages of a run.
    pub messages: u64,
    /// In which all take their turns.
    pub rounds: usize,
    /// Of a payload.
    pub bytes: usize,
}

impl Size {
    /// What the command line says.
    ///
    /// # Errors
    /// It says something else, or something that is no number.
    pub fn from_arguments() -> Result<Size, Failed> {
        let mut size = Size { messages: 300_000, rounds: 3, bytes: 128 };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a number"))?;
            let number: u64 = value.parse().map_err(|_| format!("{name} needs a number, not {value:?}"))?;
            match name.as_str() {
                "--messages" => size.messages = number.max(1),
                "--rounds" => size.rounds = usize::try_from(number)?.max(1),
                "--bytes" => size.bytes = usize::try_from(number)?.max(LEAST_BYTES),
                other => {
                    let words =
                        format!("{other} is not known: use --messages, --rounds or --bytes, each with a number");
                    return Err(words.into());
                }
            }
        }
        Ok(size)
    }
}
