//! From measurements to medians, ratios and verdicts.

use serde::Serialize;

use crate::contender::NATIVE_NAME;
use crate::load::{Load, Target};
use crate::measure::{Sample, Series};

/// What all rounds say of one contender under one load: medians.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) load: &'static str,
    pub(crate) contender: String,
    #[serde(flatten)]
    pub(crate) median: Sample,
    /// To redis_proxy in the same round; `None` for redis_proxy itself.
    pub(crate) ratios: Option<Ratios>,
    pub(crate) verdict: Option<Verdict>,
}

/// Ratios to redis_proxy.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ratios {
    pub(crate) rate: f64,
    pub(crate) p99: f64,
    pub(crate) cpu: Option<f64>,
}

/// Whether the targets of a load are met.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) rate_target: f64,
    pub(crate) rate_met: bool,
    pub(crate) cpu_target: f64,
    pub(crate) cpu_met: bool,
}

/// Sums up the series of one load.
pub(crate) fn sum_up(load: &Load, all: &[Series]) -> Vec<Row> {
    let native = all.iter().find(|series| series.contender == NATIVE_NAME);
    let row = |series: &Series| {
        let compared = native.filter(|native| native.contender != series.contender);
        let ratios = compared.map(|native| ratios(&series.rounds, &native.rounds));
        let ours = series.contender == "slotmesh";
        let verdict = load.target.filter(|_| ours).zip(ratios).map(|(t, r)| judge(t, r));
        Row {
            load: load.name,
            contender: series.contender.clone(),
            median: median_sample(&series.rounds),
            ratios,
            verdict,
        }
    };
    all.iter().map(row).collect()
}

fn median_sample(rounds: &[Sample]) -> Sample {
    let of = |value: fn(&Sample) -> f64| median(rounds.iter().map(value));
    let cpu = rounds.iter().map(|sample| sample.cpu_us).collect::<Option<Vec<f64>>>();
    let memory = rounds.iter().map(|sample| sample.memory_bytes).collect::<Option<Vec<u64>>>();
    Sample {
        requests_per_second: of(|sample| sample.requests_per_second),
        p50_us: of(|sample| sample.p50_us as f64) as u64,
        p99_us: of(|sample| sample.p99_us as f64) as u64,
        p999_us: of(|sample| sample.p999_us as f64) as u64,
        cpu_us: cpu.map(median),
        memory_bytes: memory.map(|all| median(all.into_iter().map(|bytes| bytes as f64)) as u64),
    }
}

/// The median of the ratios of rounds that were measured one after the other: what the machine was
/// busy with besides is in both numbers of a ratio.
fn ratios(ours: &[Sample], native: &[Sample]) -> Ratios {
    let of = |value: fn(&Sample) -> f64| {
        median(ours.iter().zip(native).map(|(ours, native)| value(ours) / value(native)))
    };
    let cpu = ours.iter().zip(native).map(|(ours, native)| Some(ours.cpu_us? / native.cpu_us?));
    Ratios {
        rate: of(|sample| sample.requests_per_second),
        p99: of(|sample| sample.p99_us as f64),
        cpu: cpu.collect::<Option<Vec<f64>>>().map(median),
    }
}

fn judge(target: Target, ratios: Ratios) -> Verdict {
    Verdict {
        rate_target: target.rate,
        rate_met: ratios.rate >= target.rate,
        cpu_target: target.cpu,
        cpu_met: ratios.cpu.is_some_and(|cpu| cpu <= target.cpu),
    }
}

/// The middle value, or the mean of the two in the middle.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().saturating_sub(1) / 2, values.len() / 2);
    match (values.get(low), values.get(high)) {
        (Some(low), Some(high)) => (low + high) / 2.0,
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(contender: &str, rates_and_cpus: &[(f64, f64)]) -> Series {
        let sample = |(rate, cpu): &(f64, f64)| Sample {
            requests_per_second: *rate,
            p50_us: 1,
            p99_us: 1,
            p999_us: 1,
            cpu_us: Some(*cpu),
            memory_bytes: None,
        };
        let rounds = rates_and_cpus.iter().map(sample).collect();
        Series { contender: contender.to_owned(), rounds }
    }

    #[test]
    fn a_ratio_is_taken_within_a_round_and_not_between_medians() {
        let native = series(NATIVE_NAME, &[(100.0, 10.0), (50.0, 10.0), (10.0, 10.0)]);
        let ours = series("slotmesh", &[(110.0, 5.0), (55.0, 5.0), (11.0, 20.0)]);
        let rows = sum_up(&crate::load::all()[2], &[native, ours]);
        let ratios = rows[1].ratios.unwrap();
        assert!((ratios.rate - 1.1).abs() < 1e-9 && (ratios.cpu.unwrap() - 0.5).abs() < 1e-9);
        let verdict = rows[1].verdict.unwrap();
        assert!(verdict.rate_met && verdict.cpu_met);
        assert!(rows[0].ratios.is_none());
    }

    #[test]
    fn the_median_of_an_even_number_lies_in_the_middle() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
    }
}
