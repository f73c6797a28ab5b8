//! `slotmesh-bench`: what `make bench` runs. Slotmesh and Envoy's own redis_proxy, on the same Envoy
//! binary, before the same Redis Cluster, measured in turn.

mod contender;
mod generator;
mod load;
mod measure;
mod plot;
mod summary;
mod table;
mod traffic;
mod usage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;
use slotmesh_testbed::{ClusterOptions, RedisCluster, RedisServer, wait};

use contender::{Contender, Module, Other};
use generator::Generator;
use load::{Load, Profile};
use measure::{Plan, Series};
use summary::Row;

/// Measures Slotmesh side by side with Envoy's own redis_proxy.
#[derive(Parser)]
#[command(name = "slotmesh-bench")]
struct Cli {
    /// A short run: what it says is a hint only.
    #[arg(long)]
    quick: bool,
    /// Only loads whose name holds this text.
    #[arg(long)]
    only: Option<String>,
    /// Rounds for each load; their median counts.
    #[arg(long)]
    rounds: Option<usize>,
    /// One more build of the module, to see what a change is worth: name=path.
    #[arg(long)]
    module: Vec<Module>,
    /// One more proxy before a cluster of its own choosing: `name=host:port[,pid]`.
    #[arg(long)]
    other: Vec<Other>,
    /// Where results.md, results.json and the plots go.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

impl Cli {
    fn plan(&self) -> Plan {
        let millis = Duration::from_millis;
        let mut plan = match self.quick {
            true => Plan { rounds: 3, duration: millis(500), warm_up: millis(200) },
            false => Plan { rounds: 7, duration: millis(2000), warm_up: millis(500) },
        };
        plan.rounds = self.rounds.unwrap_or(plan.rounds).max(1);
        plan
    }

    fn loads(&self) -> Vec<Load> {
        let wanted = |load: &Load| self.only.as_ref().is_none_or(|only| load.name.contains(only));
        load::all().into_iter().filter(wanted).collect()
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    wait::stop_on_signals()?;
    let (plan, loads) = (cli.plan(), cli.loads());
    ensure!(!loads.is_empty(), "no load has such a name");
    eprintln!("bench: starting six Redis nodes, a mirror, and the Envoys");
    let cluster = RedisCluster::start(ClusterOptions {
        // Nothing but the proxies is to be slow.
        redis_args: ["--appendonly", "no", "--save", ""].map(str::to_owned).to_vec(),
        ..ClusterOptions::default()
    })?;
    let mirror = RedisServer::start(&["--appendonly", "no", "--save", ""])?;
    let (mut rows, mut series): (Vec<Row>, Vec<(&str, Vec<Series>)>) = Default::default();
    for profile in [Profile::Plain, Profile::ReplicasAndMirror] {
        let mut loads = loads.iter().filter(|load| load.profile == profile).peekable();
        if loads.peek().is_none() {
            continue;
        }
        let mut contenders = Contender::start_all(profile, &cli.module, &cluster, &mirror)?;
        if profile == Profile::Plain {
            contenders.extend(cli.other.iter().map(Contender::from));
        }
        for load in loads {
            let all = measure_one(load, &contenders, &cluster, plan)?;
            let summed = summary::sum_up(load, &all);
            eprint!("{}", progress(load, &summed));
            rows.extend(summed);
            series.push((load.name, all));
        }
    }
    let report =
        format!("{}\n{}\n{}", machine(plan), table::targets(&rows), table::measurements(&rows));
    println!("{report}");
    write_results(&cli.out, &report, &rows, &series)?;
    eprintln!("bench: results.md, results.json and plots are in {}", cli.out.display());
    Ok(())
}

fn measure_one(
    load: &Load,
    contenders: &[Contender],
    cluster: &RedisCluster,
    plan: Plan,
) -> Result<Vec<Series>> {
    // The keys of the load before are of another size.
    cluster.flush()?;
    let mut addrs: Vec<_> = contenders.iter().map(|contender| contender.addr).collect();
    if load.profile == Profile::ReplicasAndMirror {
        addrs.truncate(1);
    }
    for addr in addrs {
        Generator::fill(addr, load).with_context(|| format!("{}: filling", load.name))?;
    }
    cluster.wait_until_in_sync()?;
    measure::measure(load, contenders, plan)
}

/// A line for each load while the run lasts.
fn progress(load: &Load, rows: &[Row]) -> String {
    let ratios = rows.iter().filter_map(|row| {
        let ratios = row.ratios?;
        let cpu = ratios.cpu.map_or_else(String::new, |cpu| format!(", CPU {cpu:.2}x"));
        Some(format!("  {} {:.2}x{cpu}", row.contender, ratios.rate))
    });
    format!("  {:<36}{}\n", load.name, ratios.collect::<String>())
}

/// Where and how this was measured.
fn machine(plan: Plan) -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models = cpus.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = models.clone().next().map_or("unknown", |(_, model)| model);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!(
        "{} CPUs ({model}), Linux {}, load average at the end {load}; {} rounds of {:?} each, \
         medians, ratios within a round.\n",
        models.count(),
        kernel.trim(),
        plan.rounds,
        plan.duration,
    )
}

fn write_results(
    dir: &Path,
    report: &str,
    rows: &[Row],
    series: &[(&str, Vec<Series>)],
) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    let head = "<!-- written by `make bench` -->\n# Results\n\n";
    fs::write(dir.join("results.md"), format!("{head}{report}"))?;
    let all: Vec<_> =
        series.iter().map(|(load, series)| json!({"load": load, "series": series})).collect();
    let json = json!({"summary": rows, "measurements": all});
    fs::write(dir.join("results.json"), serde_json::to_string_pretty(&json)?)?;
    plot::draw_all(rows, dir)
}
