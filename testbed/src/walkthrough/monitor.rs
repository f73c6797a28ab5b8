//! What a server says it executes.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::RedisCli;
use crate::process::Stream;
use crate::wait::{Probe, until};

/// Time for MONITOR to begin.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// One command that a server executed, as its MONITOR tells it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Executed {
    /// The line itself.
    pub(super) line: String,
    /// Who sent the command, as `host:port`; a replica's primary has the address it listens on.
    pub(super) sender: String,
    /// The command and its arguments.
    pub(super) words: Vec<String>,
}

impl Executed {
    /// Reads `1339518083.107412 [0 127.0.0.1:60866] "set" "a" "b"`
    /// (<https://redis.io/docs/latest/commands/monitor/>), whose words hold no quotes of their own.
    fn parse(line: &str) -> Option<Self> {
        let (_, rest) = line.split_once('[')?;
        let (origin, words) = rest.split_once("] ")?;
        let (_database, sender) = origin.split_once(' ')?;
        let words = words.split('"').skip(1).step_by(2).map(str::to_owned).collect();
        Some(Self { line: line.to_owned(), sender: sender.to_owned(), words })
    }

    /// Whether it is this command, its name in any case.
    pub(super) fn is(&self, words: &[&str]) -> bool {
        let [name, args @ ..] = words else { return false };
        self.name().eq_ignore_ascii_case(name) && self.words.iter().skip(1).eq(args)
    }

    /// The command's name as it was sent.
    pub(super) fn name(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// Whether `key` is its first argument.
    pub(super) fn is_on(&self, key: &str) -> bool {
        self.words.get(1).is_some_and(|word| word == key)
    }
}

/// A server's MONITOR: every command it executes, in that order.
pub(super) struct Monitor<'a> {
    cli: &'a RedisCli,
    stream: Stream,
}

impl<'a> Monitor<'a> {
    /// Begins to listen; what is sent to the server from now on will be heard.
    pub(super) fn start(cli: &'a RedisCli) -> Result<Self> {
        let mut stream = Stream::start(cli.command(&["MONITOR"])?)?;
        until("MONITOR to begin", START_DEADLINE, || match stream.try_line()? {
            Some(line) if line == "OK" => Ok(Probe::Ready(())),
            Some(line) => bail!("MONITOR answered {line:?}"),
            None => Ok(Probe::NotYet("no answer".to_owned())),
        })?;
        Ok(Self { cli, stream })
    }

    /// What was executed up to and with the first command that `is_last`.
    pub(super) fn read_until(
        &mut self,
        what: &str,
        within: Duration,
        is_last: impl Fn(&Executed) -> bool,
    ) -> Result<Vec<Executed>> {
        let mut heard = Vec::new();
        until(what, within, || {
            while let Some(line) = self.stream.try_line()? {
                let executed = Executed::parse(&line);
                let executed = executed.with_context(|| format!("not a MONITOR line: {line}"))?;
                let found = is_last(&executed);
                heard.push(executed);
                if found {
                    return Ok(Probe::Ready(()));
                }
            }
            Ok(Probe::NotYet(format!("MONITOR told of {} other commands", heard.len())))
        })?;
        Ok(heard)
    }

    /// All that was executed up to now: a command of our own, sent now, marks the end.
    pub(super) fn read_to_now(&mut self, within: Duration) -> Result<Vec<Executed>> {
        const MARK: [&str; 2] = ["ECHO", "end-of-the-step"];
        self.cli.run(&MARK)?;
        let mut heard = self.read_until("our mark", within, |executed| executed.is(&MARK))?;
        heard.pop();
        Ok(heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let line = r#"1339518083.107412 [0 127.0.0.1:60866] "set" "a" "b c""#;
        let executed = Executed::parse(line).unwrap();
        assert_eq!(executed.sender, "127.0.0.1:60866");
        assert!(executed.is(&["SET", "a", "b c"]) && executed.is_on("a"));
        assert!(!executed.is(&["SET", "a"]) && !executed.is(&["GET", "a", "b c"]));
    }

    #[test]
    fn another_text_is_refused() {
        assert_eq!(Executed::parse("OK"), None);
    }
}
