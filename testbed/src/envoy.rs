//! Stock Envoy with the module.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::locate;
use crate::plugin::PluginConfig;
use crate::port::{Port, given_or_free};
use crate::process::Process;
use crate::reload;
use crate::server::last_lines;
use crate::temp::TempDir;
use crate::wait::{Probe, until};

const TEMPLATE: &str = include_str!("../../envoy/bootstrap.yaml");

/// Time for Envoy to start; compiling the module takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time for one answer of the admin interface.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(10);

/// How to start Envoy.
#[derive(Clone, Debug)]
pub struct EnvoyOptions {
    /// The module's configuration.
    pub configuration: PluginConfig,
    /// Variables that the module's VM sees.
    pub environment: BTreeMap<String, String>,
    /// Envoy itself; `None` is the one that `make deps` installed.
    pub binary: Option<PathBuf>,
    /// Variables of Envoy's own process.
    pub process_environment: BTreeMap<String, String>,
    /// Names of variables of Envoy's process that the VM sees as well: their values stay out of the
    /// bootstrap.
    pub host_environment: Vec<String>,
    /// Envoy's transport socket towards Redis (`UpstreamTlsContext`); `None` is plaintext.
    pub transport_socket: Option<Value>,
    /// The module; `None` is the one that `make wasm` built.
    pub wasm: Option<PathBuf>,
    /// Worker threads, each with a VM of its own.
    pub concurrency: u32,
    /// Where clients connect; `None` is a free port of 127.0.0.1.
    pub listen: Option<SocketAddr>,
    /// Port of the admin interface on 127.0.0.1; `None` is a free one.
    pub admin_port: Option<u16>,
    /// Envoy's `--log-level`. The module itself always logs at `info`.
    pub log_level: String,
    /// The bootstrap, in which the testbed fills in the `@NAMES@`: envoy/bootstrap.yaml, unless
    /// something else is to be served than the module.
    pub template: Cow<'static, str>,
    /// What Envoy merges over the bootstrap: its `--config-yaml`.
    pub bootstrap_override: Option<String>,
    /// Where the bootstrap made of the template goes; `None` is a place that goes with it.
    pub bootstrap: Option<PathBuf>,
    /// How long the clients of a listener that has been changed or drained may stay.
    pub drain_time: Duration,
}

impl EnvoyOptions {
    /// Two workers on a free port.
    pub fn new(configuration: PluginConfig) -> Self {
        Self {
            configuration,
            environment: BTreeMap::new(),
            binary: None,
            process_environment: BTreeMap::new(),
            host_environment: Vec::new(),
            transport_socket: None,
            wasm: None,
            concurrency: 2,
            listen: None,
            admin_port: None,
            log_level: "warning".to_owned(),
            template: Cow::Borrowed(TEMPLATE),
            bootstrap_override: None,
            bootstrap: None,
            drain_time: Duration::from_secs(600),
        }
    }
}

/// Envoy's transport socket for TLS towards Redis, which must show a certificate of `authority`, an
/// Envoy `DataSource`. The bootstrap adds that it must be for the host that is connected to.
/// `identity` is our own certificate and its key, if Redis asks for one.
pub fn upstream_tls(authority: &Value, identity: Option<(Value, Value)>) -> Value {
    let mut context = json!({"validation_context": {"trusted_ca": authority}});
    if let Some((certificate, key)) = identity {
        context["tls_certificates"] =
            json!([{"certificate_chain": certificate, "private_key": key}]);
    }
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/\
                      envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": context,
        },
    })
}

/// A running Envoy. Dropping it kills it.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    listen: SocketAddr,
    admin: SocketAddr,
    options: EnvoyOptions,
    _ports: Vec<Port>,
    dir: TempDir,
}

impl Envoy {
    /// Starts Envoy and waits until all its workers serve the listener.
    ///
    /// # Errors
    /// Envoy or the module is not there, a port is taken, or Envoy ends; then the error's text is
    /// the log line with the reason, such as the field that the module refuses.
    pub fn start(options: EnvoyOptions) -> Result<Self> {
        Self::start_with(options, |rendered, _| Ok(rendered))
    }

