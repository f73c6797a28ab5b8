//! docs/configuration.md and the code have the same fields.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;

use super::clusters::RawCluster;
use super::credentials::{RawCredentials, RawSocketAddress};
use super::data_source::DataSource;
use super::fraction::{RawFraction, RawRuntimeFraction};
use super::routes::{RawMirror, RawReadCommandPolicy, RawRoute};
use super::settings::RawConnectionRateLimit;
use super::{RawConfig, RawFault, RawPrefixRoutes, RawSettings, RawUser};

const DOCUMENT: &str = include_str!("../../../../docs/configuration.md");

/// Every file that defines words.
const SOURCES: [&str; 8] = [
    include_str!("mod.rs"),
    include_str!("auth.rs"),
    include_str!("clusters.rs"),
    include_str!("credentials.rs"),
    include_str!("faults.rs"),
    include_str!("fraction.rs"),
    include_str!("routes.rs"),
    include_str!("settings.rs"),
];

/// All objects, by the names that the document's headings give them.
fn objects() -> BTreeMap<&'static str, BTreeSet<String>> {
    BTreeMap::from([
        ("RedisProxy", words::<RawConfig>()),
        ("ConnPoolSettings", words::<RawSettings>()),
        ("ConnectionRateLimit", words::<RawConnectionRateLimit>()),
        ("PrefixRoutes", words::<RawPrefixRoutes>()),
        ("Route", words::<RawRoute>()),
        ("ReadCommandPolicy", words::<RawReadCommandPolicy>()),
        ("RequestMirrorPolicy", words::<RawMirror>()),
        ("RuntimeFractionalPercent", words::<RawRuntimeFraction>()),
        ("FractionalPercent", words::<RawFraction>()),
        ("RedisFault", words::<RawFault>()),
        ("User", words::<RawUser>()),
        ("Cluster", words::<RawCluster>()),
        ("Credential", words::<RawCredentials>()),
        ("SocketAddress", words::<RawSocketAddress>()),
    ])
}

/// What serde says it would have known instead of an unknown word.
fn words<T: DeserializeOwned>() -> BTreeSet<String> {
    let Err(error) = serde_json::from_str::<T>(r#"{"?": 0}"#) else { panic!("'?' is known") };
    let words: BTreeSet<String> = quoted(&error.to_string()).skip(1).collect();
    assert!(!words.is_empty(), "{error}");
    words
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

fn camel_case(word: &str) -> String {
    let mut parts = word.split('_');
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |camel, part| camel + &part[..1].to_uppercase() + &part[1..])
}

/// The first cells of the tables under each heading that names an object.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let mut objects = BTreeMap::<String, BTreeSet<String>>::new();
    let mut object = None;
    for line in DOCUMENT.lines() {
        if line.starts_with('#') {
            object = quoted(line).next();
        } else if let Some(object) = &object
            && let Some(row) = line.strip_prefix("| `")
        {
            let field = row.split('`').next().unwrap().to_owned();
            let is_new = objects.entry(object.clone()).or_default().insert(field);
            assert!(is_new, "{object}: twice: {line}");
        }
    }
    objects
}

#[test]
fn every_field_is_in_the_document_and_every_field_of_the_document_exists() {
    let mut expected: BTreeMap<String, BTreeSet<String>> = objects()
        .into_iter()
        .map(|(object, words)| {
            let camel = |word: &String| word.contains(|c: char| c.is_ascii_uppercase());
            (object.to_owned(), words.into_iter().filter(|word| !camel(word)).collect())
        })
        .collect();
    expected.insert("DataSource".to_owned(), DataSource::WORDS.map(str::to_owned).into());
    let documented = documented();
    for (object, words) in &expected {
        assert_eq!(documented.get(object), Some(words), "{object}");
    }
    assert_eq!(documented.len(), expected.len());
}

#[test]
fn every_object_of_the_code_is_compared() {
    let defined: usize =
        SOURCES.iter().map(|source| source.matches("deny_unknown_fields").count()).sum();
    assert_eq!(defined, objects().len());
}

#[test]
fn every_word_may_be_written_in_lower_camel_case() {
    for (object, words) in objects() {
        for word in &words {
            assert!(words.contains(&camel_case(word)), "{object}.{word} has no alias");
        }
    }
}
