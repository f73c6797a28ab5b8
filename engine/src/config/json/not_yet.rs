//! Fields that are read but that the engine does not act on yet.

use super::super::{Config, ConfigError, Route};

/// Refuses what would otherwise be ignored.
///
/// # Errors
/// Names the first field that the engine does not act on yet and that is not at its default.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    match fields(config).into_iter().find(|(_, is_set)| *is_set) {
        Some((field, _)) => Err(ConfigError::new(field, "is not implemented yet")),
        None => Ok(()),
    }
}

/// One line for each field, and whether `config` sets it. Whoever teaches the engine a field
/// deletes its line here and in docs/configuration.md.
pub(super) fn fields(config: &Config) -> Vec<(&'static str, bool)> {
    let any_route = |is_set: fn(&Route) -> bool| {
        config.routes.prefixes.iter().chain(&config.routes.catch_all).any(is_set)
    };
    // `%KEY%` is put in; whatever else stands between percent signs asks for something of the client.
    let asks_for_more = |route: &Route| {
        let formatter = route.key_formatter.as_deref().unwrap_or_default();
        formatter.replace("%KEY%", "").contains('%')
    };
    vec![("prefix_routes.*.key_formatter with more than %KEY%", any_route(asks_for_more))]
}
