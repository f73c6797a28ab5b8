//! Waiting for a condition, with a deadline and with the reason when it does not come true.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Time between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(10);

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// What one look at a condition found.
#[derive(Debug)]
pub enum Probe<T> {
    /// It holds.
    Ready(T),
    /// It does not hold yet, and why.
    NotYet(String),
}

impl<T> Probe<T> {
    /// Takes every error for a condition that may still come true.
    pub fn retry(result: Result<T>) -> Self {
        match result {
            Ok(value) => Self::Ready(value),
            Err(error) => Self::NotYet(format!("{error:#}")),
        }
    }
}

/// Looks until `probe` finds its condition true, and returns what it found.
///
/// # Errors
/// At once when `probe` fails (the condition can never come true) or the process was interrupted
/// (see [`stop_on_signals`]); after `within`, with `what` was awaited and the last reason.
pub fn until<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> Result<Probe<T>>,
) -> Result<T> {
    until_even_if_interrupted(what, within, || {
        let seen = probe()?;
        if interrupted() && matches!(seen, Probe::NotYet(_)) {
            bail!("interrupted while waiting for {what}");
        }
        Ok(seen)
    })
}

/// Like [`until`], for what must be done also on the way out.
pub(crate) fn until_even_if_interrupted<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> Result<Probe<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let reason = match probe()? {
            Probe::Ready(value) => return Ok(value),
            Probe::NotYet(reason) => reason,
        };
        if start.elapsed() >= within {
            bail!("waited {within:?} for {what}: {reason}");
        }
        thread::sleep(INTERVAL);
    }
}

/// From now on SIGINT and SIGTERM end the waiting in [`until`] with an error instead of ending the
/// process, so that everything started is stopped on the way out.
///
/// # Errors
/// The operating system refuses the handler.
pub fn stop_on_signals() -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED))?;
    }
    Ok(())
}

/// Whether a signal asked this process to stop; see [`stop_on_signals`].
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_ends_the_wait() {
        let mut looks = 0;
        let found = until("the third look", Duration::from_secs(5), || {
            looks += 1;
            Ok(if looks == 3 { Probe::Ready(looks) } else { Probe::NotYet("early".to_owned()) })
        });
        assert_eq!(found.unwrap(), 3);
    }

    #[test]
    fn a_deadline_names_what_was_awaited_and_the_last_reason() {
        let error =
            until("spring", Duration::ZERO, || Ok(Probe::<()>::NotYet("it is winter".to_owned())))
                .unwrap_err();
        assert_eq!(error.to_string(), "waited 0ns for spring: it is winter");
    }

    #[test]
    fn a_condition_that_can_never_come_true_ends_the_wait_at_once() {
        let error = until::<()>("a dead process", Duration::MAX, || bail!("exit status 1"));
        assert_eq!(error.unwrap_err().to_string(), "exit status 1");
    }
}
