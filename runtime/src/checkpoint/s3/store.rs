//! [`S3Store`]: keeps checkpoints in a bucket.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use millstream_operators::{Fault, FaultKind, Timestamp};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key, S3ConditionalPut};
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, RetryConfig};

use super::https::Https;
use super::options::S3Options;
use crate::broker::Secret;
use crate::checkpoint::segment::BlobId;
use crate::checkpoint::store::{Blob, Revision, Store, StoreError, Stored, is_it, taken};

/// Checkpoints as objects of a bucket, under `PREFIX/<pipeline>/`: manifests as `manifests/<revision>`, what they speak of
/// as `segments/<sha256>`, savepoints as `savepoints/<name>`. The manifests of the two revisions before the newest stay.
///
/// Compare-and-set holds because the name of a revision can be taken only once: the service must honour `If-None-Match: *`,
/// which is tried at the first write, and must list what was written as soon as it is written.
#[derive(Clone)]
pub struct S3Store {
    bucket: Arc<dyn ObjectStore>,
    options: Arc<S3Options>,
    // That it refuses to overwrite was seen.
    honours: Arc<AtomicBool>,
}

/// So many manifests are kept.
const MANIFESTS: u64 = 3;
/// The highest revision has so many.
const DIGITS: usize = 20;
const LOOKS: usize = 3;
/// The client tries again so often; then whoever asked decides.
const TRIES: usize = 3;
const TRYING: Duration = Duration::from_secs(20);

const NOT_HONOURED: &str = "does not honour `If-None-Match: *`, so that two instances of a pipeline would not notice each other: \
                            use a service that honours conditional writes, or keep checkpoints elsewhere";

impl S3Store {
    /// A store in the bucket that the options name. Nothing is asked of it yet.
    ///
    /// # Errors
    /// The options, or the environment's, contradict each other.
    pub fn new(options: S3Options) -> Result<Self, Fault> {
        let wrong = |words: String| Fault::new(FaultKind::Setup, format!("{}: {words}", options.shown()));
        let mut builder = AmazonS3Builder::new();
        for (name, value) in std::env::vars_os() {
            let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else { continue };
            let Some(key) = name.starts_with("AWS_").then(|| name.to_ascii_lowercase().parse().ok()).flatten() else {
                continue;
            };
            let identity = matches!(key, Key::AccessKeyId | Key::SecretAccessKey | Key::Token);
            if !(value.is_empty() || identity && options.authenticates()) {
                builder = builder.with_config(key, value);
            }
        }
        let said = [
            (Key::Region, options.region.as_deref()),
            (Key::S3Endpoint, options.endpoint.as_deref()),
            (Key::AccessKeyId, options.access_key_id.as_deref()),
            (Key::SecretAccessKey, options.secret_access_key.as_ref().map(Secret::reveal)),
            (Key::Token, options.session_token.as_ref().map(Secret::reveal)),
        ];
        for (key, value) in said {
            builder = value.into_iter().fold(builder, |builder, value| builder.with_config(key, value));
        }
        let endpoint = builder.get_config_value(&Key::S3Endpoint).or(builder.get_config_value(&Key::Endpoint));
        let mut loopback = false;
        if let Some(endpoint) = endpoint {
            let host = endpoint.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"));
            let Some((scheme, host)) = host else {
                return Err(wrong(format!("`endpoint` {endpoint:?} is no URL: write it as https://HOST:PORT")));
            };
            loopback = is_loopback(host);
            if scheme == "http" && !loopback && !options.allow_http {
                let way = "use https, or accept with `allow_http = true` that state travels open";
                return Err(wrong(format!("`endpoint` {endpoint:?} is not encrypted: {way}")));
            }
            if options.virtual_hosted || is_said(builder.get_config_value(&Key::VirtualHostedStyleRequest)) {
                let bucket = format!("{}.", options.bucket);
                // The variable goes with an endpoint that has the bucket in it already.
                if options.virtual_hosted || !host.starts_with(&bucket) {
                    builder = builder.with_config(Key::S3Endpoint, format!("{scheme}://{bucket}{host}"));
                }
            }
        }
        if options.virtual_hosted {
            builder = builder.with_virtual_hosted_style_request(true);
        }
        let retry = RetryConfig { max_retries: TRIES, retry_timeout: TRYING, ..RetryConfig::default() };
        let bucket = builder
            .with_bucket_name(&options.bucket)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_retry(retry)
            .with_http_connector(Https::new(options.ca.as_deref(), loopback)?)
            .build()
            .map_err(|error| wrong("the bucket cannot be used".to_owned()).because(error))?;
        Ok(S3Store::over(Arc::new(bucket), options))
    }

