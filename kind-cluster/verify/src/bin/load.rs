//! `slotmesh-load`: clients that write, read, and check every reply.
//!
//! Each client writes a number that grows to keys of its own, one command at a time. What it reads
//! must never be older than what was acknowledged. The end of standard input ends it; then every
//! write that was acknowledged is read again.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Parser;
use slotmesh_testbed::wire::RawClient;
use slotmesh_verify::{Failure, KEYS, Report, key};

/// Time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// What a client does between two pairs of commands: the machine has other things to do, too.
const THINKING: Duration = Duration::from_millis(5);

/// Time between two attempts after an error.
const RETRY: Duration = Duration::from_millis(20);

/// Time for what was written to be there at the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes, reads and checks every reply until standard input ends; reports in lines of JSON.
#[derive(Parser)]
#[command(name = "slotmesh-load")]
struct Cli {
    /// Where Redis is.
    addr: SocketAddr,
    /// What the keys begin with.
    #[arg(long, default_value = "load")]
    name: String,
    /// So many at the same time.
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Every second client begins a new connection after so many pairs of commands.
    #[arg(long)]
    renew: Option<u64>,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let load = Load {
        report: Mutex::new(Report { acknowledged: vec![0; cli.clients], ..Report::default() }),
        began: Instant::now(),
        stop: AtomicBool::new(false),
        cli,
    };
    let load = &load;
    thread::scope(|scope| {
        let clients: Vec<_> = (0..load.cli.clients)
            .map(|number| scope.spawn(move || Client::new(load, number).run()))
            .collect();
        scope.spawn(|| {
            // An error is an end, too.
            let _ = io::stdin().read_to_end(&mut Vec::new());
            load.stop.store(true, Ordering::Relaxed);
        });
        while clients.iter().any(|client| !client.is_finished()) {
            load.print();
            thread::sleep(REPORT_INTERVAL);
        }
    });
    load.note(|report| report.ended = true);
    load.print();
    Ok(())
}

/// What all clients share.
struct Load {
    cli: Cli,
    report: Mutex<Report>,
    began: Instant,
    stop: AtomicBool,
}

impl Load {
    fn note<T>(&self, change: impl FnOnce(&mut Report) -> T) -> T {
        // A report is whole between two changes.
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn failed(&self, error: String) {
        let first = self.began.elapsed().as_millis() as u64;
        self.note(|report| {
            report.errors.entry(error).or_insert(Failure { count: 0, first }).count += 1;
        });
    }

    fn print(&self) {
        let line = self.note(|report| serde_json::to_string(report));
        println!("{}", line.unwrap_or_default());
    }
}

struct Client<'a> {
    load: &'a Load,
    number: usize,
    connection: Option<RawClient>,
    /// By the number of the key: the last write that was acknowledged.
    written: Vec<Option<u64>>,
    /// When the last right reply came.
    last: Instant,
}

impl<'a> Client<'a> {
    fn new(load: &'a Load, number: usize) -> Self {
        let written = vec![None; KEYS as usize];
        Self { load, number, connection: None, written, last: Instant::now() }
    }

    fn run(&mut self) {
        let renew = self.load.cli.renew.filter(|_| self.number % 2 == 1);
        for count in 1.. {
            if self.load.stop.load(Ordering::Relaxed) {
                break;
            }
            if renew.is_some_and(|after| count % after == 0) {
                self.connection = None;
            }
            match self.pair(count) {
                Ok(()) => thread::sleep(THINKING),
                Err(error) => {
                    self.load.failed(error);
                    thread::sleep(RETRY);
                }
            }
        }
        self.read_all();
    }

    /// A write, and a read of another key.
    fn pair(&mut self, count: u64) -> Result<(), String> {
        let slot = (count % KEYS) as usize;
        // Whether a write that fails was executed is not known.
        let before = self.written[slot].take();
        let reply = self.call(&["SET", &self.key(count), &count.to_string()])?;
        if reply != "+OK\r\n" {
            self.written[slot] = before;
            return Err(wrong("SET", &reply));
        }
        self.written[slot] = Some(count);
        self.right(|report, number| report.acknowledged[number] = count);
        let other = count * 7 % KEYS;
        let reply = self.call(&["GET", &self.key(other)])?;
        if !is_at_least(&reply, self.written[other as usize]) {
            return Err(wrong("GET", &reply));
        }
        self.right(|_, _| ());
        Ok(())
    }

    fn read_all(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        for slot in 0..KEYS {
            let Some(written) = self.written[slot as usize] else { continue };
            let key = self.key(slot);
            loop {
                let reply = self.call(&["GET", &key]);
                match reply {
                    Ok(reply) if is_at_least(&reply, Some(written)) => break,
                    reply if Instant::now() > deadline => {
                        let lost = format!("{key}: {written} was acknowledged, now {reply:?}");
                        self.load.note(|report| report.lost.push(lost));
                        break;
                    }
                    _ => thread::sleep(RETRY),
                }
            }
        }
    }

    fn call(&mut self, args: &[&str]) -> Result<String, String> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => RawClient::connect(self.load.cli.addr)
                .map_err(|error| format!("connecting: {error}"))?,
        };
        let connection = self.connection.insert(connection);
        match connection.call(args) {
            Ok(reply) => Ok(String::from_utf8_lossy(&reply).into_owned()),
            Err(error) => {
                self.connection = None;
                Err(format!("{}: {error}", args[0]))
            }
        }
    }

    /// Counts a right reply.
    fn right(&mut self, also: impl FnOnce(&mut Report, usize)) {
        let (pause, number) = (self.last.elapsed(), self.number);
        let end = self.load.began.elapsed().as_millis() as u64;
        self.load.note(|report| {
            report.replies += 1;
            if pause > report.longest_pause() {
                report.longest_pause = pause.as_millis() as u64;
                report.longest_pause_end = end;
            }
            also(report, number);
        });
        self.last = Instant::now();
    }

    fn key(&self, count: u64) -> String {
        key(&self.load.cli.name, self.number, count)
    }
}

/// An error as Redis says it; what is only older than it may be has no words of its own.
fn wrong(command: &str, reply: &str) -> String {
    match reply.strip_prefix('-') {
        Some(error) => format!("{command}: {}", error.trim_end()),
        None if command == "GET" => "GET: older than what was acknowledged".to_owned(),
        None => format!("{command}: {reply:?}"),
    }
}

/// Whether a reply to GET holds `written` or a later write.
fn is_at_least(reply: &str, written: Option<u64>) -> bool {
    let value = match reply {
        "$-1\r\n" | "_\r\n" => return written.is_none(),
        reply => reply.lines().nth(1).and_then(|value| value.parse::<u64>().ok()),
    };
    value.is_some_and(|value| value >= written.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_right_when_it_is_not_older_than_what_was_acknowledged() {
        assert!(is_at_least("$1\r\n7\r\n", Some(7)));
        assert!(is_at_least("$2\r\n10\r\n", Some(7)));
        assert!(is_at_least("$-1\r\n", None));
        assert!(!is_at_least("$1\r\n6\r\n", Some(7)));
        assert!(!is_at_least("$-1\r\n", Some(7)));
        assert!(!is_at_least("-ERR x\r\n", None));
    }
}