    /// Like [`start`](Self::start), with a listener that [`reload`](Self::reload) can change.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_reloadable(options: EnvoyOptions) -> Result<Self> {
        Self::start_with(options, |rendered, dir| {
            let (bootstrap, listeners) = reload::split(&rendered, dir)?;
            reload::write(&listeners, dir)?;
            Ok(bootstrap)
        })
    }

    /// `arrange` makes the bootstrap of the rendered template, with a directory for other files.
    fn start_with(
        options: EnvoyOptions,
        arrange: impl FnOnce(String, &Path) -> Result<String>,
    ) -> Result<Self> {
        let dir = TempDir::new("envoy")?;
        let mut ports = Vec::new();
        let admin = options.admin_port.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let listen = given_or_free(options.listen, &mut ports)?;
        let admin = given_or_free(admin, &mut ports)?;

        let rendered = arrange(render(listen, admin, &options)?, dir.path())?;
        let bootstrap = options.bootstrap.clone();
        let bootstrap = bootstrap.unwrap_or_else(|| dir.path().join("bootstrap.yaml"));
        fs::write(&bootstrap, rendered)
            .with_context(|| format!("writing {}", bootstrap.display()))?;

        let binary = options.binary.clone().map_or_else(locate::envoy, Ok)?;
        let mut command = Command::new(binary);
        command.envs(&options.process_environment);
        command.arg("--config-path").arg(&bootstrap);
        if let Some(text) = &options.bootstrap_override {
            command.arg("--config-yaml").arg(text);
        }
        command.args(["--concurrency", &options.concurrency.to_string()]);
        command.args(["--drain-time-s", &options.drain_time.as_secs().to_string()]);
        command.args(["--log-level", &options.log_level, "--component-log-level", "wasm:info"]);
        // No base id to share with other Envoys of this machine, and no shared memory to leave.
        command.arg("--disable-hot-restart");
        let process = Process::start(command, &dir.path().join("envoy.log"))?;
        let mut envoy = Self { process, listen, admin, options, _ports: ports, dir };
        envoy.wait_until_serving()?;
        Ok(envoy)
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.listen
    }

    /// Where the admin interface listens.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The memory that it holds at the moment, in KiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let text = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(text.context("Envoy has ended")?.parse()?)
    }

    /// Bytes that its allocator has given back to the kernel.
    ///
    /// # Errors
    /// The admin interface does not answer.
    pub fn released_bytes(&self) -> Result<u64> {
        let memory: Value = serde_json::from_str(&http_get(self.admin, "/memory")?)?;
        let released = memory["pageheap_unmapped"].as_str();
        Ok(released.context("Envoy does not say what it has released")?.parse()?)
    }

    /// All it logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// All counters and gauges by name, those that are zero too.
    ///
    /// # Errors
    /// The admin interface does not answer.
    pub fn stats(&self) -> Result<BTreeMap<String, u64>> {
        Ok(parse_stats(&http_get(self.admin, "/stats")?))
    }

    /// What Prometheus would be given.
    ///
    /// # Errors
    /// The admin interface does not answer.
    pub fn prometheus(&self) -> Result<String> {
        http_get(self.admin, "/stats/prometheus")
    }

    /// Changes the listener as a control plane does: to another configuration, and another module
    /// if there is a `wasm`. New clients meet the new one once this returns; the others stay where
    /// they are for the drain time, and are closed then.
    ///
    /// # Errors
    /// Envoy was not [started so](Self::start_reloadable), or does not take the new listener.
    pub fn reload(&mut self, configuration: PluginConfig, wasm: Option<PathBuf>) -> Result<()> {
        self.options.configuration = configuration;
        self.options.wasm = wasm;
        let rendered = render(self.listen, self.admin, &self.options)?;
        let (_, listeners) = reload::split(&rendered, self.dir.path())?;
        let before = self.updates()?;
        reload::write(&listeners, self.dir.path())?;
        until("Envoy to take the new listener", PATIENCE, || {
            let errors = self.stats()?.get("listener_manager.lds.update_rejected").copied();
            ensure!(errors.is_none_or(|errors| errors == 0), "it refuses: {}", reason(&self.log()));
            Ok(match self.updates()? > before {
                true => Probe::retry(check_warm(self.admin)),
                false => Probe::NotYet("it has not looked yet".to_owned()),
            })
        })
    }

    /// Asks Envoy to take no new clients and to close those it has within the drain time.
    ///
    /// # Errors
    /// The admin interface does not answer.
    pub fn drain(&self) -> Result<()> {
        http(self.admin, "POST", "/drain_listeners?graceful&skip_exit")?;
        Ok(())
    }

    /// Asks Envoy to end, and waits until it has.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn terminate(self) -> Result<()> {
        self.process.terminate(PATIENCE)
    }

    /// How often its listeners have been changed.
    fn updates(&self) -> Result<u64> {
        let stats = self.stats()?;
        let names = ["listener_modified", "listener_in_place_updated"];
        Ok(names.iter().filter_map(|name| stats.get(&format!("listener_manager.{name}"))).sum())
    }

    /// Copies the log to standard error until Envoy ends by itself or a signal asks this process to
    /// stop ([`crate::wait::stop_on_signals`]); then stops Envoy.
    ///
    /// # Errors
    /// Envoy ended by itself.
    pub fn follow(self) -> Result<()> {
        self.process.follow("Envoy")
    }

    fn wait_until_serving(&mut self) -> Result<()> {
        let (process, admin) = (&mut self.process, self.admin);
        until("Envoy to serve", PATIENCE, || {
            if let Some(status) = process.exited()? {
                bail!("Envoy ended with {status}: {}", reason(&process.log()));
            }
            Ok(Probe::retry(check_serving(admin)))
        })
    }
}

