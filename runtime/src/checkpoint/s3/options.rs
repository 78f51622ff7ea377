//! [`S3Options`]: how to reach a bucket, as written in the `[s3]` table of the settings.

use std::path::PathBuf;

use millstream_operators::{Fault, FaultKind};
use serde::Deserialize;

use crate::broker::Secret;

/// The scheme of a place that is a bucket.
pub(crate) const SCHEME: &str = "s3://";

/// A bucket of S3, or of a service that speaks its protocol, and how to reach it. What the options leave open is as the
/// environment variables `AWS_*` say; the identity (key, secret, token) comes from one of both, never mixed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct S3Options {
    /// The bucket; it must be there.
    #[serde(skip)]
    pub bucket: String,
    /// What comes before the names of all objects, without a slash at its ends; nothing if empty.
    #[serde(skip)]
    pub prefix: String,
    /// Where the service answers, such as `https://objects.internal:9000`; AWS in the region if not given.
    pub endpoint: Option<String>,
    /// The region; `us-east-1` if not given.
    pub region: Option<String>,
    /// The key's id; if neither this nor the environment has one, the machine's own role is asked for.
    pub access_key_id: Option<String>,
    /// The key.
    pub secret_access_key: Option<Secret>,
    /// What goes with a key for some hours.
    pub session_token: Option<Secret>,
    /// The bucket is in the name of the host, not in the path.
    pub virtual_hosted: bool,
    /// Accepts an endpoint without TLS that is not on this machine.
    pub allow_http: bool,
    /// A file with the certificates of authorities to trust besides the system's.
    pub ca: Option<PathBuf>,
}

impl S3Options {
    /// The bucket and the prefix that a text such as `s3://BUCKET/PREFIX` names.
    ///
    /// # Errors
    /// It names none.
    pub fn to(url: &str) -> Result<Self, Fault> {
        S3Options::default().at(url)
    }

    /// The same options for the bucket and the prefix that `url` names.
    pub(crate) fn at(mut self, url: &str) -> Result<Self, Fault> {
        let wrong = |what: &str| {
            let words = format!("{url:?} {what}: write the place of checkpoints as s3://BUCKET or s3://BUCKET/PREFIX");
            Err(Fault::new(FaultKind::Setup, words))
        };
        let Some(place) = url.strip_prefix(SCHEME) else { return wrong("is no bucket of S3") };
        let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
        let prefix = prefix.trim_end_matches('/');
        if bucket.is_empty() || !bucket.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)) {
            return wrong("names no bucket");
        }
        let sound = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!-_.'()=".contains(&byte))
        };
        if !prefix.is_empty() && !prefix.split('/').all(sound) {
            return wrong("has a prefix that is not letters, digits, - and _ between slashes");
        }
        (self.bucket, self.prefix) = (bucket.to_owned(), prefix.to_owned());
        Ok(self)
    }

    /// The place as [`to`](S3Options::to) reads it.
    #[cfg(any(feature = "s3", test))]
    pub(crate) fn shown(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("{SCHEME}{}{slash}{}", self.bucket, self.prefix)
    }

    /// Whether they say who to be.
    #[cfg(feature = "s3")]
    pub(super) fn authenticates(&self) -> bool {
        self.access_key_id.is_some() || self.secret_access_key.is_some() || self.session_token.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_and_what_comes_before_all_names() {
        let whole = S3Options::to("s3://ckpt/prod/eu/").unwrap();
        assert_eq!((whole.bucket.as_str(), whole.prefix.as_str()), ("ckpt", "prod/eu"));
        assert_eq!(whole.shown(), "s3://ckpt/prod/eu");
        assert_eq!(S3Options::to("s3://ckpt").unwrap().shown(), "s3://ckpt");
        for wrong in ["ckpt", "s3://", "s3:///a", "s3://a b", "s3://a/b//c", "s3://a/../b", "s3://a/b?c", "gs://a"] {
            let fault = S3Options::to(wrong).unwrap_err().to_string();
            assert!(fault.contains(wrong) && fault.contains("s3://BUCKET/PREFIX"), "{fault}");
        }
    }
}
