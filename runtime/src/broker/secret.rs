//! [`Secret`]: a password or token, which is never shown.

use std::fmt;
use std::path::PathBuf;

use serde::Deserialize;

/// A text that is not shown in logs. In a file it is the text itself, `{ env = "NAME" }` or `{ file = "path" }`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Reference {
            Env(String),
            File(PathBuf),
        }
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a secret is a text, `{ env = \"NAME\" }` or `{ file = \"path\" }`")]
        enum Form {
            Text(String),
            By(Reference),
        }
        let cannot = |what: String| <D::Error as serde::de::Error>::custom(what);
        match Form::deserialize(from)? {
            Form::Text(text) => Ok(Secret(text)),
            Form::By(Reference::Env(name)) => std::env::var(&name)
                .map(Secret)
                .map_err(|error| cannot(format!("the environment variable {name} cannot be used: {error}"))),
            Form::By(Reference::File(path)) => std::fs::read_to_string(&path)
                .map(|text| Secret(text.trim_end_matches(['\r', '\n']).to_owned()))
                .map_err(|error| cannot(format!("`{}` cannot be read: {error}", path.display()))),
        }
    }
}

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(text)
    }
}

#[cfg(feature = "columnar")]
impl schemars::JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let by = |word: &str| {
            serde_json::json!({
                "type": "object",
                "properties": { word: { "type": "string" } },
                "required": [word],
                "additionalProperties": false,
            })
        };
        schemars::json_schema!({ "x-secret": true, "anyOf": [{ "type": "string" }, by("env"), by("file")] })
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_a_text_or_stands_elsewhere_and_is_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "of a file\n").unwrap();
        let read = |json: String| serde_json::from_str::<Secret>(&json);
        assert_eq!(read("\"plain\"".to_owned()).unwrap().reveal(), "plain");
        let secret = read(format!("{{\"file\":{:?}}}", file.path())).unwrap();
        assert_eq!((secret.reveal(), format!("{secret:?}").as_str()), ("of a file", "***"));
        let error = read("{\"env\":\"MILLSTREAM_NO_SUCH\"}".to_owned()).unwrap_err().to_string();
        assert!(error.contains("MILLSTREAM_NO_SUCH"), "{error}");
        assert!(read("7".to_owned()).unwrap_err().to_string().contains("a secret is a text"));
    }
}
