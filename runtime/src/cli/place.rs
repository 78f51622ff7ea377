//! [`Place`]: where checkpoints are kept when they are not on the server.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Deserialize;

use crate::checkpoint::{S3Options, SCHEME};

/// A directory, or a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum Place {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A bucket, as `s3://BUCKET/PREFIX`.
    Bucket(String),
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !text.starts_with(SCHEME) {
            return match text.split_once("://") {
                Some(_) => {
                    Err(format!("{text:?} is no place for checkpoints: name a directory, or s3://BUCKET/PREFIX"))
                }
                None if text.is_empty() => Err("name a directory, or s3://BUCKET/PREFIX".to_owned()),
                None => Ok(Place::Directory(text.into())),
            };
        }
        if cfg!(not(feature = "s3")) {
            let way = "build it with `cargo build --release --features s3`";
            return Err(format!("this build of millstream keeps no checkpoints in {text}: {way}"));
        }
        S3Options::to(text).map_err(|fault| fault.to_string())?;
        Ok(Place::Bucket(text.to_owned()))
    }
}

impl TryFrom<String> for Place {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Directory(path) => write!(f, "{}", path.display()),
            Place::Bucket(url) => f.write_str(url),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_directory_or_a_bucket_and_what_is_neither_says_so() {
        assert_eq!("ckpt/orders".parse(), Ok(Place::Directory("ckpt/orders".into())));
        for wrong in ["", "https://a/b", "gs://bucket"] {
            let error = wrong.parse::<Place>().unwrap_err();
            assert!(error.contains("s3://BUCKET/PREFIX"), "{error}");
        }
        let bucket = "s3://ckpt/prod".parse::<Place>();
        if cfg!(feature = "s3") {
            assert_eq!(bucket, Ok(Place::Bucket("s3://ckpt/prod".to_owned())));
            assert!("s3://".parse::<Place>().unwrap_err().contains("names no bucket"));
        } else {
            assert!(bucket.unwrap_err().contains("--features s3"));
        }
    }
}
