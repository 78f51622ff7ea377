//! The store over a bucket in memory that answers wrongly when it is told to.

#![allow(clippy::unwrap_used, reason = "it is test code, though not all inside a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use super::store::without_body;
use super::{S3Options, S3Store};
use crate::checkpoint::{BlobId, Revision, Store, StoreError};

/// What becomes of the next creations.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    /// What is true.
    True,
    /// Done, but said to be lost.
    Lost,
    /// Done, and then done again by the client, which finds its own.
    Again,
    /// Done without looking whether something is there.
    Blind,
    /// Refused with this status.
    Status(&'static str),
}

#[derive(Debug)]
struct Bucket {
    inner: InMemory,
    answer: Answer,
    // How many of them are left.
    answers: AtomicUsize,
}

impl std::fmt::Display for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bucket")
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, at: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let left = self.answers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        let answer = if left.is_ok() { self.answer } else { Answer::True };
        match answer {
            Answer::True => self.inner.put_opts(at, payload, options).await,
            Answer::Blind => self.inner.put_opts(at, payload, PutOptions::default()).await,
            Answer::Status(status) => {
                Err(Error::Generic { store: "S3", source: format!("status code: {status}").into() })
            }
            Answer::Lost => {
                self.inner.put_opts(at, payload, options).await?;
                Err(Error::Generic { store: "S3", source: "the link is cut".into() })
            }
            Answer::Again => {
                self.inner.put_opts(at, payload.clone(), options.clone()).await?;
                self.inner.put_opts(at, payload, options).await
            }
        }
    }

    async fn put_multipart_opts(&self, at: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, options).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(&self, at: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

fn store(answer: Answer, answers: usize) -> S3Store {
    let bucket = Bucket { inner: InMemory::new(), answer, answers: AtomicUsize::new(answers) };
    S3Store::over(Arc::new(bucket), S3Options::to("s3://ckpt/prod").unwrap())
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test]
async fn a_write_that_the_client_did_twice_is_ours() {
    let store = store(Answer::Again, 2);
    assert_eq!(store.write("p", Revision(0), text("one")).await.unwrap(), Revision(1));
    assert_eq!(store.write("p", Revision(1), text("two")).await.unwrap(), Revision(2));
    assert_eq!(store.read("p").await.unwrap(), Some((Revision(2), text("two"))));
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_unknown_and_ours_when_it_is_tried_again() {
    let store = store(Answer::Lost, 1);
    let lost = store.write("p", Revision(0), text("one")).await.unwrap_err();
    let StoreError::Unknown(fault) = lost else { panic!("{lost}") };
    assert!(fault.chain().contains("s3://ckpt/prod does not answer"), "{}", fault.chain());
    assert_eq!(store.write("p", Revision(0), text("one")).await.unwrap(), Revision(1));
    assert!(matches!(store.write("p", Revision(0), text("other")).await, Err(StoreError::Fenced)));
}

#[tokio::test]
async fn a_service_that_overwrites_is_refused_at_the_first_write() {
    let error = store(Answer::Blind, usize::MAX).write("p", Revision(0), text("one")).await.unwrap_err();
    let StoreError::Failed(fault) = error else { panic!("{error}") };
    assert!(fault.to_string().contains("s3://ckpt/prod does not honour `If-None-Match: *`"), "{fault}");
}

#[tokio::test]
async fn who_slept_while_others_wrote_is_fenced_although_the_name_is_free_again() {
    let store = store(Answer::True, 0);
    let mut revision = store.write("p", Revision(0), text("mine")).await.unwrap();
    for _ in 0..6 {
        revision = store.write("p", revision, text("theirs")).await.unwrap();
    }
    assert!(matches!(store.write("p", Revision(1), text("mine")).await, Err(StoreError::Fenced)));
    assert_eq!(store.read("p").await.unwrap(), Some((revision, text("theirs"))));
    // What it left goes with the next of the others'.
    store.write("p", revision, text("theirs")).await.unwrap();
    assert!(store.history("p").await.unwrap().iter().all(|(_, bytes)| bytes == "theirs"));
}

#[tokio::test]
async fn who_slept_while_all_was_removed_and_begun_anew_is_fenced_and_leaves_nothing() {
    let store = store(Answer::True, 0);
    let mut mine = Revision(0);
    for _ in 0..5 {
        mine = store.write("p", mine, text("mine")).await.unwrap();
    }
    store.remove("p").await.unwrap();
    let theirs = store.write("p", Revision(0), text("theirs")).await.unwrap();
    assert!(matches!(store.write("p", mine, text("mine")).await, Err(StoreError::Fenced)));
    assert_eq!(store.read("p").await.unwrap(), Some((theirs, text("theirs"))));
    store.write("p", theirs, text("theirs")).await.unwrap();
}

#[tokio::test]
async fn pieces_that_are_damaged_are_stored_again_and_kept_aside() {
    let (store, bytes) = (store(Answer::True, 0), text("state"));
    let id = BlobId::of(&bytes);
    store.put("p", id, bytes.clone()).await.unwrap();
    let name = store.segment("p", id);
    store.overwrite(&name, text("stale")).await.unwrap();
    store.put("p", id, bytes.clone()).await.unwrap();
    assert_eq!(store.get("p", id).await.unwrap(), Some(bytes));
    let aside = Path::from(format!("{name}.damaged"));
    assert_eq!(store.load(&aside).await.unwrap(), Some(text("stale")));
    assert_eq!(store.blobs("p").await.unwrap().len(), 1);
    store.remove("p").await.unwrap();
    assert_eq!(store.load(&aside).await.unwrap(), None);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let with = |change: fn(&mut S3Options)| {
        let mut options = S3Options::to("s3://ckpt").unwrap();
        (options.access_key_id, options.secret_access_key) = (Some("id".to_owned()), Some("key".to_owned().into()));
        change(&mut options);
        S3Store::new(options)
    };
    let store = with(|options| options.endpoint = Some("http://127.0.0.1:9000".to_owned())).unwrap();
    assert!(!format!("{store:?}").contains("key"));
    with(|options| options.endpoint = Some("http://[::1]:9000/".to_owned())).unwrap();
    with(|options| options.endpoint = Some("http://localhost".to_owned())).unwrap();
    let refused = [
        (with(|options| options.endpoint = Some("http://example.org".to_owned())), "allow_http = true"),
        (with(|options| options.endpoint = Some("http://127.0.0.1.example.org:80".to_owned())), "allow_http = true"),
        (with(|options| options.endpoint = Some("example.org".to_owned())), "https://HOST:PORT"),
        (with(|options| options.secret_access_key = None), "the bucket cannot be used"),
        (with(|options| options.ca = Some("nowhere.pem".into())), "nowhere.pem"),
    ];
    for (made, words) in refused {
        let fault = made.unwrap_err().chain();
        assert!(fault.contains(words), "{fault}");
    }
}

#[tokio::test]
async fn objects_of_others_among_the_manifests_are_none() {
    let store = store(Answer::True, 0);
    let first = store.write("p", Revision(0), text("one")).await.unwrap();
    for name in ["readme", "7", "+000000000000000009x", "99999999999999999999"] {
        store.overwrite(&store.folder("p", "manifests").join(name), text("not ours")).await.unwrap();
    }
    assert_eq!(store.read("p").await.unwrap(), Some((first, text("one"))));
    store.overwrite(&store.folder("p", "manifests").join(u64::MAX.to_string()), text("a lie")).await.unwrap();
    assert!(matches!(store.write("p", first, text("two")).await, Err(StoreError::Fenced)));
    assert!(matches!(store.write("p", Revision(u64::MAX), text("two")).await, Err(StoreError::Fenced)));
}

#[test]
fn of_what_a_service_answers_code_and_message_are_told_and_nothing_that_was_sent() {
    let body = "<?xml version=\"1.0\"?><Error><Code>ExpiredToken</Code><Message>The token has expired.</Message>\
                <Token-0>a secret</Token-0></Error>";
    for body in [body.to_owned(), body.replace("<?xml version=\"1.0\"?>", "")] {
        let told = without_body(&format!("the request failed, status code: 400 Bad Request: {body}"));
        assert_eq!(told, "the request failed, status code: 400 Bad Request: ExpiredToken: The token has expired.");
    }
    assert_eq!(without_body("the link is cut"), "the link is cut");
}

#[tokio::test]
async fn a_service_that_does_not_know_the_condition_is_refused_and_nothing_is_waited_for() {
    for (status, honours) in
        [("501 Not Implemented", false), ("505 HTTP Version Not Supported", false), ("400 Bad Request", true)]
    {
        let store = store(Answer::Status(status), 1);
        let StoreError::Failed(fault) = store.write("p", Revision(0), text("one")).await.unwrap_err() else {
            panic!("{status}")
        };
        assert_eq!(!fault.chain().contains("does not honour"), honours, "{}", fault.chain());
    }
}
