//! [`Settings`]: what flags, the environment and `millstream.toml` say together.
//!
//! Flags win over the environment, which wins over the pipeline file's own `[nats]` table, which wins over
//! `millstream.toml`: a file is written for a place, and whoever starts it there has the last word.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{Config, ConfigError, File, FileFormat, Map, Source, Value, ValueKind};
use millstream_pipelines::registry::Size;
use serde::Deserialize;

use super::Failure;
use super::args::{Common, LogFormat, Server};
use super::place::Place;
use crate::broker::{ConnectOptions, split_urls};
use crate::checkpoint::{KvStore, LocalStore, S3Options, Store};
use crate::connectors::Connections;

const DEFAULT_FILE: &str = "millstream.toml";

/// One layer of settings.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Layer {
    nats: ConnectOptions,
    checkpoints: Option<Place>,
    s3: S3Options,
    replicas: Option<usize>,
    workers: Option<usize>,
    state_memory: Option<Size>,
    spill: Option<PathBuf>,
    log: Log,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Log {
    level: Option<String>,
    format: Option<LogFormat>,
}

/// The settings of this start.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// What whoever starts it says: flags and environment.
    here: Layer,
    /// What the settings file says.
    file: Layer,
}

// A setting, and where the environment has it; the first that is set counts.
const VARIABLES: [(&str, &[&str]); 10] = [
    ("nats.urls", &["MILLSTREAM_NATS_URL", "NATS_URL"]),
    ("nats.context", &["MILLSTREAM_NATS_CONTEXT", "NATS_CONTEXT"]),
    ("nats.credentials_file", &["MILLSTREAM_NATS_CREDENTIALS", "NATS_CREDS"]),
    ("checkpoints", &["MILLSTREAM_CHECKPOINTS"]),
    ("replicas", &["MILLSTREAM_REPLICAS"]),
    ("workers", &["MILLSTREAM_WORKERS"]),
    ("state_memory", &["MILLSTREAM_STATE_MEMORY"]),
    ("spill", &["MILLSTREAM_SPILL"]),
    ("log.level", &["MILLSTREAM_LOG"]),
    ("log.format", &["MILLSTREAM_LOG_FORMAT"]),
];

/// The environment as a layer; an empty variable is none.
#[derive(Clone, Debug)]
struct Environment(fn(&str) -> Option<String>);

impl Source for Environment {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let mut values = Map::new();
        for (key, names) in VARIABLES {
            let found = names.iter().find_map(|name| Some((name, (self.0)(name).filter(|value| !value.is_empty())?)));
            if let Some((name, value)) = found {
                let origin = format!("the environment variable {name}");
                values.insert(key.to_owned(), Value::new(Some(&origin), ValueKind::String(value)));
            }
        }
        Ok(values)
    }
}

impl Settings {
    /// The settings of a start with these common flags.
    ///
    /// # Errors
    /// The settings file cannot be read, or a setting is wrong: usage.
    pub(super) fn load(common: &Common) -> Result<Settings, Failure> {
        Settings::from(common, |name| std::env::var(name).ok())
    }

    fn from(common: &Common, environment: fn(&str) -> Option<String>) -> Result<Settings, Failure> {
        let path = common.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let source = File::from(path.as_path()).format(FileFormat::Toml).required(common.config.is_some());
        let mut file: Layer = layer(Config::builder().add_source(source))?;
        // A path in a file is meant from there.
        let folder = path.parent().unwrap_or(Path::new(""));
        let directory = match &mut file.checkpoints {
            Some(Place::Directory(directory)) => Some(directory),
            _ => None,
        };
        let places = directory.into_iter().chain(&mut file.spill).chain(&mut file.s3.ca);
        for place in places.chain(file.nats.files_mut()) {
            *place = folder.join(&*place);
        }
        let mut here: Layer = layer(Config::builder().add_source(Environment(environment)))?;
        here.log.level = common.log.clone().or(here.log.level);
        here.log.format = common.log_format.or(here.log.format);
        Ok(Settings { here, file })
    }

    /// The same settings with what a command's flags say of the server.
    #[must_use]
    pub(super) fn with_server(mut self, server: &Server) -> Self {
        let Server { nats, context, creds } = server;
        let here = &mut self.here.nats;
        // A context of the environment must not fill in a user for a server that a flag names.
        if nats.is_some() && context.is_none() {
            here.context = None;
        }
        match nats {
            Some(urls) => here.urls = split_urls(urls),
            None if context.is_some() => here.urls.clear(),
            None => {}
        }
        here.context = context.clone().or(here.context.take());
        here.credentials_file = creds.clone().or(here.credentials_file.take());
        self
    }

    /// The same settings with what a command's flags say of checkpoints.
    #[must_use]
    pub(super) fn with_checkpoints(mut self, place: Option<&Place>, replicas: Option<usize>) -> Self {
        self.here.checkpoints = place.cloned().or(self.here.checkpoints);
        self.here.replicas = replicas.or(self.here.replicas);
        self
    }

