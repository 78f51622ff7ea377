//! [`ConnectOptions`]: how to reach a NATS server, as written in the `[nats]` table of a pipeline file or of the settings.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep, timeout_at};

use super::nats::{Ear, NatsLink, Told};
use super::{BrokerError, Connection, Secret, context};

/// How the complaint begins that nobody answers.
pub(crate) const NO_SERVER: &str = "no NATS server answers";
const DEFAULT_URL: &str = "nats://127.0.0.1:4222";
const PAUSE: Duration = Duration::from_millis(200);
// A link that answers none of three pings is dead, and is made anew: half a minute in place of the client's three.
const PING: Duration = Duration::from_secs(10);

/// How to reach a NATS server and who to be there. All fields are optional; the default is a server on this machine
/// without authentication.
#[derive(Clone, Debug, Default, Deserialize)]
#[cfg_attr(feature = "columnar", derive(schemars::JsonSchema), schemars(transform = with_short_names))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// Servers to try, `nats://`, `tls://`, `ws://` or `wss://`, as a list or with commas; others of the cluster are learned
    /// from them. `url` is the same.
    #[serde(alias = "url", deserialize_with = "one_or_many")]
    #[cfg_attr(feature = "columnar", schemars(with = "OneOrMany"))]
    pub urls: Vec<String>,
    /// A context of the `nats` tool, by name or path; it fills what the other fields leave open.
    pub context: Option<String>,
    /// How the connection is called in the server's monitoring.
    pub name: Option<String>,
    /// Authenticates with a token.
    pub token: Option<Secret>,
    /// Authenticates with this user and `password`.
    pub user: Option<String>,
    /// The password of `user`.
    pub password: Option<Secret>,
    /// Authenticates with the nkey seed in this file.
    pub nkey_seed_file: Option<PathBuf>,
    /// Authenticates with this credentials file (JWT and seed). `credentials` is the same.
    #[serde(alias = "credentials")]
    pub credentials_file: Option<PathBuf>,
    /// Transport encryption.
    pub tls: TlsOptions,
    /// Where answers are sent, in place of `_INBOX`; a user with narrow permissions has one of its own.
    pub inbox_prefix: Option<String>,
    /// The JetStream domain to work in.
    pub domain: Option<String>,
    /// The prefix of the JetStream API when it is imported under another name; excludes `domain`.
    pub api_prefix: Option<String>,
    /// How long to try for a first connection, in seconds; 5 if not given.
    pub connect_timeout_s: Option<u64>,
    /// How many messages may wait unread in a subscription before more are dropped; 262,144 if not given.
    pub subscription_capacity: Option<usize>,
}

/// One text, with commas, or a list.
#[derive(Deserialize)]
#[cfg_attr(feature = "columnar", derive(schemars::JsonSchema), schemars(inline))]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Ok(match OneOrMany::deserialize(from)? {
        OneOrMany::One(text) => split_urls(&text),
        OneOrMany::Many(urls) => urls,
    })
}

/// The URLs of a text in which commas are between them.
pub(crate) fn split_urls(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect()
}

/// A schema knows no second names by itself.
#[cfg(feature = "columnar")]
fn with_short_names(schema: &mut schemars::Schema) {
    let properties = schema.get_mut("properties").and_then(serde_json::Value::as_object_mut);
    let Some(properties) = properties else { return };
    for (name, short) in [("urls", "url"), ("credentials_file", "credentials")] {
        if let Some(property) = properties.get(name).cloned() {
            properties.insert(short.to_owned(), property);
        }
    }
}

/// Transport encryption.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "columnar", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsOptions {
    /// A file with the certificates of authorities to trust besides the system's.
    pub ca: Option<PathBuf>,
    /// This client's certificate; needs `key`.
    pub cert: Option<PathBuf>,
    /// The key of `cert`.
    pub key: Option<PathBuf>,
    /// Refuses a server without TLS.
    pub required: bool,
    /// Starts TLS before the server speaks, as its `handshake_first` wants.
    pub first: bool,
}

impl ConnectOptions {
    /// Options for one server.
    pub fn to(url: impl Into<String>) -> Self {
        ConnectOptions { urls: vec![url.into()], ..ConnectOptions::default() }
    }

