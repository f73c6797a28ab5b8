//! What clients asked and were told, and whether it fits together with what nodes executed.

use std::collections::{BTreeMap, BTreeSet};

use slotmesh_engine::{Instant, Slot};

use super::journal::Journal;
use super::linearizability::{Effect, Step, Verdict, check, shortest};
use super::listener::Messages;
use super::profile::Profile;

/// So many of the last steps on a key are told when they contradict each other.
const TOLD: usize = 20;

/// Names an operation in the history.
pub type OpId = usize;

/// What one command was to do to one key.
#[derive(Debug)]
pub struct Op {
    /// The client's connection: a client that comes again is another one.
    pub session: usize,
    pub key: Vec<u8>,
    pub effect: Effect,
    pub called: Instant,
    pub outcome: Outcome,
}

/// What its client knows of an operation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was executed, before this moment.
    Done(Instant),
    /// It was not executed, said the reply.
    Refused,
    /// It may have been executed: so the reply said, or there was none.
    Unknown,
}

/// All that clients know.
#[derive(Default)]
pub struct History {
    pub ops: Vec<Op>,
    /// Elements that clients have pushed to lists.
    pub pushed: BTreeMap<Vec<u8>, Outcome>,
    /// Elements that clients have got from lists.
    pub popped: Vec<Vec<u8>>,
    pub messages: Messages,
}

impl Op {
    /// The text that no other command writes.
    fn token(&self) -> Option<&[u8]> {
        match &self.effect {
            Effect::Write(token) | Effect::Append(token, _) | Effect::Swap(_, token) => Some(token),
            Effect::Read(_) | Effect::Delete(_) | Effect::Increment(_) => None,
        }
    }
}

impl History {
    /// Notes an operation whose outcome is not known yet.
    pub fn begin(&mut self, session: usize, key: &[u8], effect: Effect, now: Instant) -> OpId {
        let (key, outcome) = (key.to_vec(), Outcome::Unknown);
        self.ops.push(Op { session, key, effect, called: now, outcome });
        self.ops.len() - 1
    }

    /// Panics when clients were told what nodes did not do.
    pub fn check(&self, journal: &Journal, profile: &Profile) {
        self.check_writes(journal);
        self.check_lists(journal);
        self.check_order(journal, profile.reshard > 0);
        self.check_reads(journal, profile);
        self.messages.check(profile.is_peaceful());
    }

    /// Panics when a mirror has executed what it should not have, or, in peace, not all of what
    /// clients wrote, in their order.
    pub fn check_mirror(&self, journal: &Journal, in_peace: bool) {
        let writes = self.ops.iter().filter_map(|op| op.token());
        for token in writes.chain(self.pushed.keys().map(Vec::as_slice)) {
            let times = journal.executions(token).len();
            let name = token.escape_ascii();
            assert!(times <= 1, "the mirror has executed the write of {name} {times} times");
        }
        if !in_peace {
            return;
        }
        for op in self.ops.iter().filter(|op| matches!(op.outcome, Outcome::Done(_))) {
            let Some(token) = op.token() else { continue };
            let name = token.escape_ascii();
            assert_eq!(journal.executions(token).len(), 1, "the mirror has not executed {name}");
        }
        self.check_order(journal, false);
    }

    fn check_writes(&self, journal: &Journal) {
        let writes = self.ops.iter().filter_map(|op| Some((op.token()?, op.outcome)));
        let pushes = self.pushed.iter().map(|(token, outcome)| (&token[..], *outcome));
        for (token, outcome) in writes.chain(pushes) {
            let times = journal.executions(token).len();
            let name = token.escape_ascii();
            assert!(times <= 1, "the write of {name} was executed {times} times");
            match outcome {
                Outcome::Done(_) => assert_eq!(times, 1, "{name} was acknowledged, not executed"),
                Outcome::Refused => assert_eq!(times, 0, "{name} was refused, and executed"),
                Outcome::Unknown => {}
            }
        }
    }

    fn check_lists(&self, journal: &Journal) {
        let mut seen = BTreeSet::new();
        for element in &self.popped {
            let name = element.escape_ascii();
            assert!(self.pushed.contains_key(element), "nobody has pushed {name}");
            // A failover may bring back what was popped.
            assert!(seen.insert(element) || journal.has_lost_any(), "{name} was popped twice");
        }
    }

    /// What one client wrote to one slot was executed in its order; what it wrote to one key, where
    /// slots move: two nodes share a slot meanwhile.
    fn check_order(&self, journal: &Journal, slots_move: bool) {
        let mut last = BTreeMap::new();
        for op in self.ops.iter().filter(|op| matches!(op.outcome, Outcome::Done(_))) {
            let Some(token) = op.token() else { continue };
            let Some(at) = journal.executions(token).first().copied() else { continue };
            let key = slots_move.then_some(&op.key);
            let place = (op.session, Slot::of(&op.key).number(), key);
            if let Some((before, earlier)) = last.insert(place, (at, token)) {
                assert!(
                    before <= at,
                    "a client wrote {} before {}, and it was executed after",
                    earlier.escape_ascii(),
                    token.escape_ascii()
                );
            }
        }
    }

    fn check_reads(&self, journal: &Journal, profile: &Profile) {
        let keys: BTreeSet<_> = self.ops.iter().map(|op| &op.key).collect();
        for key in keys {
            self.check_values(key);
            if profile.reads_from_replicas() || journal.has_lost(key) {
                continue;
            }
            let steps = self.steps(key, journal);
            if check(&steps) == Verdict::Contradicts {
                let told: Vec<_> = shortest(&steps).iter().map(ToString::to_string).collect();
                let last = told[told.len().saturating_sub(TOLD)..].join("\n  ");
                panic!("no order explains what was seen of {}:\n  {last}", key.escape_ascii());
            }
        }
    }

    /// Whatever was read was written to this key: nobody has got somebody else's reply.
    fn check_values(&self, key: &[u8]) {
        let here = || self.ops.iter().filter(|op| op.key == key);
        let written: BTreeSet<_> = here().filter_map(Op::token).collect();
        for op in here() {
            let Effect::Read(Some(value)) = &op.effect else { continue };
            let is_number = value.iter().all(u8::is_ascii_digit);
            let is_written =
                value.split_inclusive(|byte| *byte == b';').all(|token| written.contains(token));
            assert!(
                is_number || is_written,
                "{} was read from {}, and never written to it",
                value.escape_ascii(),
                key.escape_ascii()
            );
        }
    }

    fn steps(&self, key: &[u8], journal: &Journal) -> Vec<Step> {
        let mut steps = Vec::new();
        // For each client its last write, and its reads since.
        let mut before: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for op in self.ops.iter().filter(|op| op.key == key) {
            let returned = match op.outcome {
                Outcome::Refused => continue,
                Outcome::Done(at) => Some(at),
                Outcome::Unknown => None,
            };
            let never = op.token().is_some_and(|token| journal.executions(token).is_empty());
            let reads = matches!(op.effect, Effect::Read(_));
            if returned.is_none() && (never || reads) {
                continue;
            }
            // The proxy keeps one command's order with another if one of them writes, and if it
            // knows what has become of both.
            let mut after = Vec::new();
            if returned.is_some() {
                let before = before.entry(op.session).or_default();
                let is_write = |at: &usize| {
                    let step: &Step = &steps[*at];
                    !matches!(step.effect, Effect::Read(_))
                };
                after = before.clone();
                if reads {
                    after.retain(is_write);
                } else {
                    before.clear();
                }
                before.push(steps.len());
            }
            steps.push(Step { effect: op.effect.clone(), called: op.called, returned, after });
        }
        steps
    }
}