    /// A store over a bucket that is there already.
    pub(super) fn over(bucket: Arc<dyn ObjectStore>, options: S3Options) -> Self {
        S3Store { bucket, options: Arc::new(options), honours: Arc::default() }
    }

    pub(super) fn folder(&self, pipeline: &str, kind: &str) -> Path {
        Path::from(format!("{}/{pipeline}/{kind}", self.options.prefix))
    }

    fn name(&self, pipeline: &str, revision: Revision) -> Path {
        // In the order of revisions for whoever looks at the bucket.
        self.folder(pipeline, "manifests").join(format!("{:0DIGITS$}", revision.0))
    }

    pub(super) fn segment(&self, pipeline: &str, id: BlobId) -> Path {
        self.folder(pipeline, "segments").join(id.to_string())
    }

    /// Takes the name, unless it is taken.
    async fn create(&self, name: &Path, bytes: &Bytes) -> Result<(), Error> {
        self.bucket.put_opts(name, bytes.clone().into(), PutMode::Create.into()).await.map(drop)
    }

    pub(super) async fn overwrite(&self, name: &Path, bytes: Bytes) -> Result<(), StoreError> {
        self.bucket.put(name, bytes.into()).await.map(drop).map_err(|error| self.failed(&error))
    }

    pub(super) async fn load(&self, name: &Path) -> Result<Option<Bytes>, StoreError> {
        let loading = async { self.bucket.get(name).await?.bytes().await };
        match loading.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn delete(&self, name: &Path) -> Result<(), StoreError> {
        match self.bucket.delete(name).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn list(&self, folder: &Path) -> Result<Vec<ObjectMeta>, StoreError> {
        self.bucket.list(Some(folder)).try_collect().await.map_err(|error| self.failed(&error))
    }

    /// The revisions of manifests that are there, the newest first.
    async fn revisions(&self, pipeline: &str) -> Result<Vec<Revision>, StoreError> {
        let objects = self.list(&self.folder(pipeline, "manifests")).await?;
        let revision = |object: ObjectMeta| {
            let name = object.location.filename().filter(|name| name.len() == DIGITS)?;
            name.parse().ok().map(Revision)
        };
        let mut revisions: Vec<Revision> = objects.into_iter().filter_map(revision).collect();
        revisions.sort_unstable_by(|a, b| b.cmp(a));
        Ok(revisions)
    }

    async fn commit(&self, pipeline: &str, expected: Revision, manifest: Bytes) -> Result<Revision, StoreError> {
        // Such an object is not ours; whoever wrote it did so on purpose.
        let next = Revision(expected.0.checked_add(1).ok_or(StoreError::Fenced)?);
        let name = self.name(pipeline, next);
        match self.create(&name, &manifest).await {
            Ok(()) => {}
            // The client tries again by itself, and so does who calls: what is in the way may be what we have written.
            Err(error @ Error::AlreadyExists { .. }) => match self.load(&name).await? {
                Some(there) if there == manifest => {}
                Some(_) => return Err(StoreError::Fenced),
                None => return Err(StoreError::Unknown(self.fault("another write is under way").because(error))),
            },
            Err(error) => return Err(self.not_created(&error)),
        }
        self.distrust(&name, &manifest).await?;
        // The name was free also for whoever slept while others wrote so much that it was let go again.
        let there = self.revisions(pipeline).await?;
        if there.first() != Some(&next) {
            return Err(StoreError::Fenced);
        }
        // Or while all was removed, and begun anew.
        if expected != Revision(0) && there.get(1) != Some(&expected) {
            self.delete(&name).await?;
            return Err(StoreError::Fenced);
        }
        for old in there.iter().filter(|old| next.0.saturating_sub(old.0) >= MANIFESTS) {
            // One that stays is deleted the next time.
            let _ = self.delete(&self.name(pipeline, *old)).await;
        }
        Ok(next)
    }

    /// Sees once whether the service refuses to overwrite, with the same bytes, so that it does no harm if it does not.
    async fn distrust(&self, name: &Path, bytes: &Bytes) -> Result<(), StoreError> {
        if self.honours.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.create(name, bytes).await {
            Err(Error::AlreadyExists { .. }) => {
                self.honours.store(true, Ordering::Relaxed);
                Ok(())
            }
            Ok(()) => {
                let words = format!("{} {NOT_HONOURED}", self.options.shown());
                Err(StoreError::Failed(Fault::new(FaultKind::Setup, words)))
            }
            Err(error) => Err(self.not_created(&error)),
        }
    }

    async fn keep(&self, pipeline: &str, id: BlobId, bytes: Bytes) -> Result<(), StoreError> {
        let name = self.segment(pipeline, id);
        let error = match self.create(&name, &bytes).await {
            Ok(()) => return Ok(()),
            Err(error @ Error::AlreadyExists { .. }) => error,
            Err(error) => return Err(self.not_created(&error)),
        };
        match self.load(&name).await? {
            Some(there) if BlobId::of(&there) == id => Ok(()),
            Some(damaged) => {
                // Kept, for whoever wants to know how, but not under this name.
                self.overwrite(&self.folder(pipeline, "segments").join(format!("{id}.damaged")), damaged).await?;
                self.overwrite(&name, bytes).await
            }
            None => Err(StoreError::Unknown(self.fault("another write is under way").because(error))),
        }
    }

    async fn load_all(&self, pipeline: &str) -> Result<Vec<(Revision, Bytes)>, StoreError> {
        let mut all = Vec::new();
        for revision in self.revisions(pipeline).await? {
            // One may be let go between the list and the look.
            let loaded = self.load(&self.name(pipeline, revision)).await?;
            all.extend(loaded.map(|bytes| (revision, bytes)));
        }
        Ok(all)
    }

    /// What an error means for whoever wanted to take a name.
    fn not_created(&self, error: &Error) -> StoreError {
        match status(error) {
            Some(501 | 505) => {
                let words = format!("{} {NOT_HONOURED}", self.options.shown());
                StoreError::Failed(Fault::new(FaultKind::Setup, words).because(in_words(error)))
            }
            _ => self.failed(error),
        }
    }

    /// What an error means for whoever asked.
    fn failed(&self, error: &Error) -> StoreError {
        let status = match error {
            Error::NotFound { .. } => Some(404),
            Error::Unauthenticated { .. } | Error::PermissionDenied { .. } => Some(403),
            // It comes as any wrong request does.
            Error::Generic { .. } if error.to_string().contains("<Code>ExpiredToken") => Some(403),
            Error::Generic { .. } => status(error),
            Error::JoinError { .. } | Error::AlreadyExists { .. } => None,
            _ => Some(400),
        };
        let (kind, words) = match status {
            Some(404) => (FaultKind::Setup, "is not there: create the bucket, or correct its name or the endpoint"),
            Some(501 | 505) => (FaultKind::Setup, "does not know what is asked of it: it lacks a part of S3"),
            Some(401 | 403) => (
                FaultKind::Permission,
                "refuses this user: check key, secret and region, and its rights to list, get, put and delete",
            ),
            None | Some(408 | 409 | 425 | 429 | 500..) => {
                return StoreError::Unknown(self.fault("does not answer").because(in_words(error)));
            }
            Some(_) => (FaultKind::Setup, "refuses what is asked of it: check endpoint, region and bucket"),
        };
        StoreError::Failed(Fault::new(kind, format!("{} {words}", self.options.shown())).because(in_words(error)))
    }

    fn fault(&self, what: &str) -> Fault {
        Fault::new(FaultKind::Connection, format!("{} {what}", self.options.shown()))
    }
}

/// Whether a variable says yes.
fn is_said(value: Option<String>) -> bool {
    value.is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "on" | "yes" | "y"))
}

