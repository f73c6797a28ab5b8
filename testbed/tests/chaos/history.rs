//! What clients asked and were told, and whether it can have happened on one server.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use slotmesh_engine::Instant;

use crate::linearizability::{Effect, State, Step, Verdict, check, shortest};
use crate::support::slot;

/// So many of the last steps on a key are told when they contradict each other.
const TOLD: usize = 20;

/// What a client knows of a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// It was executed, before this moment.
    Done(Instant),
    /// It was not executed, said the reply.
    Refused,
    /// It may have been executed: so the reply said, or the connection ended first.
    Unknown,
}

/// What one command was to do to one key.
#[derive(Debug)]
pub(crate) struct Op {
    /// The client's connection.
    pub(crate) session: usize,
    pub(crate) key: String,
    pub(crate) effect: Effect,
    /// Its command has other keys too.
    pub(crate) together: bool,
    pub(crate) called: Instant,
    pub(crate) outcome: Outcome,
}

/// An element that a client pushed to its own list, in one transaction with a count of them.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) element: String,
    /// The list's length, as the reply told.
    pub(crate) length: usize,
    pub(crate) outcome: Outcome,
}

/// All that one client knows, in the order in which it asked.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) ops: Vec<Op>,
    /// Its pushes by their list.
    pub(crate) pushes: BTreeMap<String, Vec<Push>>,
}

/// A replica took over without having got all that its primary had acknowledged. Redis says so of
/// itself
/// (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#write-safety>): it
/// replicates asynchronously, so a primary that dies takes with it what it had acknowledged last;
/// and one that was out of reach and does not know yet that it has been replaced goes on
/// acknowledging, and forgets all of it then.
#[derive(Clone, Debug)]
pub(crate) struct Loss {
    /// The primary's slots.
    pub(crate) slots: Vec<std::ops::RangeInclusive<u16>>,
    /// When what was lost was acknowledged.
    pub(crate) acknowledged: Range<Instant>,
}

/// What the check found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Keys whose every reply fits one order of all commands.
    pub(crate) explained: usize,
    /// Keys with too many orders to try them all.
    pub(crate) undecided: usize,
    /// Acknowledged pushes that Redis lost.
    pub(crate) lost: usize,
}

impl Loss {
    fn concerns(&self, key: &str) -> bool {
        let slot = slot(key);
        self.slots.iter().any(|range| range.contains(&slot))
    }

    /// Whether any of a key's operations may have been executed when what was lost was.
    fn touches(&self, ops: &[&Op]) -> bool {
        let Range { start, end } = self.acknowledged;
        let within = |op: &&Op| {
            let early = matches!(op.outcome, Outcome::Done(at) if at < start);
            !early && op.called < end
        };
        ops.iter().any(within)
    }
}

/// Panics when what clients were told cannot have happened.
///
/// `values` and `lists` are what all keys hold in the end. `stale`: a primary may have answered
/// reads after another one had taken its place.
pub(crate) fn examine(
    histories: &[History],
    values: &BTreeMap<String, (State, Range<Instant>)>,
    lists: &BTreeMap<String, (Vec<String>, usize)>,
    loss: Option<&Loss>,
    stale: bool,
) -> Findings {
    let mut findings = Findings::default();
    let mut ops: BTreeMap<&str, Vec<&Op>> = BTreeMap::new();
    for op in histories.iter().flat_map(|one| &one.ops) {
        ops.entry(&op.key).or_default().push(op);
    }
    for (key, mut ops) in ops {
        let end = &values[key];
        check_origin(key, &ops, &end.0);
        if loss.is_some_and(|loss| loss.concerns(key) && loss.touches(&ops)) {
            continue;
        }
        ops.retain(|op| !stale || !matches!(op.effect, Effect::Read(_)));
        let steps = steps(&ops, end);
        match check(&steps) {
            Verdict::Fits => findings.explained += 1,
            Verdict::Undecided => findings.undecided += 1,
            Verdict::Contradicts => {
                let told: Vec<_> = shortest(&steps).iter().map(ToString::to_string).collect();
                let last = told[told.len().saturating_sub(TOLD)..].join("\n  ");
                panic!("no order explains what was seen of {key}:\n  {last}");
            }
        }
    }
    for (key, pushes) in histories.iter().flat_map(|one| &one.pushes) {
        let loss = loss.filter(|loss| loss.concerns(key));
        findings.lost += check_list(key, pushes, &lists[key], loss);
    }
    findings
}