    /// The same, with a name for the server's monitoring.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Where the JetStream API is: `$JS.API`, or elsewhere for a domain or an imported API.
    pub fn js_prefix(&self) -> String {
        match (&self.api_prefix, &self.domain) {
            (Some(prefix), _) => prefix.clone(),
            (None, Some(domain)) => format!("$JS.{domain}.API"),
            (None, None) => "$JS.API".to_owned(),
        }
    }

    /// Where the servers are, for people: users and passwords in the URLs are left out.
    pub fn shown(&self) -> String {
        let bare = |url: &String| match (url.split_once("://"), url.rsplit_once('@')) {
            (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
            (None, Some((_, place))) => place.to_owned(),
            _ => url.clone(),
        };
        self.urls.iter().map(bare).collect::<Vec<_>>().join(", ")
    }

    /// The options with what their `context` adds; the context's domain and prefixes matter to who uses the API.
    ///
    /// # Errors
    /// The context cannot be read, or the options contradict each other.
    pub fn resolve(self) -> Result<ConnectOptions, BrokerError> {
        let mut options = context::merge(self)?;
        options.take_user_of_urls()?;
        if options.urls.is_empty() {
            options.urls.push(DEFAULT_URL.to_owned());
        }
        let wrong = |what: &str| Err(BrokerError::Options { what: what.to_owned() });
        if options.domain.is_some() && options.api_prefix.is_some() {
            return wrong("`domain` and `api_prefix` exclude each other: keep one");
        }
        if options.password.is_some() && options.user.is_none() {
            return wrong("`password` needs `user`");
        }
        if options.tls.cert.is_some() != options.tls.key.is_some() {
            return wrong("`tls.cert` and `tls.key` need each other");
        }
        let ways = [
            options.token.is_some(),
            options.user.is_some(),
            options.nkey_seed_file.is_some(),
            options.credentials_file.is_some(),
        ];
        if ways.iter().filter(|given| **given).count() > 1 {
            return wrong("give one of `token`, `user`, `nkey_seed_file`, `credentials_file`, not several");
        }
        Ok(options)
    }

    /// Moves user and password, or token, out of the URLs: the client neither uses nor hides them there.
    fn take_user_of_urls(&mut self) -> Result<(), BrokerError> {
        let wrong = |what: &str| BrokerError::Options { what: what.to_owned() };
        let mut found: Option<String> = None;
        for url in &mut self.urls {
            let start = url.find("://").map_or(0, |at| at + 3);
            let Some((who, place)) = url.get(start..).and_then(|rest| rest.rsplit_once('@')) else { continue };
            if found.as_ref().is_some_and(|found| found != who) {
                return Err(wrong("the server URLs name different users: name one, in `user` and `password`"));
            }
            found = Some(who.to_owned());
            *url = format!("{}{place}", url.get(..start).unwrap_or_default());
        }
        let Some(who) = found else { return Ok(()) };
        if self.authenticates() {
            return Err(wrong("the server URL names a user, and another option too: keep one"));
        }
        let text = |part: &str| unescape(part).ok_or_else(|| wrong("the user in the server URL has a bad % escape"));
        match who.split_once(':') {
            Some((user, password)) => {
                self.user = Some(text(user)?);
                self.password = Some(text(password)?.into());
            }
            None => self.token = Some(text(&who)?.into()),
        }
        Ok(())
    }

    /// What these options leave open is as `others` have it: the servers, who to be, and each of the rest.
    #[must_use]
    #[cfg(feature = "cli")]
    pub(crate) fn or(mut self, others: ConnectOptions) -> ConnectOptions {
        // A context and a URL may name a user too.
        if !self.authenticates() && self.context.is_none() && !self.urls.iter().any(|url| url.contains('@')) {
            (self.token, self.user, self.password) = (others.token, others.user, others.password);
            (self.nkey_seed_file, self.credentials_file) = (others.nkey_seed_file, others.credentials_file);
        }
        if !self.names_server() {
            (self.urls, self.context) = (others.urls, others.context);
        }
        if self.tls == TlsOptions::default() {
            self.tls = others.tls;
        }
        self.name = self.name.or(others.name);
        self.inbox_prefix = self.inbox_prefix.or(others.inbox_prefix);
        if self.domain.is_none() && self.api_prefix.is_none() {
            (self.domain, self.api_prefix) = (others.domain, others.api_prefix);
        }
        self.connect_timeout_s = self.connect_timeout_s.or(others.connect_timeout_s);
        self.subscription_capacity = self.subscription_capacity.or(others.subscription_capacity);
        self
    }

    /// Whether they say where the server is.
    #[cfg(feature = "cli")]
    pub(crate) fn names_server(&self) -> bool {
        !self.urls.is_empty() || self.context.is_some()
    }

    /// The files that they name.
    #[cfg(feature = "cli")]
    pub(crate) fn files_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let TlsOptions { ca, cert, key, .. } = &mut self.tls;
        [&mut self.nkey_seed_file, &mut self.credentials_file, ca, cert, key].into_iter().flatten()
    }

