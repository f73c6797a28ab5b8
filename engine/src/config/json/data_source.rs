//! Envoy's `DataSource`: a secret, or where to find it. Whatever is wrong with it, neither its
//! value nor any word in it is repeated: a password may stand in the place of either.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::{ConfigError, Secret};
use super::field::{Entries, Field};
use super::{Reader, base64};

/// Exactly one of Envoy's words, in either spelling.
#[derive(Deserialize)]
#[serde(try_from = "Entries<Text>")]
pub(super) enum DataSource {
    Inline(Secret),
    EnvironmentVariable(String),
    File,
}

/// A text or, so that no error of serde's quotes it, anything else.
#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    Text(String),
    Other(IgnoredAny),
}

impl DataSource {
    /// Every word of it, as the document must explain them.
    #[cfg(test)]
    pub(super) const WORDS: [&str; 5] =
        ["inline_string", "inline_bytes", "environment_variable", "filename", "watched_directory"];

    /// The secret itself.
    ///
    /// # Errors
    /// It is empty, in a file, or in a variable that does not exist.
    pub(super) fn read(self, at: &Field, reader: &Reader<'_>) -> Result<Secret, ConfigError> {
        let secret = match self {
            Self::Inline(secret) => secret,
            Self::EnvironmentVariable(name) => {
                let value = (reader.environment)(&name).ok_or_else(|| {
                    let reason = format!(
                        "is not set: '{name}' must be in the environment of the Wasm VM \
                         (vmConfig.env of the WasmPlugin)"
                    );
                    at.member("environment_variable").refuse(reason)
                })?;
                Secret::new(value)
            }
            Self::File => {
                let reason = "is not supported: a Wasm module cannot read files; \
                              use environment_variable or inline_string";
                return Err(at.member("filename").refuse(reason));
            }
        };
        if secret.reveal().is_empty() {
            return Err(at.refuse("is empty"));
        }
        Ok(secret)
    }
}

impl TryFrom<Entries<Text>> for DataSource {
    type Error = &'static str;

    fn try_from(Entries(words): Entries<Text>) -> Result<Self, Self::Error> {
        let Ok([(word, text)]) = <[_; 1]>::try_from(words) else {
            return Err("needs exactly one of inline_string, inline_bytes, environment_variable");
        };
        let text = match text {
            Text::Text(text) => Some(text),
            Text::Other(IgnoredAny) => None,
        };
        match (word.as_str(), text) {
            ("inline_string" | "inlineString", Some(text)) => {
                Ok(Self::Inline(Secret::new(text.into_bytes())))
            }
            ("inline_bytes" | "inlineBytes", Some(text)) => match base64::decode(&text) {
                Some(bytes) => Ok(Self::Inline(Secret::new(bytes))),
                None => Err("inline_bytes is not base64"),
            },
            ("environment_variable" | "environmentVariable", Some(text)) => {
                Ok(Self::EnvironmentVariable(text))
            }
            ("filename" | "watched_directory" | "watchedDirectory", _) => Ok(Self::File),
            (
                "inline_string"
                | "inlineString"
                | "inline_bytes"
                | "inlineBytes"
                | "environment_variable"
                | "environmentVariable",
                None,
            ) => Err("has a value that is not a string"),
            _ => Err("has an unknown field, expected one of inline_string, inline_bytes, \
                      environment_variable"),
        }
    }
}
