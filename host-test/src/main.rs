//! Runs a Slotmesh .wasm outside Envoy, on real sockets.

use std::{io::ErrorKind, net::SocketAddr, path::PathBuf, process::ExitCode, thread};

use anyhow::{Context, bail};
use clap::Parser;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};
use slotmesh_host::{Config, Level, Log, ServeError, Server, Wasm};

/// Run a Slotmesh .wasm outside Envoy: clients connect here, nodes are reached over TCP.
#[derive(Parser)]
#[command(name = "slotmesh-host", version)]
struct Options {
    /// The plugin, as scripts/build-wasm builds it.
    #[arg(long, value_name = "PATH")]
    wasm: PathBuf,
    /// Where clients connect; port 0 is a free one.
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:6379")]
    listen: SocketAddr,
    /// The router's configuration (JSON): what pluginConfig is in a WasmPlugin.
    #[arg(long, value_name = "PATH")]
    config: PathBuf,
    /// The least severe log level to print: trace, debug, info, warn, error or critical.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: Level,
}

fn main() -> ExitCode {
    match run(Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slotmesh-host: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> anyhow::Result<()> {
    let path = options.config.display();
    let configuration =
        std::fs::read(&options.config).with_context(|| format!("cannot read {path}"))?;
    let wasm = Wasm::from_file(&options.wasm)?;
    let mut config = Config::new(configuration);
    config.log = Log::stderr(options.log_level);
    config.seed = std::process::id().into();
    let mut server = match Server::new(&wasm, config, options.listen) {
        Err(ServeError::Listen { address, why }) if why.kind() == ErrorKind::AddrInUse => bail!(
            "{address} is taken by another program; choose another with --listen ADDRESS:PORT \
             (port 0 is a free one)"
        ),
        outcome => outcome?,
    };

    let stopper = server.stopper();
    let mut signals = Signals::new([SIGINT, SIGTERM]).context("cannot watch for signals")?;
    thread::spawn(move || signals.forever().for_each(|_| stopper.stop()));
    println!("listening on {}", server.address());
    server.run().context("cannot wait for events")
}