/// Whether a host, perhaps with a port and a path, is this machine.
fn is_loopback(host: &str) -> bool {
    let host = host.split('/').next().unwrap_or_default();
    let host = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What the client says, and what lies at the ground of it; it says all but that again and again.
fn in_words(error: &Error) -> String {
    let mut words = error.to_string();
    let mut ground: &dyn std::error::Error = error;
    while let Some(beneath) = ground.source() {
        ground = beneath;
    }
    let ground = ground.to_string();
    if !words.contains(&ground) {
        words.push_str(": ");
        words.push_str(&ground);
    }
    without_body(&words)
}

/// Of the body of an answer only its code and message: some services repeat the token there.
pub(super) fn without_body(words: &str) -> String {
    let begin = ["<?xml", "<Error", "<error", "<html", "<!DOCTYPE"].iter().filter_map(|tag| words.find(tag)).min();
    let Some((before, body)) = begin.and_then(|begin| words.split_at_checked(begin)) else { return words.to_owned() };
    let of = |tag: &str| Some(body.split_once(&format!("<{tag}>"))?.1.split_once("</")?.0);
    let said: Vec<&str> = ["Code", "Message"].into_iter().filter_map(of).collect();
    format!("{before}{}", said.join(": "))
}

/// With what status the service has answered, if it has: the client tells it in words alone.
fn status(error: &Error) -> Option<u16> {
    let words = error.to_string();
    if words.contains("redirect without LOCATION") {
        return Some(301);
    }
    words.split_once("status code: ")?.1.get(..3)?.parse().ok()
}

impl fmt::Debug for S3Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3Store({})", self.options.shown())
    }
}

