//! One load on every contender, in turn, several times.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::contender::Contender;
use crate::generator::Generator;
use crate::greedy::Greedy;
use crate::load::Load;
use crate::usage;

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// Time of one measurement.
    pub(crate) duration: Duration,
    /// Time before it, in which caches and buffers get warm.
    pub(crate) warm_up: Duration,
}

/// All measurements of one contender under one load.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) contender: String,
    /// In the order of the rounds; round `n` of all contenders was measured at about the same time.
    pub(crate) rounds: Vec<Sample>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    pub(crate) p999_us: u64,
    /// CPU time of the proxy for a request; `None` if its pid is not known.
    pub(crate) cpu_us: Option<f64>,
    /// Memory of the proxy's own at the end.
    pub(crate) memory_bytes: Option<u64>,
}

/// Measures all contenders under `load`, round by round, so that whatever else the machine does
/// hits them alike.
pub(crate) fn measure(load: &Load, contenders: &[Contender], plan: Plan) -> Result<Vec<Series>> {
    let mut series: Vec<Series> = contenders
        .iter()
        .map(|contender| Series { contender: contender.name.clone(), rounds: Vec::new() })
        .collect();
    for round in 0..plan.rounds {
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let (Some(contender), Some(series)) = (contenders.get(index), series.get_mut(index))
            else {
                continue;
            };
            let sample = sample(load, contender, plan);
            let sample = sample.with_context(|| format!("{}: {}", contender.name, load.name))?;
            series.rounds.push(sample);
        }
    }
    Ok(series)
}

fn sample(load: &Load, contender: &Contender, plan: Plan) -> Result<Sample> {
    let greedy = load.beside_greedy.then(|| Greedy::start(contender.addr)).transpose()?;
    let mut generator = Generator::connect(contender.addr, load)?;
    generator.run(plan.warm_up)?;
    let cpu_time = || contender.pid.map(usage::cpu_time).transpose();
    let before = cpu_time()?;
    let outcome = generator.run(plan.duration)?;
    let after = cpu_time()?;
    ensure!(greedy.is_none_or(|greedy| greedy.is_served()), "the greedy client was closed");
    let requests = outcome.requests as f64;
    let percentile = |quantile| outcome.latencies.value_at_quantile(quantile);
    Ok(Sample {
        requests_per_second: requests / outcome.took.as_secs_f64(),
        p50_us: percentile(0.5),
        p99_us: percentile(0.99),
        p999_us: percentile(0.999),
        cpu_us: after
            .zip(before)
            .map(|(after, before)| (after - before).as_secs_f64() * 1e6 / requests.max(1.0)),
        memory_bytes: contender.pid.map(usage::memory).transpose()?,
    })
}
