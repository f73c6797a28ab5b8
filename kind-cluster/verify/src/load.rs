//! The load that runs in a pod.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_verify::{Failure, Report};

/// Time for the load to say the first and the last thing.
const PATIENCE: Duration = Duration::from_secs(60);

/// So many kinds of errors are told.
const KINDS: usize = 8;

/// What a client may wait for a reply, whatever is done to the parts. A longer pause is told and is
/// no failure: a machine that has other things to do makes clients wait, too.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Clients in a pod, which run until they are told to stop.
#[derive(Debug)]
pub(crate) struct Load {
    child: Child,
    report: Arc<Mutex<Report>>,
    /// Reads reports until there are no more.
    reader: Option<JoinHandle<()>>,
}

impl Load {
    /// Starts a command that runs `slotmesh-load`, and waits for its first replies.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no pipe to read from")?).lines();
        let report = Arc::new(Mutex::new(Report::default()));
        let shared = Arc::clone(&report);
        let reader = thread::spawn(move || {
            let reports = lines.map_while(Result::ok);
            for last in reports.filter_map(|line| serde_json::from_str(&line).ok()) {
                *shared.lock().unwrap_or_else(PoisonError::into_inner) = last;
            }
        });
        let load = Self { child, report, reader: Some(reader) };
        load.goes_on()?;
        Ok(load)
    }

    /// What it told last.
    pub(crate) fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until it has had some more right replies than it has now.
    pub(crate) fn goes_on(&self) -> Result<()> {
        let enough = self.report().replies + 1000;
        until("replies", PATIENCE, || {
            let report = self.report();
            let seen = format!("{}{}", told(&report), why(&report));
            Ok(if report.replies < enough { Probe::NotYet(seen) } else { Probe::Ready(()) })
        })
    }

    /// Waits until it has ended with its pod, and returns what it told last.
    pub(crate) fn until_it_is_killed(mut self) -> Result<Report> {
        until("the load to end with its pod", PATIENCE, || {
            Ok(match self.child.try_wait()? {
                Some(_) => Probe::Ready(self.report()),
                None => Probe::NotYet("it still runs".to_owned()),
            })
        })
    }

    /// Tells it to stop, and returns what it saw.
    pub(crate) fn finish(mut self) -> Result<Report> {
        drop(self.child.stdin.take());
        until("the load to end", PATIENCE, || {
            let status = self.child.try_wait()?;
            if status.is_some()
                && let Some(reader) = self.reader.take()
            {
                // What it said last may not have been read yet.
                ensure!(reader.join().is_ok(), "the reports could not be read");
            }
            let report = self.report();
            Ok(match status {
                _ if report.ended => Probe::Ready(report),
                Some(status) => bail!("the load has ended with {status}: {}", told(&report)),
                None => Probe::NotYet(told(&report)),
            })
        })
    }

    /// Tells it to stop; no error and nothing lost is what is expected.
    pub(crate) fn finish_flawless(self) -> Result<String> {
        let report = self.finish()?;
        let seen = told(&report);
        ensure!(report.failures() == 0 && report.lost.is_empty(), "{seen}{}", why(&report));
        Ok(seen)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A report in a few words.
pub(crate) fn told(report: &Report) -> String {
    let pause = report.longest_pause();
    format!(
        "{} replies, {} errors, longest pause {:.2} s (after {:.0} s){}",
        report.replies,
        report.failures(),
        pause.as_secs_f64(),
        Duration::from_millis(report.longest_pause_end).as_secs_f64(),
        if pause > LONGEST_PAUSE { ", LONGER THAN WANTED" } else { "" }
    )
}

/// The first errors of all kinds, and some of what was lost.
pub(crate) fn why(report: &Report) -> String {
    let mut errors: Vec<_> = report.errors.iter().collect();
    errors.sort_by_key(|(_, failure)| failure.first);
    let mut why = String::new();
    for (error, Failure { count, first }) in errors.into_iter().take(KINDS) {
        why.push_str(&format!("\n      {count} times, first after {first} ms: {error}"));
    }
    for lost in report.lost.iter().take(KINDS) {
        why.push_str(&format!("\n      lost: {lost}"));
    }
    why
}
