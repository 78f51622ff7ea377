//! NATS context files (ADR-21): the connection that the `nats` tool already uses.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{BrokerError, ConnectOptions, Secret};

/// What we take from a context file; the tool keeps more in it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContextFile {
    url: String,
    token: String,
    user: String,
    password: String,
    creds: String,
    nkey: String,
    cert: String,
    key: String,
    ca: String,
    jetstream_domain: String,
    jetstream_api_prefix: String,
    inbox_prefix: String,
    tls_first: bool,
}

/// Where `context` is: a path if it looks like one, else a name below the tool's own folder.
fn locate(context: &str) -> PathBuf {
    if context.contains(['/', '\\']) || context.ends_with(".json") {
        return home(context);
    }
    let config = std::env::var_os("XDG_CONFIG_HOME").map_or_else(|| home("~/.config"), PathBuf::from);
    config.join("nats").join("context").join(format!("{context}.json"))
}

/// `path` with a leading `~/` resolved.
fn home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => Path::new(&home).join(rest),
        _ => PathBuf::from(path),
    }
}

/// Fills what `options` leave open from the context they name.
///
/// # Errors
/// The file cannot be read or is no context.
pub(super) fn merge(mut options: ConnectOptions) -> Result<ConnectOptions, BrokerError> {
    let Some(context) = options.context.take() else { return Ok(options) };
    let path = locate(&context);
    let file: ContextFile = std::fs::read(&path)
        .map_err(|error| error.to_string())
        .and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
        .map_err(|error| BrokerError::Options {
            what: format!(
                "NATS context {context:?} cannot be read from {}: {error}; `nats context ls` shows what there is",
                path.display()
            ),
        })?;
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let some_path = |text: &str| (!text.is_empty()).then(|| home(text));
    if options.urls.is_empty() {
        options.urls = file.url.split(',').map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned).collect();
    }
    if !options.authenticates() {
        options.token = some(&file.token).map(Secret::from);
        options.user = some(&file.user);
        options.password = some(&file.password).map(Secret::from);
        options.credentials_file = some_path(&file.creds);
        options.nkey_seed_file = some_path(&file.nkey);
    }
    options.tls.ca = options.tls.ca.or_else(|| some_path(&file.ca));
    options.tls.cert = options.tls.cert.or_else(|| some_path(&file.cert));
    options.tls.key = options.tls.key.or_else(|| some_path(&file.key));
    options.tls.first |= file.tls_first;
    options.domain = options.domain.or_else(|| some(&file.jetstream_domain));
    options.api_prefix = options.api_prefix.or_else(|| some(&file.jetstream_api_prefix));
    options.inbox_prefix = options.inbox_prefix.or_else(|| some(&file.inbox_prefix));
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_fills_what_is_left_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prod.json");
        std::fs::write(&path, r#"{"url":"nats://a,nats://b","user":"u","password":"p","color_scheme":"x"}"#).unwrap();
        let options = ConnectOptions {
            context: Some(path.display().to_string()),
            domain: Some("hub".to_owned()),
            ..ConnectOptions::default()
        };
        let merged = merge(options).unwrap();
        assert_eq!(merged.urls, ["nats://a", "nats://b"]);
        assert_eq!(merged.user.as_deref(), Some("u"));
        assert_eq!(merged.domain.as_deref(), Some("hub"));
    }

    #[test]
    fn a_missing_context_says_where_it_looked() {
        let options = ConnectOptions { context: Some("./nowhere.json".to_owned()), ..ConnectOptions::default() };
        assert!(merge(options).unwrap_err().to_string().contains("./nowhere.json"));
    }
}
