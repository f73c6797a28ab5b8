//! Envoy's `RuntimeFractionalPercent`: a share whose default an operator could change at run time.

use serde::Deserialize;

use super::super::{ConfigError, Fraction};
use super::Reader;
use super::field::Field;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawRuntimeFraction {
    #[serde(alias = "defaultValue")]
    default_value: Option<RawFraction>,
    #[serde(alias = "runtimeKey")]
    runtime_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub(super) struct RawFraction {
    numerator: Option<u32>,
    denominator: Option<RawDenominator>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum RawDenominator {
    Hundred,
    TenThousand,
    Million,
}

impl RawRuntimeFraction {
    pub(super) fn check(
        self,
        at: &Field,
        reader: &mut Reader<'_>,
    ) -> Result<Fraction, ConfigError> {
        let default_value = at.member("default_value");
        let fraction = default_value.required(self.default_value)?.check(&default_value)?;
        reader.no_effect(
            &at.member("runtime_key"),
            self.runtime_key,
            "a Wasm module does not see Envoy's runtime: default_value counts",
        );
        Ok(fraction)
    }
}

impl RawFraction {
    fn check(self, at: &Field) -> Result<Fraction, ConfigError> {
        let denominator = match self.denominator {
            None | Some(RawDenominator::Hundred) => 100,
            Some(RawDenominator::TenThousand) => 10_000,
            Some(RawDenominator::Million) => 1_000_000,
        };
        let numerator = self.numerator.unwrap_or(0);
        if numerator > denominator {
            let reason = format!("is more than all: at most {denominator}");
            return Err(at.member("numerator").refuse(reason));
        }
        Ok(Fraction { numerator, denominator })
    }
}