/// Whatever was read of a key was written to it: nobody has got another's reply.
fn check_origin(key: &str, ops: &[&Op], end: &State) {
    let tokens = ops.iter().filter_map(|op| match &op.effect {
        Effect::Write(token) | Effect::Append(token, _) => Some(&token[..]),
        _ => None,
    });
    let written: BTreeSet<&[u8]> = tokens.collect();
    let reads = ops.iter().filter_map(|op| match &op.effect {
        Effect::Read(Some(value)) if matches!(op.outcome, Outcome::Done(_)) => Some(&value[..]),
        _ => None,
    });
    for value in reads.chain(end.as_deref()) {
        let is_number = value.iter().all(u8::is_ascii_digit);
        let mut tokens = value.split_inclusive(|byte| *byte == b';');
        assert!(
            is_number || tokens.all(|token| written.contains(token)),
            "{} was read from {key}, and never written to it",
            value.escape_ascii()
        );
    }
}

/// The key's steps; its value in the end is one more read.
fn steps(ops: &[&Op], end: &(State, Range<Instant>)) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    // For each connection its last write, and its reads since.
    let mut before: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for op in ops {
        let reads = matches!(op.effect, Effect::Read(_));
        let returned = match op.outcome {
            Outcome::Done(at) => Some(at),
            Outcome::Unknown if !reads => None,
            Outcome::Unknown | Outcome::Refused => continue,
        };
        let mut after = Vec::new();
        // A split command that is refused in part may be overtaken, and one whose end nobody knows.
        if returned.is_some() && !op.together {
            let before = before.entry(op.session).or_default();
            after = before.clone();
            if reads {
                after.retain(|at| !matches!(steps[*at].effect, Effect::Read(_)));
            } else {
                before.clear();
            }
            before.push(steps.len());
        }
        steps.push(Step { effect: op.effect.clone(), called: op.called, returned, after });
    }
    let (state, time) = end.clone();
    let (effect, after) = (Effect::Read(state), Vec::new());
    steps.push(Step { effect, called: time.start, returned: Some(time.end), after });
    steps
}

/// Every acknowledged push is in its place, no other was executed twice, and none was refused and
/// executed. Returns how many acknowledged ones Redis lost.
fn check_list(
    key: &str,
    pushes: &[Push],
    (list, count): &(Vec<String>, usize),
    loss: Option<&Loss>,
) -> usize {
    assert_eq!(list.len(), *count, "{key} and its count differ: a transaction was cut in two");
    let mut places = BTreeMap::new();
    for (place, element) in list.iter().enumerate() {
        let earlier = places.insert(element.as_str(), place);
        assert!(earlier.is_none(), "{element} was pushed to {key} twice");
    }
    let mut lost = 0;
    let mut last = None;
    for Push { element, length, outcome } in pushes {
        let place = places.remove(element.as_str());
        match (outcome, place) {
            (Outcome::Done(_), Some(place)) => {
                assert!(last < Some(place), "{element} was pushed to {key} before an earlier one");
                assert!(
                    loss.is_some() || place + 1 == *length,
                    "{element} was not number {length}"
                );
                last = Some(place);
            }
            (Outcome::Done(at), None) => {
                let may_be = loss.is_some_and(|loss| loss.acknowledged.contains(at));
                assert!(may_be, "{element} was acknowledged at {at:?} and is lost from {key}");
                lost += 1;
            }
            (Outcome::Refused, place) => {
                assert_eq!(place, None, "{element} was refused, and pushed to {key}");
            }
            (Outcome::Unknown, _) => {}
        }
    }
    assert!(places.is_empty(), "nobody has pushed {places:?} to {key}");
    lost
}
