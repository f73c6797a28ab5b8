//! Child processes that never outlive us, and commands that end in time.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::wait::{Probe, interrupted, until, until_even_if_interrupted};

/// A server in the background, its output in a log file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, both its outputs appended to the file `log`.
    ///
    /// # Errors
    /// It does not start, or `log` cannot be written.
    pub fn start(mut command: Command, log: &Path) -> Result<Self> {
        let out = File::options().create(true).append(true).open(log);
        let out = out.with_context(|| format!("opening the log {}", log.display()))?;
        command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        Ok(Self { child: spawn(command)?, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All the process wrote so far.
    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// The operating system does not tell.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).with_context(|| format!("sending {signal:?} to pid {pid:?}"))
    }

    /// Copies the log to standard error until it ends by itself, which is an error, or until a
    /// signal asks this process to stop, and then ends it.
    pub(crate) fn follow(mut self, name: &str) -> Result<()> {
        let mut log = File::open(&self.log)?;
        let ended = until(name, Duration::MAX, || {
            io::copy(&mut log, &mut io::stderr())?;
            Ok(match self.exited()? {
                Some(status) => Probe::Ready(status),
                None => Probe::NotYet(String::new()),
            })
        });
        match ended {
            // A signal from the terminal reaches both.
            _ if interrupted() => self.terminate(Duration::from_secs(10)),
            Ok(status) => bail!("{name} ended with {status}"),
            Err(error) => Err(error),
        }
    }

    /// Asks it to end with SIGTERM and waits until it did.
    ///
    /// # Errors
    /// It does not end `within`.
    pub fn terminate(mut self, within: Duration) -> Result<()> {
        if self.exited()?.is_some() {
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        until_even_if_interrupted("a process to end", within, || {
            Ok(match self.exited()? {
                Some(_) => Probe::Ready(()),
                None => Probe::NotYet(format!("pid {} still runs", self.pid())),
            })
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already. SIGKILL also ends a stopped process.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end and returns what it printed on standard output.
///
/// # Errors
/// It does not start, does not end `within`, or ends with another status than 0; the error carries
/// what it printed.
pub fn run(command: Command, within: Duration) -> Result<String> {
    run_with_input(command, Vec::new(), within)
}

/// Like [`run`], with `input` on the command's standard input.
///
/// # Errors
/// Those of [`run`]. A command that leaves some of its input unread is not one.
pub fn run_with_input(mut command: Command, input: Vec<u8>, within: Duration) -> Result<String> {
    let shown = show(&command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Ended(spawn(command)?);
    if let Some(mut stdin) = child.0.stdin.take() {
        thread::spawn(move || stdin.write_all(&input));
    }
    let stdout = gather(child.0.stdout.take());
    let stderr = gather(child.0.stderr.take());
    let status = until(&format!("`{shown}` to end"), within, || {
        Ok(match child.0.try_wait()? {
            Some(status) => Probe::Ready(status),
            None => Probe::NotYet("it still runs".to_owned()),
        })
    })?;
    let [stdout, stderr] = [stdout, stderr].map(|reader| reader.join().unwrap_or_default());
    if !status.success() {
        bail!("`{shown}` ended with {status}: {}", format!("{stdout}\n{stderr}").trim());
    }
    Ok(stdout)
}

/// A command in the background whose output is read as it comes. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Stream {
    lines: Receiver<String>,
    shown: String,
    _child: Ended,
}

impl Stream {
    /// Starts `command`.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let shown = show(&command);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Ended(spawn(command)?);
        let stdout = child.0.stdout.take().context("no pipe to read from")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { lines, shown, _child: child })
    }

    /// Its next line, if there is one yet.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn try_line(&mut self) -> Result<Option<String>> {
        match self.lines.try_recv() {
            Ok(line) => Ok(Some(line)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => bail!("`{}` has ended", self.shown),
        }
    }
}

/// The command line as a person would type it.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| match word.to_string_lossy() {
            word if word.is_empty() || word.contains(char::is_whitespace) => format!("'{word}'"),
            word => word.into_owned(),
        })
        .collect::<Vec<String>>()
        .join(" ")
}

/// A child that has ended once this is dropped.
#[derive(Debug)]
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn gather(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Starts `command` such that the kernel kills it when this process ends, however it ends.
///
/// Linux sends that signal when the *thread* that forked ends (prctl(2), PR_SET_PDEATHSIG), and
/// tests run in threads that come and go: so one thread, which never ends, forks for all.
fn spawn(mut command: Command) -> Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Order>> = OnceLock::new();

    // SAFETY: between fork and exec the closure makes one system call and allocates nothing.
    #[expect(unsafe_code, reason = "std offers no safe way to run prctl in the child")]
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let program = command.get_program().to_string_lossy().into_owned();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in inbox {
                // The receiver waits for exactly this answer.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, child) = channel();
    spawner.send((command, reply)).map_err(|_| anyhow!("the spawning thread has ended"))?;
    child.recv()?.with_context(|| format!("starting {program}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_command_returns_what_it_printed() {
        assert_eq!(run(sh("echo out; echo err >&2"), Duration::from_secs(5)).unwrap(), "out\n");
    }

    #[test]
    fn a_failing_command_says_what_it_printed() {
        let error = run(sh("echo out; echo err >&2; exit 3"), Duration::from_secs(5)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status: 3: out\n\nerr"), "{text}");
    }

    #[test]
    fn a_command_reads_its_input_to_the_end() {
        let input = vec![b'x'; 100_000];
        let output = run_with_input(sh("wc -c; echo end"), input, Duration::from_secs(5));
        assert_eq!(output.unwrap(), "100000\nend\n");
    }

    #[test]
    fn a_stream_gives_its_lines_and_then_says_that_it_has_ended() {
        let mut stream = Stream::start(sh("echo a; echo b")).unwrap();
        let mut lines = Vec::new();
        let ended = until("the end", Duration::from_secs(5), || {
            lines.extend(stream.try_line()?);
            Ok(Probe::<()>::NotYet(format!("{lines:?}")))
        });
        assert!(ended.unwrap_err().to_string().contains("has ended"));
        assert_eq!(lines, ["a", "b"]);
    }

    #[test]
    fn a_command_that_does_not_end_in_time_is_killed() {
        let error = run(sh("exec sleep 600"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("it still runs"), "{error}");
    }

    #[test]
    fn a_child_survives_the_thread_that_asked_for_it() {
        let dir = crate::temp::TempDir::new("process").unwrap();
        let log = dir.path().join("log");
        let started = thread::spawn(move || Process::start(sh("exec sleep 600"), &log));
        let mut process = started.join().unwrap().unwrap();
        assert!(process.exited().unwrap().is_none());
        let pid = process.pid();
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