    /// Nobody in particular, at the same server.
    #[cfg(feature = "cli")]
    pub(crate) fn forget_user(&mut self) {
        (self.token, self.user, self.password) = (None, None, None);
        (self.nkey_seed_file, self.credentials_file) = (None, None);
    }

    /// Whether they say who to be.
    pub(crate) fn authenticates(&self) -> bool {
        self.token.is_some() || self.user.is_some() || self.nkey_seed_file.is_some() || self.credentials_file.is_some()
    }

    /// Connects, trying again until `connect_timeout_s` is over; later the link comes back by itself, for ever.
    ///
    /// # Errors
    /// Nobody answers, or the server refuses this user; the error names the servers and what to try.
    pub async fn connect(self) -> Result<Connection, BrokerError> {
        let options = self.resolve()?;
        let deadline = Instant::now() + Duration::from_secs(options.connect_timeout_s.unwrap_or(5));
        let mut last = String::from("timed out");
        loop {
            let told = Arc::new(Told::default());
            let client = options.client_options(Arc::clone(&told)).await?;
            match timeout_at(deadline, client.connect(options.urls.as_slice())).await {
                Ok(Ok(client)) => return Ok(Connection::nats(NatsLink::new(client, told))),
                Ok(Err(error)) if is_final(&error) => {
                    return Err(BrokerError::Disconnected { why: options.refused(&error) });
                }
                Ok(Err(error)) => last = error.to_string(),
                Err(_) => {}
            }
            if Instant::now() + PAUSE >= deadline {
                return Err(BrokerError::Disconnected { why: options.unreachable(&last) });
            }
            sleep(PAUSE).await;
        }
    }

    async fn client_options(&self, told: Arc<Told>) -> Result<async_nats::ConnectOptions, BrokerError> {
        let ear = Ear(told);
        let mut client = async_nats::ConnectOptions::new()
            .subscription_capacity(self.subscription_capacity.unwrap_or(1 << 18))
            .ping_interval(PING)
            .event_callback(move |event| {
                ear.0.note(&event);
                std::future::ready(())
            });
        if let Some(name) = &self.name {
            client = client.name(name);
        }
        if let Some(prefix) = &self.inbox_prefix {
            client = client.custom_inbox_prefix(prefix);
        }
        if let Some(token) = &self.token {
            client = client.token(token.reveal().to_owned());
        }
        if let Some(user) = &self.user {
            let password = self.password.as_ref().map_or("", Secret::reveal);
            client = client.user_and_password(user.clone(), password.to_owned());
        }
        if let Some(path) = &self.nkey_seed_file {
            let seed =
                tokio::fs::read_to_string(path).await.map_err(|error| unreadable("nkey_seed_file", path, &error))?;
            client = client.nkey(seed.trim().to_owned());
        }
        if let Some(path) = &self.credentials_file {
            client =
                client.credentials_file(path).await.map_err(|error| unreadable("credentials_file", path, &error))?;
        }
        let TlsOptions { ca, cert, key, .. } = &self.tls;
        for (field, path) in [("tls.ca", ca), ("tls.cert", cert), ("tls.key", key)] {
            // The client would not say which of them it cannot read.
            if let Some(path) = path {
                tokio::fs::File::open(path).await.map_err(|error| unreadable(field, path, &error))?;
            }
        }
        if let Some(ca) = &self.tls.ca {
            client = client.add_root_certificates(ca.clone());
        }
        if let (Some(cert), Some(key)) = (&self.tls.cert, &self.tls.key) {
            client = client.add_client_certificate(cert.clone(), key.clone());
        }
        if self.tls.required {
            client = client.require_tls(true);
        }
        if self.tls.first {
            client = client.tls_first();
        }
        Ok(client)
    }

