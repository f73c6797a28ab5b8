//! One redis-server process.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::locate;
use crate::port::Port;
use crate::process::{self, Process};
use crate::temp::TempDir;
use crate::wait::{Probe, until};

/// Files in a server's own directory.
const SOCKET: &str = "redis.sock";
const CERTIFICATE: &str = "certificate.pem";
const KEY: &str = "key.pem";
const AUTHORITY: &str = "authority.pem";

/// Time for a server to start or to end; long, since tests share few cores.
const PATIENCE: Duration = Duration::from_secs(30);

/// Time for one command sent to a server.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

/// What a server asks of its clients, and they of it.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// The default user's password.
    pub password: Option<String>,
    /// TLS, with no plaintext port beside it; the testbed itself connects by a Unix socket.
    pub tls: Option<Tls>,
}

/// Keys and certificates, in PEM.
#[derive(Clone, Debug)]
pub struct Tls {
    /// The server's certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// The authority that must have signed the other side's certificate.
    pub authority: String,
}

/// A redis-server of its own on 127.0.0.1, with a port, a directory and data of its own.
///
/// It keeps its data over [`restart`](Self::restart) and even over [`kill`](Self::kill): every
/// write is in the append-only file before it is answered.
#[derive(Debug)]
pub struct RedisServer {
    security: Security,
    port: Arc<Port>,
    bus: Option<Port>,
    args: Vec<String>,
    dir: TempDir,
    process: Mutex<Option<Process>>,
}

impl RedisServer {
    /// Starts a standalone server and waits until it answers. `args` are options for redis-server
    /// (`["--maxmemory", "10mb"]`) and win over those set here.
    ///
    /// # Errors
    /// redis-server is not installed or refuses to start; the error carries its log's end.
    pub fn start(args: &[&str]) -> Result<Self> {
        Self::start_secured(Security::default(), args)
    }