    /// Where checkpoints are kept, of a pipeline whose file says `nats` of the server.
    ///
    /// # Errors
    /// The options of the connection contradict each other.
    pub(super) fn store(&self, nats: Option<ConnectOptions>) -> Result<Arc<dyn Store>, Failure> {
        if let Some(place) = self.checkpoints() {
            return self.store_at(place);
        }
        let connections = Connections::to_nats(self.connect_options(nats));
        let connections = connections.map_err(|fault| Failure::fault(fault.chain()))?;
        Ok(Arc::new(KvStore::new(Arc::new(connections), self.replicas())))
    }

    /// The store at a place that is not the server.
    ///
    /// # Errors
    /// The options of the bucket contradict each other.
    pub(super) fn store_at(&self, place: &Place) -> Result<Arc<dyn Store>, Failure> {
        match place {
            Place::Directory(directory) => Ok(Arc::new(LocalStore::new(directory))),
            #[cfg(feature = "s3")]
            Place::Bucket(url) => {
                let options = self.file.s3.clone().at(url);
                let store = options.and_then(crate::checkpoint::S3Store::new);
                Ok(Arc::new(store.map_err(|fault| Failure::usage(fault.chain()))?))
            }
            #[cfg(not(feature = "s3"))]
            Place::Bucket(url) => Err(Failure::usage(format!("this build keeps no checkpoints in {url}"))),
        }
    }

    /// The same settings with what a flag says of workers.
    #[must_use]
    pub(super) fn with_workers(mut self, workers: Option<usize>) -> Self {
        self.here.workers = workers.or(self.here.workers);
        self
    }

    /// How to reach the server, where the pipeline file says `of_file`.
    pub(super) fn connect_options(&self, of_file: Option<ConnectOptions>) -> ConnectOptions {
        let mut options = of_file.unwrap_or_default().or(self.file.nats.clone());
        let here = &self.here.nats;
        if !here.urls.is_empty() {
            options.urls.clone_from(&here.urls);
            // A URL that names a user is another user than the file's.
            if here.urls.iter().any(|url| url.contains('@')) {
                options.forget_user();
            }
        }
        if let Some(context) = &here.context {
            // Another context is another user: nothing of the file's is left for it.
            let urls = here.urls.clone();
            options = ConnectOptions { urls, context: Some(context.clone()), ..ConnectOptions::default() };
        }
        if let Some(credentials) = &here.credentials_file {
            options.forget_user();
            options.credentials_file = Some(credentials.clone());
        }
        options
    }

    /// Whether anybody said where the server is.
    pub(super) fn names_server(&self) -> bool {
        self.here.nats.names_server() || self.file.nats.names_server()
    }

    /// Where checkpoints are kept, if not on the server.
    pub(super) fn checkpoints(&self) -> Option<&Place> {
        self.here.checkpoints.as_ref().or(self.file.checkpoints.as_ref())
    }

    /// How many copies of the checkpoints the servers keep.
    pub(super) fn replicas(&self) -> usize {
        self.here.replicas.or(self.file.replicas).unwrap_or(1)
    }

    /// How many threads do the work.
    pub(super) fn workers(&self) -> usize {
        self.here.workers.or(self.file.workers).unwrap_or(1)
    }

    /// How many bytes of memory state may use, of a pipeline whose file says `of_file`.
    pub(super) fn state_memory(&self, of_file: Option<usize>) -> Option<usize> {
        let (here, file) = (self.here.state_memory, self.file.state_memory);
        here.map(|size| size.0).or(of_file).or(file.map(|size| size.0))
    }

    /// Where state goes that does not fit there.
    pub(super) fn spill(&self) -> Option<&Path> {
        self.here.spill.as_deref().or(self.file.spill.as_deref())
    }

    /// What is logged.
    pub(super) fn log_level(&self) -> &str {
        self.here.log.level.as_deref().or(self.file.log.level.as_deref()).unwrap_or("info")
    }

    /// How it is logged, if that was said.
    pub(super) fn log_format(&self) -> Option<LogFormat> {
        self.here.log.format.or(self.file.log.format)
    }
}

