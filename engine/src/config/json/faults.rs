//! `faults`: Envoy's `RedisFault`.

use std::time::Duration;

use serde::Deserialize;

use super::super::{ConfigError, Fault, FaultKind};
use super::Reader;
use super::duration::RawDuration;
use super::field::Field;
use super::fraction::RawRuntimeFraction;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawFault {
    #[serde(alias = "faultType")]
    fault_type: Option<RawFaultType>,
    #[serde(alias = "faultEnabled")]
    fault_enabled: Option<RawRuntimeFraction>,
    delay: Option<RawDuration>,
    commands: Option<Vec<String>>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum RawFaultType {
    #[default]
    Delay,
    Error,
}

impl RawFault {
    pub(super) fn check(self, at: &Field, reader: &mut Reader<'_>) -> Result<Fault, ConfigError> {
        let fraction = at.member("fault_enabled");
        let fraction = fraction.required(self.fault_enabled)?.check(&fraction, reader)?;
        let delay = self.delay.map_or(Duration::ZERO, RawDuration::get);
        let kind = match self.fault_type.unwrap_or_default() {
            RawFaultType::Error => FaultKind::Error(delay),
            RawFaultType::Delay if delay.is_zero() => {
                return Err(at.member("delay").refuse("must be greater than 0s for a DELAY fault"));
            }
            RawFaultType::Delay => FaultKind::Delay(delay),
        };
        let commands = at.member("commands").each(self.commands, |at, command| {
            if command.is_empty() {
                return Err(at.refuse("is empty"));
            }
            Ok(command.to_ascii_lowercase())
        })?;
        Ok(Fault { kind, fraction, commands })
    }
}
