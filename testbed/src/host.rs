//! Our own proxy-wasm host with the module.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::locate;
use crate::plugin::PluginConfig;
use crate::port::{Port, given_or_free};
use crate::process::Process;
use crate::server::last_lines;
use crate::temp::TempDir;
use crate::wait::{Probe, until};

/// Time for the host to start; compiling the module takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How to start our host.
#[derive(Clone, Debug)]
pub struct HostOptions {
    /// The module's configuration.
    pub configuration: PluginConfig,
    /// The module; `None` is the one that `make wasm` built.
    pub wasm: Option<PathBuf>,
    /// Where clients connect; `None` is a free port of 127.0.0.1.
    pub listen: Option<SocketAddr>,
}

impl HostOptions {
    /// On a free port.
    pub fn new(configuration: PluginConfig) -> Self {
        Self { configuration, wasm: None, listen: None }
    }
}

/// A running `slotmesh-host`. Dropping it kills it.
#[derive(Debug)]
pub struct Host {
    process: Process,
    listen: SocketAddr,
    _ports: Vec<Port>,
    _dir: TempDir,
}

impl Host {
    /// Starts the host and waits until it accepts connections.
    ///
    /// # Errors
    /// The host or the module is not there, the port is taken, or the host ends; then the error
    /// carries its last words.
    pub fn start(options: HostOptions) -> Result<Self> {
        let dir = TempDir::new("host")?;
        let mut ports = Vec::new();
        let listen = given_or_free(options.listen, &mut ports)?;

        let config = dir.path().join("plugin.json");
        fs::write(&config, options.configuration.as_str())?;
        let mut command = Command::new(locate::host()?);
        command.arg("--wasm").arg(options.wasm.map_or_else(locate::wasm, Ok)?);
        command.args(["--listen", &listen.to_string()]).arg("--config").arg(config);
        let process = Process::start(command, &dir.path().join("host.log"))?;
        let mut host = Self { process, listen, _ports: ports, _dir: dir };
        host.wait_until_serving()?;
        Ok(host)
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.listen
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// All it logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Copies the log to standard error until the host ends by itself or a signal asks this process
    /// to stop ([`crate::wait::stop_on_signals`]); then stops the host.
    ///
    /// # Errors
    /// The host ended by itself.
    pub fn follow(self) -> Result<()> {
        self.process.follow("slotmesh-host")
    }

    fn wait_until_serving(&mut self) -> Result<()> {
        let (process, listen) = (&mut self.process, self.listen);
        until("slotmesh-host to accept connections", PATIENCE, || {
            if let Some(status) = process.exited()? {
                let words = last_lines(&process.log(), 5);
                bail!("slotmesh-host ended with {status}: {words}");
            }
            Ok(Probe::retry(TcpStream::connect(listen).map(drop).map_err(Into::into)))
        })
    }
}