fn layer(builder: config::ConfigBuilder<config::builder::DefaultState>) -> Result<Layer, Failure> {
    let read = builder.build().and_then(Config::try_deserialize);
    read.map_err(|error| Failure::usage(format!("a setting is wrong: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(file: Option<&Path>) -> Common {
        Common { config: file.map(Path::to_owned), log: None, log_format: None }
    }

    fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn flags_win_over_the_environment_which_wins_over_the_pipeline_file_which_wins_over_the_settings_file() {
        let (_folder, path) = written("workers = 2\nreplicas = 3\n[nats]\nurl = \"nats://settings\"");
        let quiet = Settings::from(&common(Some(&path)), |_| None).unwrap();
        assert_eq!((quiet.workers(), quiet.replicas()), (2, 3));
        assert_eq!(quiet.connect_options(None).urls, ["nats://settings"]);
        let of_file = || Some(ConnectOptions::to("nats://pipeline"));
        assert_eq!(quiet.connect_options(of_file()).urls, ["nats://pipeline"]);
        let loud = Settings::from(&common(Some(&path)), |name| match name {
            "NATS_URL" => Some("nats://a, nats://b".to_owned()),
            "MILLSTREAM_WORKERS" => Some("4".to_owned()),
            _ => None,
        });
        let loud = loud.unwrap();
        assert_eq!(
            (loud.workers(), loud.connect_options(of_file()).urls),
            (4, vec!["nats://a".into(), "nats://b".into()])
        );
        let server = Server { nats: Some("nats://flag".to_owned()), ..Server::default() };
        let flagged = loud.with_server(&server).with_workers(Some(8));
        assert_eq!((flagged.workers(), flagged.connect_options(of_file()).urls), (8, vec!["nats://flag".to_owned()]));
    }

    #[test]
    fn a_context_of_the_start_leaves_nothing_of_the_files_user() {
        let mut of_file = ConnectOptions::to("nats://pipeline");
        of_file.user = Some("u".to_owned());
        let server = Server { context: Some("prod".to_owned()), ..Server::default() };
        let options = Settings::default().with_server(&server).connect_options(Some(of_file));
        assert_eq!((options.context.as_deref(), options.user, options.urls.len()), (Some("prod"), None, 0));
    }

    #[test]
    fn a_wrong_setting_names_its_place() {
        let (_folder, path) = written("wokers = 2");
        let error = Settings::from(&common(Some(&path)), |_| None).unwrap_err();
        assert!(error.to_string().contains("wokers") && error.to_string().contains("workers"), "{error}");
        let error = Settings::from(&common(None), |name| (name == "MILLSTREAM_WORKERS").then(|| "many".to_owned()));
        let error = error.unwrap_err();
        assert!(error.to_string().contains("MILLSTREAM_WORKERS"), "{error}");
        let missing = Settings::from(&common(Some(Path::new("nowhere.toml"))), |_| None).unwrap_err();
        assert!(missing.to_string().contains("nowhere.toml"), "{missing}");
    }

    #[test]
    fn the_nats_table_has_the_same_keys_as_that_of_a_pipeline_file() {
        let password = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(password.path(), "hush\n").unwrap();
        let text = format!(
            "[nats]\nurls = [\"nats://a\", \"nats://b\"]\nuser = \"u\"\npassword = {{ file = {:?} }}\ntls = {{ ca = \"ca.pem\" }}\ndomain = \"hub\"",
            password.path()
        );
        let (folder, path) = written(&text);
        let options = Settings::from(&common(Some(&path)), |_| None).unwrap().connect_options(None);
        assert_eq!((options.urls.len(), options.domain.as_deref()), (2, Some("hub")));
        assert_eq!(options.password.as_ref().map(crate::broker::Secret::reveal), Some("hush"));
        assert_eq!(options.tls.ca, Some(folder.path().join("ca.pem")));
        let (folder, path) = written("[nats]\nurl = \"nats://a, nats://b\"\ncredentials = \"u.creds\"");
        let options = Settings::from(&common(Some(&path)), |_| None).unwrap().connect_options(None);
        assert_eq!(options.urls, ["nats://a", "nats://b"]);
        assert_eq!(options.credentials_file, Some(folder.path().join("u.creds")));
        let (_folder, path) = written("[nats]\npassword = { env = \"MILLSTREAM_NO_SUCH\" }");
        let error = Settings::from(&common(Some(&path)), |_| None).unwrap_err();
        assert!(error.to_string().contains("MILLSTREAM_NO_SUCH"), "{error}");
    }

    #[test]
    fn a_path_in_a_settings_file_is_meant_from_there() {
        let (folder, path) = written("checkpoints = \"ckpt\"");
        let settings = Settings::from(&common(Some(&path)), |_| None).unwrap();
        assert_eq!(settings.checkpoints(), Some(&Place::Directory(folder.path().join("ckpt"))));
    }

    #[cfg(feature = "s3")]
    #[test]
    fn a_bucket_of_the_settings_stays_as_it_is_written_and_its_table_says_how_to_reach_it() {
        let table = "[s3]\nendpoint = \"https://objects.internal\"\naccess_key_id = \"id\"\nca = \"ca.pem\"\n";
        let (folder, path) = written(&format!("checkpoints = \"s3://ckpt/prod\"\n{table}"));
        let settings = Settings::from(&common(Some(&path)), |_| None).unwrap();
        assert_eq!(settings.checkpoints(), Some(&Place::Bucket("s3://ckpt/prod".to_owned())));
        assert_eq!(settings.file.s3.ca, Some(folder.path().join("ca.pem")));
        let (_folder, path) = written("[s3]\nendpiont = \"https://objects.internal\"");
        let error = Settings::from(&common(Some(&path)), |_| None).unwrap_err();
        assert!(error.to_string().contains("endpiont") && error.to_string().contains("endpoint"), "{error}");
        let wrong =
            Settings::from(&common(None), |name| (name == "MILLSTREAM_CHECKPOINTS").then(|| "s3://".to_owned()));
        let error = wrong.unwrap_err().to_string();
        assert!(error.contains("`checkpoints`") && error.contains("s3://BUCKET"), "{error}");
    }
}