    fn unreachable(&self, last: &str) -> String {
        format!(
            "{NO_SERVER} at {} ({last}): start one (`nats-server -js`), or correct \
             the url",
            self.shown()
        )
    }

    fn refused(&self, error: &async_nats::ConnectError) -> String {
        let hint = match error.kind() {
            async_nats::ConnectErrorKind::ServerParse => "write it as nats://host:4222",
            _ if is_of_tls(error) => {
                "check tls.ca, tls.cert and tls.key, and whether the server wants TLS, and TLS at once (tls.first)"
            }
            _ => "check token, user and password, nkey_seed_file or credentials_file",
        };
        format!("the NATS server at {} cannot be used ({error}): {hint}", self.shown())
    }
}

/// The text of a part of a URL: `%40` is an `@`. `None` if an escape is none.
fn unescape(part: &str) -> Option<String> {
    let mut pieces = part.split('%');
    let mut bytes = pieces.next()?.as_bytes().to_vec();
    for piece in pieces {
        bytes.push(u8::from_str_radix(piece.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(piece.get(2..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

/// Whether trying again cannot help.
fn is_final(error: &async_nats::ConnectError) -> bool {
    use async_nats::ConnectErrorKind::{Authentication, AuthorizationViolation, ServerParse, Tls};
    matches!(error.kind(), Authentication | AuthorizationViolation | ServerParse | Tls) || is_of_tls(error)
}

/// Whether the two sides do not agree on how to encrypt, or do not trust each other.
fn is_of_tls(error: &async_nats::ConnectError) -> bool {
    if error.kind() == async_nats::ConnectErrorKind::Tls {
        return true;
    }
    // The client reports most of that as an I/O error; TLS makes it one of bad data.
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::InvalidData) {
            return true;
        }
        cause = inner.source();
    }
    false
}

fn unreadable(field: &str, path: &std::path::Path, error: &std::io::Error) -> BrokerError {
    BrokerError::Options { what: format!("`{field}` {} cannot be read: {error}", path.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_contradict_each_other_are_refused() {
        let both = ConnectOptions {
            token: Some(String::from("t").into()),
            user: Some("u".to_owned()),
            ..ConnectOptions::default()
        };
        assert!(both.resolve().unwrap_err().to_string().contains("give one of"));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let options = ConnectOptions { token: Some(String::from("hush").into()), ..ConnectOptions::default() };
        assert!(!format!("{options:?}").contains("hush"));
        let options = ConnectOptions {
            urls: vec!["nats://u:hush@a:4222".to_owned(), "hush@b".to_owned(), "tls://c".to_owned()],
            ..ConnectOptions::default()
        };
        assert_eq!(options.shown(), "nats://a:4222, b, tls://c");
    }

    #[test]
    fn the_user_of_a_url_is_taken_out_of_it() {
        let options = ConnectOptions::to("nats://u%40a:p%3aw@host:4222").resolve().unwrap();
        assert_eq!(options.urls, ["nats://host:4222"]);
        assert_eq!(
            (options.user.as_deref(), options.password.as_ref().map(Secret::reveal)),
            (Some("u@a"), Some("p:w"))
        );
        let options = ConnectOptions::to("hush@host").resolve().unwrap();
        assert_eq!((options.urls, options.token.unwrap().reveal()), (vec!["host".to_owned()], "hush"));
        let both = ConnectOptions { user: Some("other".to_owned()), ..ConnectOptions::to("nats://u:p@host") };
        assert!(both.resolve().unwrap_err().to_string().contains("keep one"));
        let two = ConnectOptions { urls: vec!["a@x".to_owned(), "b@y".to_owned()], ..ConnectOptions::default() };
        assert!(two.resolve().unwrap_err().to_string().contains("different users"));
        assert!(ConnectOptions::to("a%zz@x").resolve().unwrap_err().to_string().contains("escape"));
    }

    #[tokio::test]
    async fn nobody_there_names_the_url_and_what_to_try() {
        let options = ConnectOptions { connect_timeout_s: Some(1), ..ConnectOptions::to("nats://127.0.0.1:1") };
        let error = options.connect().await.unwrap_err().to_string();
        assert!(error.contains("nats://127.0.0.1:1") && error.contains("nats-server -js"), "{error}");
    }
}
