//! From measurements to medians, ratios and verdicts.

use serde::Serialize;

use crate::contender::{NATIVE_NAME, OWN_NAME};
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
    pub(crate) rate: Ratio,
    pub(crate) p99: Ratio,
    pub(crate) cpu: Option<Ratio>,
}

/// The ratios of all rounds: the middle half of them lies between the quartiles.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) lower_quartile: f64,
    pub(crate) upper_quartile: f64,
}

/// Whether the targets of a load are met.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) rate_target: f64,
    pub(crate) rate: Outcome,
    pub(crate) cpu_target: f64,
    pub(crate) cpu: Outcome,
}

/// Whether one target is met.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub(crate) enum Outcome {
    /// By the median of all rounds.
    Met,
    /// Not by the median, but by a quarter of the rounds or more.
    MissedWithinNoise,
    /// By less than a quarter of the rounds.
    Missed,
}

impl Row {
    /// What misses its target by more than noise, in words.
    pub(crate) fn missed(&self) -> Vec<String> {
        let (Some(verdict), Some(ratios)) = (self.verdict, self.ratios) else { return Vec::new() };
        let mut missed = Vec::new();
        if verdict.rate == Outcome::Missed {
            let (rate, target) = (ratios.rate.median, verdict.rate_target);
            missed.push(format!("{}: {rate:.2}x of the requests instead of {target}x", self.load));
        }
        if verdict.cpu == Outcome::Missed {
            let (cpu, target) = (ratios.cpu.map_or(f64::NAN, |cpu| cpu.median), verdict.cpu_target);
            missed.push(format!("{}: {cpu:.2}x of the CPU instead of {target}x", self.load));
        }
        missed
    }
}

/// Sums up the series of one load.
pub(crate) fn sum_up(load: &Load, all: &[Series]) -> Vec<Row> {
    // There is no ratio to one that has answered nothing.
    let answers = |series: &&Series| series.rounds.iter().all(|one| one.requests_per_second > 0.0);
    let native = all.iter().find(|series| series.contender == NATIVE_NAME).filter(answers);
    let row = |series: &Series| {
        let compared = native.filter(|native| native.contender != series.contender);
        let ratios = compared.map(|native| ratios(&series.rounds, &native.rounds));
        let ours = series.contender == OWN_NAME;
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

/// Ratios of rounds that were measured one after the other: what the machine was busy with besides
/// is in both numbers of a ratio.
fn ratios(ours: &[Sample], native: &[Sample]) -> Ratios {
    let of = |value: fn(&Sample) -> f64| {
        Ratio::of(ours.iter().zip(native).map(|(ours, native)| value(ours) / value(native)))
    };
    let cpu = ours.iter().zip(native).map(|(ours, native)| Some(ours.cpu_us? / native.cpu_us?));
    Ratios {
        rate: of(|sample| sample.requests_per_second),
        p99: of(|sample| sample.p99_us as f64),
        cpu: cpu.collect::<Option<Vec<f64>>>().map(Ratio::of),
    }
}

impl Ratio {
    fn of(ratios: impl IntoIterator<Item = f64>) -> Self {
        let ratios = sorted(ratios);
        let [lower_quartile, median, upper_quartile] =
            [0.25, 0.5, 0.75].map(|share| quantile(&ratios, share));
        Self { median, lower_quartile, upper_quartile }
    }
}

fn judge(target: Target, ratios: Ratios) -> Verdict {
    let outcome = |median_meets: bool, a_quarter_meets: bool| match (median_meets, a_quarter_meets)
    {
        (true, _) => Outcome::Met,
        (false, true) => Outcome::MissedWithinNoise,
        (false, false) => Outcome::Missed,
    };
    let rate = ratios.rate;
    let cpu = ratios.cpu.map_or(Outcome::Missed, |cpu| {
        outcome(cpu.median <= target.cpu, cpu.lower_quartile <= target.cpu)
    });
    Verdict {
        rate_target: target.rate,
        rate: outcome(rate.median >= target.rate, rate.upper_quartile >= target.rate),
        cpu_target: target.cpu,
        cpu,
    }
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(&sorted(values), 0.5)
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value below which this share of the sorted ones lies, on the line between its two
/// neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * sorted.len().saturating_sub(1) as f64;
    let (low, high) = (place.floor() as usize, place.ceil() as usize);
    match (sorted.get(low), sorted.get(high)) {
        (Some(low), Some(high)) => low + (high - low) * place.fract(),
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
        let ours = series(OWN_NAME, &[(110.0, 5.0), (55.0, 5.0), (11.0, 20.0)]);
        let rows = sum_up(&load(Target { rate: 1.0, cpu: 1.05 }), &[native, ours]);
        let ratios = rows[1].ratios.unwrap();
        assert!((ratios.rate.median - 1.1).abs() < 1e-9);
        assert!((ratios.cpu.unwrap().median - 0.5).abs() < 1e-9);
        let verdict = rows[1].verdict.unwrap();
        assert_eq!((verdict.rate, verdict.cpu), (Outcome::Met, Outcome::Met));
        assert!(rows[0].ratios.is_none());
    }

    #[test]
    fn a_target_that_no_quarter_of_the_rounds_meets_is_missed_beyond_noise() {
        let judged = |ours: [f64; 4]| {
            let native = series(NATIVE_NAME, &[(100.0, 10.0); 4]);
            let ours = series(OWN_NAME, &ours.map(|rate| (rate, 10.0)));
            sum_up(&load(Target { rate: 1.0, cpu: 0.9 }), &[native, ours]).remove(1)
        };
        let row = judged([90.0, 95.0, 99.0, 120.0]);
        assert_eq!(row.verdict.unwrap().rate, Outcome::MissedWithinNoise);
        let row = judged([90.0, 95.0, 96.0, 97.0]);
        assert_eq!(row.verdict.unwrap().rate, Outcome::Missed);
        let missed = ["of the requests instead of 1x", "1.00x of the CPU instead of 0.9x"];
        let said = row.missed();
        assert_eq!(said.len(), 2);
        assert!(said.iter().zip(missed).all(|(said, missed)| said.ends_with(missed)), "{said:?}");
    }

    #[test]
    fn a_quantile_lies_between_its_neighbours() {
        assert_eq!(median([4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0, 5.0], 0.75), 4.0);
        assert_eq!(quantile(&[7.0], 0.25), 7.0);
    }

    fn load(target: Target) -> Load {
        Load { target: Some(target), ..crate::load::all()[0] }
    }
}
