//! Where in the configuration something stands, and what is said about it.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::super::ConfigError;

/// A path from the root, as errors name it: `clusters.main.seeds[0]`.
pub(super) struct Field(String);

/// A JSON object whose names are the user's own, in the order written; a name may be there twice.
pub(super) struct Entries<V>(pub(super) Vec<(String, V)>);

impl Field {
    /// A word at the root.
    pub(super) fn new(word: &str) -> Self {
        Self(word.to_owned())
    }

    /// A word of the object that stands here.
    pub(super) fn member(&self, word: &str) -> Self {
        Self(format!("{}.{word}", self.0))
    }

    /// Checks every element of the list that stands here.
    ///
    /// # Errors
    /// The first error of `check`.
    pub(super) fn each<T, U>(
        &self,
        list: Option<Vec<T>>,
        mut check: impl FnMut(&Self, T) -> Result<U, ConfigError>,
    ) -> Result<Vec<U>, ConfigError> {
        list.into_iter()
            .flatten()
            .enumerate()
            .map(|(index, element)| check(&Self(format!("{}[{index}]", self.0)), element))
            .collect()
    }

    /// What stands here is wrong.
    pub(super) fn refuse(&self, reason: impl Into<String>) -> ConfigError {
        ConfigError::new(self.0.clone(), reason)
    }

    /// What stands here has to.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn required<T>(&self, value: Option<T>) -> Result<T, ConfigError> {
        value.ok_or_else(|| self.refuse("is required"))
    }

    /// A text that may be left out but not be empty.
    ///
    /// # Errors
    /// It is empty.
    pub(super) fn not_empty(&self, text: Option<String>) -> Result<Option<String>, ConfigError> {
        if text.as_ref().is_some_and(String::is_empty) {
            return Err(self.refuse("is empty"));
        }
        Ok(text)
    }

    /// A word of Envoy's that Slotmesh does not implement.
    ///
    /// # Errors
    /// It is there.
    pub(super) fn unsupported<T>(&self, value: Option<T>, reason: &str) -> Result<(), ConfigError> {
        match value {
            Some(_) => Err(self.refuse(format!("is not supported: {reason}"))),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Entries<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<V>(Vec<(String, V)>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for InOrder<V> {
            type Value = Entries<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(mut self, mut map: M) -> Result<Entries<V>, M::Error> {
                while let Some(entry) = map.next_entry()? {
                    self.0.push(entry);
                }
                Ok(Entries(self.0))
            }
        }

        deserializer.deserialize_map(InOrder(Vec::new()))
    }
}
