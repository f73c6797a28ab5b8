//! Whether what clients saw of one key can have happened in some order (Wing and Gong's search,
//! with Lowe's memory of what was tried).

use std::collections::HashSet;
use std::fmt;

use slotmesh_engine::Instant;

/// A key's value; `None`: there is none.
pub type State = Option<Vec<u8>>;

/// What one command did to one key, as its client knows.
#[derive(Clone, Debug)]
pub enum Effect {
    Read(State),
    Write(Vec<u8>),
    /// Whether there was something to delete, where the reply tells.
    Delete(Option<bool>),
    /// The number that came out, where a reply tells.
    Increment(Option<i64>),
    /// What was appended, and the length that came out.
    Append(Vec<u8>, Option<i64>),
    /// Written only because the value was still this.
    Swap(State, Vec<u8>),
}

/// One command's doing on one key.
#[derive(Clone, Debug)]
pub struct Step {
    pub effect: Effect,
    pub called: Instant,
    /// `None`: no reply told whether it was executed, or when.
    pub returned: Option<Instant>,
    /// Steps of the same client that were executed before.
    pub after: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    Fits,
    Contradicts,
    /// Too many orders to try them all.
    Undecided,
}

const TRIES: usize = 100_000;

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |state: &State| match state {
            Some(value) => value.escape_ascii().to_string(),
            None => "nothing".to_owned(),
        };
        let millis = |at: Instant| at.as_nanos() as f64 / 1e6;
        write!(f, "{:.3} to ", millis(self.called))?;
        match self.returned {
            Some(returned) => write!(f, "{:.3}: ", millis(returned))?,
            None => write!(f, "nobody knows: ")?,
        }
        match &self.effect {
            Effect::Read(seen) => write!(f, "read {}", text(seen)),
            Effect::Write(value) => write!(f, "wrote {}", value.escape_ascii()),
            Effect::Swap(seen, value) => {
                write!(f, "wrote {} in the place of {}", value.escape_ascii(), text(seen))
            }
            effect => write!(f, "{effect:?}"),
        }
    }
}

/// Looks for an order of all steps that were answered, and any of the others, that explains what
/// each of them saw.
pub fn check(steps: &[Step]) -> Verdict {
    let mut search =
        Search { steps, done: vec![false; steps.len()], tried: HashSet::new(), left: TRIES };
    match search.explain(&None) {
        true => Verdict::Fits,
        false if search.left == 0 => Verdict::Undecided,
        false => Verdict::Contradicts,
    }
}

/// The steps up to the moment at which they cannot be explained any more.
pub fn shortest(steps: &[Step]) -> Vec<Step> {
    let mut moments: Vec<_> = steps.iter().filter_map(|step| step.returned).collect();
    moments.sort_unstable();
    let until = |moment: Instant| {
        let begun: Vec<_> = (0..steps.len()).filter(|at| steps[*at].called <= moment).collect();
        let known = |returned: &Instant| *returned <= moment;
        let cut = |at: &usize| {
            let step = steps[*at].clone();
            let after = step.after.iter().filter_map(|after| begun.binary_search(after).ok());
            let after = after.collect();
            Step { returned: step.returned.filter(known), after, ..step }
        };
        begun.iter().map(cut).collect::<Vec<_>>()
    };
    let contradicts = |moment: &Instant| check(&until(*moment)) == Verdict::Contradicts;
    moments.into_iter().find(contradicts).map_or_else(|| steps.to_vec(), until)
}

struct Search<'a> {
    steps: &'a [Step],
    done: Vec<bool>,
    tried: HashSet<(Vec<bool>, State)>,
    left: usize,
}

