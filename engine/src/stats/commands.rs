//! What is counted for each command.

use super::histogram::Histogram;
use crate::command::{COMMANDS, CommandSpec};

/// What commands without a row are counted as.
const UNKNOWN: &str = "unknown";
const UNKNOWN_ROW: u16 = COMMANDS.len() as u16;

/// Marks a row that nothing has been counted for.
const VACANT: u16 = u16::MAX;

/// A command by its row in the table; all that have none share one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Row(u16);

/// Counts by command. Rows get an entry when they are first counted, so there are never more than
/// Redis has commands.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// The entry of each row; empty before the first one is counted.
    places: Vec<u16>,
    entries: Vec<CommandStats>,
}

/// Counts of one command, all its subcommands among them, as Envoy does it.
#[derive(Debug)]
pub(super) struct CommandStats {
    pub(super) name: &'static str,
    pub(super) total: u64,
    pub(super) success: u64,
    pub(super) error: u64,
    pub(super) error_fault: u64,
    pub(super) delay_fault: u64,
    pub(super) latency: Histogram,
    pub(super) reported: [u64; 5],
}

impl Row {
    #[inline]
    pub(super) fn of(spec: &CommandSpec) -> Self {
        Self(spec.row)
    }

    /// The row of the container that a subcommand belongs to; every other row itself.
    fn container(self) -> (Self, &'static str) {
        let rows = COMMANDS.get(..=usize::from(self.0)).unwrap_or_default();
        let container = rows.iter().rposition(|spec| !spec.name.contains('|'));
        let named = container.and_then(|row| Some((Self(row as u16), COMMANDS.get(row)?.name)));
        named.unwrap_or((Self(UNKNOWN_ROW), UNKNOWN))
    }
}

impl Commands {
    #[inline]
    pub(super) fn entry(&mut self, row: Row) -> Option<&mut CommandStats> {
        let place = match self.places.get(usize::from(row.0)) {
            Some(place) if *place != VACANT => *place,
            _ => self.admit(row)?,
        };
        self.entries.get_mut(usize::from(place))
    }

    pub(super) fn entries_mut(&mut self) -> impl Iterator<Item = &mut CommandStats> {
        self.entries.iter_mut()
    }

    #[cold]
    fn admit(&mut self, row: Row) -> Option<u16> {
        self.places.resize(COMMANDS.len() + 1, VACANT);
        let (container, name) = row.container();
        let known = self.places.get(usize::from(container.0)).copied()?;
        let place = if known == VACANT {
            self.entries.push(CommandStats::new(name));
            (self.entries.len() - 1) as u16
        } else {
            known
        };
        for row in [container, row] {
            *self.places.get_mut(usize::from(row.0))? = place;
        }
        Some(place)
    }
}

impl CommandStats {
    fn new(name: &'static str) -> Self {
        let latency = Histogram::new();
        let (total, success, error, error_fault, delay_fault) = (0, 0, 0, 0, 0);
        let reported = [0; 5];
        Self { name, total, success, error, error_fault, delay_fault, latency, reported }
    }

    /// The last two are counted of clients' commands only.
    pub(super) fn counters(&self) -> [u64; 5] {
        [self.total, self.success, self.error, self.error_fault, self.delay_fault]
    }

    /// Counts a reply that came after `latency`.
    pub(super) fn note_reply(&mut self, reply: &[u8], latency: u64) {
        // `!` is the error of RESP3 that may hold line breaks.
        match reply.first() {
            Some(b'-' | b'!') => self.error += 1,
            _ => self.success += 1,
        }
        self.latency.record(latency);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;

    #[test]
    fn subcommands_count_for_their_container_and_unknown_commands_for_one_of_their_own() {
        let mut commands = Commands::default();
        let mut names = Vec::new();
        for spec in COMMANDS.iter().chain([&command::UNKNOWN]) {
            let entry = commands.entry(Row::of(spec)).unwrap();
            entry.total += 1;
            assert!(spec.name.is_empty() || spec.name.split('|').next() == Some(entry.name));
            names.push(entry.name);
        }
        names.dedup();
        let entries: Vec<_> = commands.entries_mut().map(|entry| entry.name).collect();
        assert_eq!(entries, names);
        assert_eq!(names.last(), Some(&"unknown"));
        assert!(COMMANDS.iter().all(|spec| spec.name != UNKNOWN), "the name is taken");
        let config = commands.entries_mut().find(|entry| entry.name == "config").unwrap();
        assert!(config.total > 3, "{}", config.total);
    }
}
