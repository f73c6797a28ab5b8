//! Durations as protobuf's JSON writes them: `"5s"`, `"0.25s"`.

use std::time::Duration;

use serde::Deserialize;

use super::super::ConfigError;
use super::field::Field;

/// A duration of at most a year, which is long enough for every timer here.
#[derive(Deserialize)]
#[serde(try_from = "String")]
pub(super) struct RawDuration(Duration);

impl RawDuration {
    /// A duration that may be nothing.
    pub(super) fn get(self) -> Duration {
        self.0
    }

    /// A duration that must be something.
    ///
    /// # Errors
    /// It is 0.
    pub(super) fn positive(self, at: &Field) -> Result<Duration, ConfigError> {
        if self.0.is_zero() {
            return Err(at.refuse("must be greater than 0s"));
        }
        Ok(self.0)
    }
}

impl TryFrom<String> for RawDuration {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        parse_duration(&text).map(Self).ok_or_else(|| {
            format!("'{text}' is not a duration in seconds such as \"5s\" or \"0.25s\"")
        })
    }
}

/// At most nine digits follow the point.
fn parse_duration(text: &str) -> Option<Duration> {
    const LONGEST: u64 = 365 * 24 * 3600;
    let number = text.strip_suffix('s')?;
    let (seconds, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(seconds) || !digits(fraction) || fraction.len() > 9 {
        return None;
    }
    let seconds = seconds.parse().ok().filter(|seconds| *seconds <= LONGEST)?;
    Some(Duration::new(seconds, format!("{fraction:0<9}").parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_those_of_protobufs_json() {
        assert_eq!(parse_duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("0.000000001s"), Some(Duration::from_nanos(1)));
        for text in ["", "s", "5", "-1s", "1e3s", "1.s", ".5s", "1.0000000001s", "99999999999s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }
}
