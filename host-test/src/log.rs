//! Where the guests' log lines and the host's own go.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The ABI's log levels, least severe first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Level {
    /// Every step.
    Trace = 0,
    /// What a developer asks for.
    Debug = 1,
    /// What an operator wants to know.
    Info = 2,
    /// Something is wrong and was dealt with.
    Warn = 3,
    /// Something is wrong and was not.
    Error = 4,
    /// The plugin cannot go on.
    Critical = 5,
}

impl Level {
    const ALL: [(Self, &str); 6] = [
        (Self::Trace, "trace"),
        (Self::Debug, "debug"),
        (Self::Info, "info"),
        (Self::Warn, "warn"),
        (Self::Error, "error"),
        (Self::Critical, "critical"),
    ];
}

impl TryFrom<u32> for Level {
    type Error = u32;

    fn try_from(number: u32) -> Result<Self, u32> {
        let level = Self::ALL.iter().find(|(level, _)| *level as u32 == number);
        level.map(|(level, _)| *level).ok_or(number)
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let level = Self::ALL.iter().find(|(_, known)| *known == name);
        level.map(|(level, _)| *level).ok_or_else(|| {
            let names = Self::ALL.map(|(_, name)| name).join(", ");
            format!("no log level is called `{name}`; they are {names}")
        })
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::ALL.iter().find(|(level, _)| level == self).map_or("", |(_, name)| name);
        f.pad(name)
    }
}

/// One line of a [`Log`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Line {
    /// How severe.
    pub level: Level,
    /// The plugin's root id, or `host`.
    pub source: &'static str,
    /// What was said.
    pub text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:<8}] {}: {}", self.level, self.source, self.text)
    }
}

/// A log that everything in one host writes to. Cloning gives a second handle to the same log.
#[derive(Clone)]
pub struct Log {
    level: Level,
    sink: Sink,
}

#[derive(Clone)]
enum Sink {
    Captured(Arc<Mutex<Vec<Line>>>),
    Stderr,
}

impl Log {
    /// Writes lines of `level` and above to standard error.
    #[must_use]
    pub fn stderr(level: Level) -> Self {
        Self { level, sink: Sink::Stderr }
    }

    /// Keeps lines of `level` and above for [`Self::lines`].
    #[must_use]
    pub fn captured(level: Level) -> Self {
        Self { level, sink: Sink::Captured(Arc::default()) }
    }

    /// The least severe level that is written.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// The lines so far, oldest first; none if they go to standard error.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        match &self.sink {
            Sink::Captured(lines) => locked(lines).clone(),
            Sink::Stderr => Vec::new(),
        }
    }

    /// Whether a line says `text` somewhere.
    #[must_use]
    pub fn says(&self, text: &str) -> bool {
        match &self.sink {
            Sink::Captured(lines) => locked(lines).iter().any(|line| line.text.contains(text)),
            Sink::Stderr => false,
        }
    }

    pub(crate) fn write(&self, level: Level, source: &'static str, text: impl Into<String>) {
        if level < self.level {
            return;
        }
        let line = Line { level, source, text: text.into() };
        match &self.sink {
            Sink::Captured(lines) => locked(lines).push(line),
            Sink::Stderr => eprintln!("{line}"),
        }
    }
}

/// A line is pushed whole or not at all, so a panic elsewhere leaves nothing half-written.
fn locked(lines: &Mutex<Vec<Line>>) -> MutexGuard<'_, Vec<Line>> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}