impl Store for S3Store {
    fn read<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Option<(Revision, Bytes)>> {
        Box::pin(async move {
            for _ in 0..LOOKS {
                let Some(newest) = self.revisions(pipeline).await?.into_iter().next() else { return Ok(None) };
                // Several more may be written between the list and the look.
                if let Some(bytes) = self.load(&self.name(pipeline, newest)).await? {
                    return Ok(Some((newest, bytes)));
                }
            }
            Err(StoreError::Unknown(self.fault("changes under the look at it")))
        })
    }

    fn write<'a>(&'a self, pipeline: &'a str, expected: Revision, manifest: Bytes) -> Stored<'a, Revision> {
        Box::pin(self.commit(pipeline, expected, manifest))
    }

    fn history<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<(Revision, Bytes)>> {
        Box::pin(self.load_all(pipeline))
    }

    fn put<'a>(&'a self, pipeline: &'a str, id: BlobId, bytes: Bytes) -> Stored<'a, ()> {
        Box::pin(self.keep(pipeline, id, bytes))
    }

    fn get<'a>(&'a self, pipeline: &'a str, id: BlobId) -> Stored<'a, Option<Bytes>> {
        Box::pin(async move { self.load(&self.segment(pipeline, id)).await })
    }

    fn blobs<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<Blob>> {
        Box::pin(async move {
            let objects = self.list(&self.folder(pipeline, "segments")).await?;
            let blob = |object: ObjectMeta| {
                let stored_at = Timestamp::from_micros(object.last_modified.timestamp_micros());
                Some(Blob { id: object.location.filename()?.parse().ok()?, size: object.size, stored_at })
            };
            Ok(objects.into_iter().filter_map(blob).collect())
        })
    }

    fn forget<'a>(&'a self, pipeline: &'a str, id: BlobId) -> Stored<'a, ()> {
        Box::pin(async move { self.delete(&self.segment(pipeline, id)).await })
    }

    fn save<'a>(&'a self, pipeline: &'a str, name: &'a str, manifest: Bytes) -> Stored<'a, bool> {
        Box::pin(async move {
            let name = self.folder(pipeline, "savepoints").join(name);
            match self.create(&name, &manifest).await {
                Ok(()) => Ok(true),
                Err(Error::AlreadyExists { .. }) => is_it(self.load(&name).await?, &manifest),
                Err(error) => Err(self.failed(&error)),
            }
        })
    }

    fn saved<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Vec<(String, Bytes)>> {
        Box::pin(async move {
            let mut saved = Vec::new();
            for object in self.list(&self.folder(pipeline, "savepoints")).await? {
                let Some(name) = object.location.filename() else { continue };
                let loaded = self.load(&object.location).await?;
                saved.extend(loaded.map(|bytes| (name.to_owned(), bytes)));
            }
            saved.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
            Ok(saved)
        })
    }

    fn unsave<'a>(&'a self, pipeline: &'a str, name: &'a str) -> Stored<'a, bool> {
        Box::pin(async move {
            let name = self.folder(pipeline, "savepoints").join(name);
            // To delete what is not there is no error, and tells nothing.
            let there = self.load(&name).await?.is_some();
            self.delete(&name).await?;
            Ok(there)
        })
    }

    fn remove<'a>(&'a self, pipeline: &'a str) -> Stored<'a, ()> {
        Box::pin(async move {
            // Manifests first: what they speak of is then of no use to anybody.
            for kind in ["manifests", "savepoints", "segments"] {
                for object in self.list(&self.folder(pipeline, kind)).await? {
                    self.delete(&object.location).await?;
                }
            }
            Ok(())
        })
    }

    fn describe(&self, pipeline: &str) -> String {
        format!("{}/{pipeline}", self.options.shown())
    }

    fn manifest(&self, pipeline: &str, revision: Revision) -> String {
        format!("{}/manifests/{:0DIGITS$}", self.describe(pipeline), revision.0)
    }

    fn taken<'a>(&'a self, pipeline: &'a str) -> Stored<'a, Option<String>> {
        Box::pin(async move {
            let place = self.describe(pipeline);
            let seen = taken(&self.revisions(pipeline).await?, MANIFESTS, &place);
            // Another instance may write while the list is made.
            if seen.is_some() { Ok(taken(&self.revisions(pipeline).await?, MANIFESTS, &place)) } else { Ok(None) }
        })
    }
}