impl Search<'_> {
    fn explain(&mut self, state: &State) -> bool {
        let undone = |at: &usize| !self.done[*at];
        let answered = (0..self.steps.len()).filter(undone);
        let Some(end) = answered.filter_map(|at| self.steps[at].returned).min() else {
            return true;
        };
        if self.left == 0 || !self.tried.insert((self.done.clone(), state.clone())) {
            return false;
        }
        self.left -= 1;
        let may_be_next = |at: &usize| {
            let step = &self.steps[*at];
            !self.done[*at]
                && step.called <= end
                && step.after.iter().all(|after| self.done[*after])
        };
        let mut next: Vec<_> = (0..self.steps.len()).filter(may_be_next).collect();
        next.sort_by_key(|at| self.steps[*at].returned.map_or(u64::MAX, Instant::as_nanos));
        next.into_iter().any(|at| {
            let Some(after) = apply(&self.steps[at].effect, state) else { return false };
            self.done[at] = true;
            let fits = self.explain(&after);
            self.done[at] = false;
            fits
        })
    }
}

/// The state after a step; `None` if the step cannot have seen this state.
fn apply(effect: &Effect, state: &State) -> Option<State> {
    match effect {
        Effect::Read(seen) => (seen == state).then(|| state.clone()),
        Effect::Write(value) => Some(Some(value.clone())),
        Effect::Delete(seen) => seen.is_none_or(|seen| seen == state.is_some()).then_some(None),
        Effect::Increment(seen) => {
            let before = state.as_deref().unwrap_or(b"0");
            let number = std::str::from_utf8(before).ok()?.parse::<i64>().ok()? + 1;
            seen.is_none_or(|seen| seen == number).then(|| Some(number.to_string().into_bytes()))
        }
        Effect::Append(token, seen) => {
            let mut value = state.clone().unwrap_or_default();
            value.extend_from_slice(token);
            seen.is_none_or(|seen| seen == value.len() as i64).then_some(Some(value))
        }
        Effect::Swap(seen, value) => (seen == state).then(|| Some(value.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(effect: Effect, called: u64, returned: u64) -> Step {
        let at = Instant::from_nanos;
        Step {
            effect,
            called: at(called),
            returned: (returned > 0).then(|| at(returned)),
            after: Vec::new(),
        }
    }

    fn write(value: &str) -> Effect {
        Effect::Write(value.into())
    }

    fn read(value: &str) -> Effect {
        Effect::Read(Some(value.into()))
    }

    #[test]
    fn a_read_sees_what_was_written_before_it_or_meanwhile() {
        let first = || step(write("a"), 1, 2);
        assert_eq!(check(&[first(), step(read("a"), 3, 4)]), Verdict::Fits);
        assert_eq!(check(&[first(), step(Effect::Read(None), 3, 4)]), Verdict::Contradicts);
        let concurrent = || vec![first(), step(write("b"), 3, 8)];
        for (seen, fits) in
            [("a", Verdict::Fits), ("b", Verdict::Fits), ("c", Verdict::Contradicts)]
        {
            assert_eq!(check(&[concurrent(), vec![step(read(seen), 4, 5)]].concat()), fits);
        }
    }

    #[test]
    fn two_reads_do_not_see_the_past_again() {
        let steps = [
            step(write("a"), 1, 2),
            step(write("b"), 3, 20),
            step(read("b"), 4, 5),
            step(read("a"), 6, 7),
        ];
        assert_eq!(check(&steps), Verdict::Contradicts);
    }

    #[test]
    fn what_nobody_knows_of_may_happen_late_or_never_but_not_twice() {
        let unknown =
            |seen| [step(Effect::Increment(None), 1, 0), step(Effect::Increment(Some(seen)), 5, 6)];
        assert_eq!(check(&unknown(1)), Verdict::Fits);
        assert_eq!(check(&unknown(2)), Verdict::Fits);
        assert_eq!(check(&unknown(3)), Verdict::Contradicts);
    }

    #[test]
    fn a_client_s_own_steps_keep_their_order() {
        let mut steps = vec![step(write("a"), 1, 9), step(Effect::Read(None), 1, 9)];
        assert_eq!(check(&steps), Verdict::Fits);
        steps[1].after = vec![0];
        assert_eq!(check(&steps), Verdict::Contradicts);
    }
}