    /// Like [`start`](Self::start), with a password or TLS.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_secured(security: Security, args: &[&str]) -> Result<Self> {
        let args = args.iter().map(ToString::to_string).collect();
        Self::start_on(Arc::new(Port::free()?), None, args, security)
    }

    /// Starts another server at the address of `gone`, which has been [killed](Self::kill), with a
    /// directory and data of its own.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_in_place_of(gone: &Self, args: &[&str]) -> Result<Self> {
        let args = args.iter().map(ToString::to_string).collect();
        Self::start_on(Arc::clone(&gone.port), None, args, Security::default())
    }

    /// Starts a cluster node, not yet in any cluster, that forgets another after `node_timeout`.
    pub(crate) fn start_node(
        node_timeout: Duration,
        args: &[String],
        security: Security,
    ) -> Result<Self> {
        let bus = Port::free()?;
        let mut all: Vec<String> = vec![
            "--cluster-enabled".to_owned(),
            "yes".to_owned(),
            "--cluster-port".to_owned(),
            bus.number().to_string(),
            "--cluster-node-timeout".to_owned(),
            node_timeout.as_millis().to_string(),
        ];
        all.extend_from_slice(args);
        Self::start_on(Arc::new(Port::free()?), Some(bus), all, security)
    }

    fn start_on(
        port: Arc<Port>,
        bus: Option<Port>,
        args: Vec<String>,
        security: Security,
    ) -> Result<Self> {
        let dir = TempDir::new("redis")?;
        if let Some(tls) = &security.tls {
            fs::write(dir.path().join(CERTIFICATE), &tls.certificate)?;
            fs::write(dir.path().join(KEY), &tls.key)?;
            fs::write(dir.path().join(AUTHORITY), &tls.authority)?;
        }
        let server = Self { security, port, bus, args, dir, process: Mutex::new(None) };
        server.run()?;
        Ok(server)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// The port of its cluster bus, if it is a cluster node.
    pub fn bus_port(&self) -> Option<u16> {
        self.bus.as_ref().map(Port::number)
    }

    /// Its process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process().as_ref().map(Process::pid)
    }

    /// A connection of the `redis` crate, which fails rather than waits when the server hangs.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn connect(&self) -> Result<redis::Connection> {
        let secret = self.security.password.as_deref();
        let url = match &self.security.tls {
            Some(_) => {
                let socket = self.dir.path().join(SOCKET);
                let query = secret.map(|secret| format!("?pass={secret}")).unwrap_or_default();
                format!("redis+unix://{}{query}", socket.display())
            }
            None => {
                let user = secret.map(|secret| format!(":{secret}@")).unwrap_or_default();
                format!("redis://{user}{}/", self.addr())
            }
        };
        let client = redis::Client::open(url)?;
        let connection = client.get_connection_with_timeout(COMMAND_TIMEOUT)?;
        connection.set_read_timeout(Some(COMMAND_TIMEOUT))?;
        connection.set_write_timeout(Some(COMMAND_TIMEOUT))?;
        Ok(connection)
    }

    /// What redis-cli prints for one command; an error reply is printed, too.
    ///
    /// # Errors
    /// redis-cli cannot connect or gets no answer in time.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        let mut command = self.cli_command()?;
        command.args(["-p", &self.port.number().to_string()]).args(args);
        process::run(command, COMMAND_TIMEOUT)
    }

    /// redis-cli with all that it takes to be let in here, and by others that are secured alike.
    pub(crate) fn cli_command(&self) -> Result<Command> {
        let mut command = Command::new(locate::program("redis-cli")?);
        if let Some(password) = &self.security.password {
            command.env("REDISCLI_AUTH", password);
        }
        if self.security.tls.is_some() {
            command.arg("--tls").arg("--cacert").arg(self.dir.path().join(AUTHORITY));
        }
        Ok(command)
    }

    /// Ends the server as an operator would, starts it again on the same port with the data it
    /// had, and waits until it answers. Starts it if it does not run.
    ///
    /// A primary that starts again answers `CLUSTERDOWN` for two more seconds: Redis waits for the
    /// others to tell it that it has been replaced.
    ///
    /// # Errors
    /// It does not end or does not start in time.
    pub fn restart(&self) -> Result<()> {
        if let Some(process) = self.process().take() {
            process.signal(Signal::CONT)?;
            process.terminate(PATIENCE)?;
        }
        self.run()
    }

    /// Kills the server with SIGKILL; its clients see their connections reset.
    pub fn kill(&self) {
        drop(self.process().take());
    }

    /// Stops the server with SIGSTOP: it stays connected and answers nothing.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a paused server go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.process().as_ref().context("the server does not run")?.signal(signal)
    }

    fn run(&self) -> Result<()> {
        let mut command = Command::new(locate::program("redis-server")?);
        command.current_dir(self.dir.path());
        command.args(["--bind", "127.0.0.1"]);
        let port = self.port.number().to_string();
        match &self.security.tls {
            None => command.args(["--port", &port]),
            Some(_) => command
                .args(["--port", "0", "--tls-port", &port, "--unixsocket", SOCKET])
                .args(["--tls-cluster", "yes", "--tls-replication", "yes"])
                .args(["--tls-auth-clients", "no", "--tls-cert-file", CERTIFICATE])
                .args(["--tls-key-file", KEY, "--tls-ca-cert-file", AUTHORITY]),
        };
        if let Some(password) = &self.security.password {
            command.args(["--requirepass", password, "--masterauth", password]);
        }
        // Written before each answer, left to the kernel to sync: outlives the process, as fast.
        command.args(["--save", "", "--appendonly", "yes", "--appendfsync", "no"]);
        // A replica's first copy starts at once instead of after five seconds.
        command.args(["--repl-diskless-sync-delay", "0"]);
        command.args(&self.args);
        let mut process = Process::start(command, &self.dir.path().join("redis.log"))?;
        until(&format!("redis-server on {}", self.addr()), PATIENCE, || {
            if let Some(status) = process.exited()? {
                bail!("redis-server ended with {status}: {}", last_lines(&process.log(), 5));
            }
            // "LOADING" is an error, too: it still reads its data.
            Ok(Probe::retry(self.ping()))
        })?;
        *self.process() = Some(process);
        Ok(())
    }

    fn ping(&self) -> Result<()> {
        Ok(redis::cmd("PING").exec(&mut self.connect()?)?)
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The last `count` lines of a log.
pub(crate) fn last_lines(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines.get(lines.len().saturating_sub(count)..).unwrap_or_default().join("\n")
}
