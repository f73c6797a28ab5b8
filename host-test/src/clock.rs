//! The two clocks a host runs on: the machine's, and one that only moves when told to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

/// A source of time. Cloning gives a second handle to the same clock.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System { start: Instant },
    Virtual { nanos: Arc<AtomicU64> },
}

impl Clock {
    /// The machine's clock; [`Self::elapsed`] counts from now.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System { start: Instant::now() })
    }

    /// A clock at zero that only [`Self::set`] moves.
    #[must_use]
    pub fn stopped() -> Self {
        Self(Source::Virtual { nanos: Arc::default() })
    }

    /// The time since the clock was made; never goes back.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Source::System { start } => start.elapsed(),
            Source::Virtual { nanos } => Duration::from_nanos(nanos.load(Ordering::Relaxed)),
        }
    }

    /// The time since 1970, which on a stopped clock begins on a fixed day of 2024.
    #[must_use]
    pub fn wall(&self) -> Duration {
        match &self.0 {
            Source::System { .. } => SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO),
            Source::Virtual { .. } => VIRTUAL_EPOCH + self.elapsed(),
        }
    }

    /// Moves a stopped clock on to `elapsed`. It does not move back, and the machine's not at all.
    pub fn set(&self, elapsed: Duration) {
        if let Source::Virtual { nanos } = &self.0 {
            nanos.fetch_max(nanos_of(elapsed), Ordering::Relaxed);
        }
    }
}

/// `duration` in nanoseconds; more than 584 years become 584 years.
pub(crate) fn nanos_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const VIRTUAL_EPOCH: Duration = Duration::from_secs(1_717_200_000);
