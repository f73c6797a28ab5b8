//! `slotmesh-bench`: what `make bench` runs. Slotmesh and Envoy's own redis_proxy, on the same
//! Envoy binary, before the same Redis Cluster, measured in turn.

mod contender;
mod door;
mod generator;
mod greedy;
mod load;
mod measure;
mod memory;
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
use memory::Footprint;
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
    /// One more proxy: `name=host:port[,pid]` of one that runs already, or `name=command`, which is
    /// started and stopped. The command must listen on 127.0.0.1:$PORT, and $SEEDS has the nodes,
    /// as host:port,host:port.
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
        load::all().into_iter().filter(|load| self.wants(load.name)).collect()
    }

    fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only))
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(missed) if missed.is_empty() => ExitCode::SUCCESS,
        Ok(missed) => {
            eprintln!("\nerror: {} targets are missed by more than noise:", missed.len());
            missed.iter().for_each(|missed| eprintln!("  {missed}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the targets that are missed.
fn run(cli: &Cli) -> Result<Vec<String>> {
    wait::stop_on_signals()?;
    let (plan, loads) = (cli.plan(), cli.loads());
    ensure!(!loads.is_empty() || cli.wants(memory::NAME), "no load has such a name");
    eprintln!("bench: starting six Redis nodes, a mirror, and the Envoys");
    let cluster = RedisCluster::start(ClusterOptions {
        // Nothing but the proxies is to be slow.
        redis_args: ["--appendonly", "no", "--save", ""].map(str::to_owned).to_vec(),
        ..ClusterOptions::default()
    })?;
    let mirror = RedisServer::start(&["--appendonly", "no", "--save", ""])?;
    let mut results = Results::default();
    for profile in Profile::ALL {
        let mut loads = loads.iter().filter(|load| load.profile == profile).peekable();
        let wants_memory = profile == Profile::Plain && cli.wants(memory::NAME);
        if loads.peek().is_none() && !wants_memory {
            continue;
        }
        let mut contenders = Contender::start_all(profile, &cli.module, &cluster, &mirror)?;
        if profile == Profile::Plain {
            for other in &cli.other {
                contenders.push(Contender::other(other, &cluster)?);
            }
        }
        if wants_memory {
            let idle = memory::of_all(&contenders)?;
            fill(&memory::load(), &contenders, &cluster)?;
            results.memory = memory::measure(&contenders, &idle)?;
        }
        for load in loads {
            fill(load, &contenders, &cluster)?;
            let all = measure::measure(load, &contenders, plan)?;
            let summed = summary::sum_up(load, &all);
            eprint!("{}", progress(load, &summed));
            results.rows.extend(summed);
            results.series.push((load.name, all));
        }
    }
    let report = results.report(plan);
    println!("{report}");
    results.write(&cli.out, &report)?;
    eprintln!("bench: results.md, results.json and plots are in {}", cli.out.display());
    Ok(results.rows.iter().flat_map(Row::missed).collect())
}

/// Gives every key of the load its value.
fn fill(load: &Load, contenders: &[Contender], cluster: &RedisCluster) -> Result<()> {
    // The keys of the load before are of another size.
    cluster.flush()?;
    let mut ours_is_filled = false;
    for contender in contenders {
        if contender.is_before_our_cluster && std::mem::replace(&mut ours_is_filled, true) {
            continue;
        }
        let filled = Generator::fill(contender.addr, load);
        filled.with_context(|| format!("{}: filling through {}", load.name, contender.name))?;
    }
    cluster.wait_until_in_sync()
}

/// A line for each load while the run lasts.
fn progress(load: &Load, rows: &[Row]) -> String {
    let ratios = rows.iter().filter_map(|row| {
        let ratios = row.ratios?;
        let cpu = ratios.cpu.map_or_else(String::new, |cpu| format!(", CPU {:.2}x", cpu.median));
        Some(format!("  {} {:.2}x{cpu}", row.contender, ratios.rate.median))
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
        "{} CPUs ({model}), Linux {}, load average at the end {load}. Each load was measured {} \
         times for {:?} on each proxy, in turn. Figures are medians; a ratio is taken within a round.\n",
        models.count(),
        kernel.trim(),
        plan.rounds,
        plan.duration,
    )
}

/// All that was measured.
#[derive(Default)]
struct Results {
    memory: Vec<Footprint>,
    rows: Vec<Row>,
    series: Vec<(&'static str, Vec<Series>)>,
}

impl Results {
    fn report(&self, plan: Plan) -> String {
        let mut parts = vec![machine(plan)];
        if self.rows.iter().any(|row| row.verdict.is_some()) {
            parts.push(table::targets(&self.rows));
        }
        if !self.memory.is_empty() {
            parts.push(table::memory(&self.memory));
        }
        if !self.rows.is_empty() {
            parts.push(table::measurements(&self.rows));
        }
        parts.join("\n")
    }

    fn write(&self, dir: &Path, report: &str) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        let head = "<!-- written by `make bench` -->\n# Results\n\n";
        fs::write(dir.join("results.md"), format!("{head}{report}"))?;
        let measured = self.series.iter();
        let measured: Vec<_> =
            measured.map(|(load, series)| json!({"load": load, "series": series})).collect();
        let json = json!({"memory": self.memory, "summary": self.rows, "measurements": measured});
        fs::write(dir.join("results.json"), serde_json::to_string_pretty(&json)?)?;
        if self.rows.is_empty() {
            return Ok(());
        }
        plot::draw_all(&self.rows, dir)
    }
}