/// The bootstrap for one Envoy, from the template.
fn render(listen: SocketAddr, admin: SocketAddr, options: &EnvoyOptions) -> Result<String> {
    let wasm = options.wasm.clone().map_or_else(locate::wasm, Ok)?;
    let wasm = wasm.canonicalize().with_context(|| wasm.display().to_string())?;
    let plaintext = json!({
        "name": "envoy.transport_sockets.raw_buffer",
        "typed_config": {
            "@type": "type.googleapis.com/\
                      envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        },
    });
    let transport_socket = options.transport_socket.as_ref().unwrap_or(&plaintext);
    // JSON is also YAML.
    Ok(options
        .template
        .replace("@ADMIN_PORT@", &admin.port().to_string())
        .replace("@LISTEN_ADDRESS@", &listen.ip().to_string())
        .replace("@LISTEN_PORT@", &listen.port().to_string())
        .replace("\"@WASM@\"", &serde_json::to_string(&wasm)?)
        .replace("\"@HOST_ENVIRONMENT@\"", &serde_json::to_string(&options.host_environment)?)
        .replace("\"@ENVIRONMENT@\"", &serde_json::to_string(&options.environment)?)
        .replace("\"@TRANSPORT_SOCKET@\"", &transport_socket.to_string())
        .replace("\"@CONFIGURATION@\"", &serde_json::to_string(options.configuration.as_str())?))
}

/// `/ready` says that the configuration is loaded; workers bind the listener after that.
fn check_serving(admin: SocketAddr) -> Result<()> {
    let stats = parse_stats(&http_get(admin, "/stats?filter=workers_started")?);
    let started = stats.get("listener_manager.workers_started");
    ensure!(started == Some(&1), "its workers have not started");
    Ok(())
}

/// No listener waits for anything before workers take it.
fn check_warm(admin: SocketAddr) -> Result<()> {
    let stats = parse_stats(&http_get(admin, "/stats?filter=total_listeners_warming")?);
    let warming = stats.get("listener_manager.total_listeners_warming");
    ensure!(warming == Some(&0), "the new listener is not ready");
    Ok(())
}

/// Why Envoy ended: the module's own words when there are any, else Envoy's last errors.
fn reason(log: &str) -> String {
    let module = log.lines().rfind(|line| is_error(line) && line.contains("wasm log"));
    // ... wasm log <plugin> <root id>: <text>
    let text = module.and_then(|line| line.split_once("wasm log")?.1.split_once(": "));
    if let Some((_, text)) = text {
        return format!("the module says: {text}");
    }
    let errors: Vec<&str> = log.lines().filter(|line| is_error(line)).collect();
    if errors.is_empty() { last_lines(log, 5) } else { errors.join("\n") }
}

fn is_error(line: &str) -> bool {
    line.contains("[error]") || line.contains("[critical]")
}

/// Lines of `name: number`; histograms and texts are left out.
fn parse_stats(text: &str) -> BTreeMap<String, u64> {
    let pairs = text.lines().filter_map(|line| line.split_once(": "));
    pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}

/// The body of the answer to a GET.
fn http_get(addr: SocketAddr, path: &str) -> Result<String> {
    http(addr, "GET", path)
}

/// The body of the answer to a request without one.
fn http(addr: SocketAddr, method: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, ADMIN_TIMEOUT)?;
    stream.set_read_timeout(Some(ADMIN_TIMEOUT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: admin\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("half an HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.contains(" 200 "), "{method} {path}: {status}");
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return join_chunks(body).context("a broken chunk in an HTTP answer");
    }
    Ok(body.to_owned())
}

/// A chunked body (RFC 9112, section 7.1) without its chunk sizes.
fn join_chunks(mut body: &str) -> Option<String> {
    let mut joined = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some(joined);
        }
        joined.push_str(rest.get(..size)?);
        body = rest.get(size..)?.strip_prefix("\r\n")?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bootstrap_has_no_name_left_to_replace() {
        let addr = SocketAddr::from(([127, 0, 0, 1], 6379));
        let config = PluginConfig::from_text(r#"{"a": "\"quoted\""}"#);
        let mut options = EnvoyOptions::new(config);
        options.wasm = Some("/dev/null".into());
        options.environment.insert("NAME".to_owned(), "value".to_owned());
        let text = render(addr, addr, &options).unwrap();
        assert!(text.contains(r#"key_values: {"NAME":"value"}"#), "{text}");
        assert!(text.contains(r#"value: "{\"a\": \"\\\"quoted\\\"\"}""#), "{text}");
        assert!(!text.lines().any(|line| !line.starts_with('#') && line.contains("@WASM")));
        for name in [
            "@ADMIN_PORT@",
            "@LISTEN_ADDRESS@",
            "@LISTEN_PORT@",
            "@CONFIGURATION@",
            "@ENVIRONMENT@",
            "@HOST_ENVIRONMENT@",
            "@TRANSPORT_SOCKET@",
        ] {
            assert!(!text.contains(name), "{name}");
        }
    }

    #[test]
    fn the_words_of_the_module_are_the_reason() {
        let log = "[2026-11-22 13:55:13.5][1][error][wasm] [context.cc:1] wasm log router router: no seeds: a\n\
                   [2026-11-22 13:55:13.6][1][critical][main] [server.cc:4] error initializing";
        assert_eq!(reason(log), "the module says: no seeds: a");
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(
            join_chunks("3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n").unwrap(),
            "abc0123456789"
        );
        assert_eq!(join_chunks("5\r\nabc"), None);
    }
}
