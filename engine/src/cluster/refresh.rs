//! When to ask for the topology again, whom, and whom to believe.

use std::time::Duration;

use super::{Address, Topology};
use crate::config::ClusterConfig;
use crate::ids::ConnectionId;
use crate::rng::Rng;
use crate::time::Instant;

/// Two refreshes never start closer together than this, whatever asks for them.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(50);
/// So many rounds in a row are started as close together as that; the next so many at twice the
/// distance, and so on: what a cluster has not mended soon takes longer.
const EAGER_ROUNDS: u32 = 200;
const LONGEST_EAGER_INTERVAL: Duration = Duration::from_millis(500);
/// When no command has waited for a node for so long, counting begins anew.
const CALM: Duration = Duration::from_secs(2);
/// Pauses between rounds in which no node answered: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// How many nodes are asked in a round, where there are so many: one of them may be behind.
pub(super) const VIEWS: usize = 3;
/// How long the first answer waits for others to agree or to differ.
const GRACE: Duration = Duration::from_millis(200);
/// A node that has not answered for so long is not given up, but another one is asked as well: an
/// address that is gone does not even refuse.
const SLOW: Duration = Duration::from_millis(200);
/// When to ask again after nodes have told different things.
const DISAGREEMENT_INTERVAL: Duration = Duration::from_millis(500);

/// The schedule of one cluster's topology refresh: one round at a time.
#[derive(Debug, Default)]
pub(crate) struct Refresh {
    /// There is no topology to be asked for.
    never: bool,
    /// When the next round starts; `None`: not before somebody asks.
    next: Option<Instant>,
    round: Option<Round>,
    last_start: Option<Instant>,
    last_success: Option<Instant>,
    /// Rounds in a row in which no node answered.
    failures: u32,
    /// Redirections since the last round started.
    redirections: u32,
    /// When a MOVED last told something new, and how many rounds have been started for that since
    /// there was calm; whether the next one is.
    last_move: Option<Instant>,
    move_rounds: u32,
    for_move: bool,
    /// When a command last had to wait for a node, and rounds started since there was calm.
    last_hurry: Option<Instant>,
    eager_rounds: u32,
    /// Why each node of the last failed round gave no topology.
    reasons: Vec<String>,
}

/// A refresh in progress: some nodes are asked at the same time, and others in the place of those
/// that give no answer.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// Nodes still to be asked, the next one last.
    candidates: Vec<Address>,
    /// So many views are enough.
    wanted: usize,
    asked: Vec<Asked>,
    /// What has been answered.
    views: Vec<Topology>,
    /// A view of a lower epoch is from before what is known.
    known_epoch: u64,
    started: Instant,
    /// When the first view came, and the last one.
    first_view: Instant,
    last_view: Instant,
    /// When to make do with the views that have come.
    decide_by: Option<Instant>,
    reasons: Vec<String>,
    /// A node of another cluster has answered.
    foreign: bool,
}

/// A node that has not answered yet.
#[derive(Clone, Copy, Debug)]
struct Asked {
    connection: ConnectionId,
    /// When to ask another one as well; `None`: that has been done.
    slow_at: Option<Instant>,
    /// When to give it up.
    deadline: Instant,
}

/// How a round has ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The view that most nodes share.
    Topology {
        /// What they told.
        topology: Topology,
        /// Some told something else.
        disputed: bool,
        /// Nodes that have not answered and need not any more.
        unneeded: Vec<ConnectionId>,
    },
    /// No node answered.
    Nothing,
}

impl Refresh {
    /// A schedule of nothing so far; `wanted` is false for a server without a topology.
    pub(crate) fn new(wanted: bool) -> Self {
        Self { never: !wanted, ..Self::default() }
    }

    /// A client has come: make sure that the topology is, or soon will be, fresh.
    pub(crate) fn note_client(&mut self, now: Instant, config: &ClusterConfig) {
        if self.next.is_none() && self.round.is_none() && !self.never {
            let due = self.last_success.map_or(now, |last| last + config.refresh_rate);
            self.next = Some(due.max(now));
        }
    }

    /// A MOVED has told something new: there may be more to it. The first one is asked about at
    /// once. Slots that go on moving are asked about ever more rarely, down to once in
    /// `redirect_refresh_interval`.
    pub(crate) fn note_move(&mut self, now: Instant, config: &ClusterConfig) {
        let longest = config.redirect_refresh_interval;
        if config.redirect_refresh_threshold == 0 {
            return;
        }
        if self.last_move.is_none_or(|last| now.saturating_duration_since(last) > longest) {
            self.move_rounds = 0;
        }
        self.last_move = Some(now);
        self.for_move = true;
        let doubled = SHORTEST_INTERVAL.saturating_mul(1 << self.move_rounds.min(16));
        let distance = doubled.min(longest).max(SHORTEST_INTERVAL);
        let earliest = self.last_start.map_or(now, |last| last + distance);
        self.ask_at(earliest.max(now));
    }

    /// A node redirected a command to another one, as was known already or for this once.
    pub(crate) fn note_redirection(&mut self, now: Instant, config: &ClusterConfig) {
        self.redirections = self.redirections.saturating_add(1);
        let threshold = config.redirect_refresh_threshold;
        if threshold == 0 || self.redirections < threshold {
            return;
        }
        let earliest = self.last_start.map_or(now, |last| last + config.redirect_refresh_interval);
        self.ask_at(earliest.max(now));
    }

    /// The topology does not know yet what a node has told.
    pub(crate) fn ask_again_soon(&mut self, now: Instant) {
        self.ask_at(now + DISAGREEMENT_INTERVAL);
    }

    /// Something is wrong that a fresh topology may mend: refresh as soon as is decent.
    pub(crate) fn hurry(&mut self, now: Instant) {
        let earliest = self.last_start.map_or(now, |last| last + SHORTEST_INTERVAL);
        self.ask_at(earliest.max(now));
    }

    /// A command waits for a node that is not there: perhaps another one takes its place, and then
    /// every moment counts.
    pub(crate) fn hurry_for_waiting(&mut self, now: Instant) {
        if self.failures > 0 {
            return; // The next round is on its way, at the pace of those that get no answer.
        }
        if self.last_hurry.is_none_or(|last| now.saturating_duration_since(last) > CALM) {
            self.eager_rounds = 0;
        }
        self.last_hurry = Some(now);
        let earliest = self.last_start.map_or(now, |last| last + self.eager_interval());
        self.ask_at(earliest.max(now));
    }

    /// How soon a round follows the other while commands wait for a node.
    pub(crate) fn eager_interval(&self) -> Duration {
        let interval = SHORTEST_INTERVAL.saturating_mul(1 + self.eager_rounds / EAGER_ROUNDS);
        interval.min(LONGEST_EAGER_INTERVAL)
    }

    /// The next moment at which [`Self::is_due`] or a round's deadline has something to say.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        match &self.round {
            Some(round) => round.next_timeout(),
            None => self.next,
        }
    }

    /// Whether a round should start now.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.round.is_none() && self.next.is_some_and(|next| next <= now)
    }

    /// Nobody needs the topology: forget about the next round.
    pub(crate) fn rest(&mut self) {
        self.next = None;
    }

    /// Starts a round over `candidates`, the first ones first; `views` of them are asked at a time.
    /// A view of an epoch below `known_epoch` is believed only where there is no other.
    pub(crate) fn start(
        &mut self,
        mut candidates: Vec<Address>,
        views: usize,
        known_epoch: u64,
        now: Instant,
    ) {
        candidates.reverse();
        self.next = None;
        self.last_start = Some(now);
        self.redirections = 0;
        self.move_rounds =
            self.move_rounds.saturating_add(std::mem::take(&mut self.for_move).into());
        self.eager_rounds = self.eager_rounds.saturating_add(1);
        let round =
            Round { candidates, wanted: views, known_epoch, started: now, ..Round::default() };
        self.round = Some(round);
    }

    pub(crate) fn round_mut(&mut self) -> Option<&mut Round> {
        self.round.as_mut()
    }

    /// A topology was found: the round is over. The next one comes sooner where it was disputed.
    pub(crate) fn succeed(
        &mut self,
        now: Instant,
        disputed: bool,
        config: &ClusterConfig,
        rng: &mut Rng,
    ) {
        self.round = None;
        self.failures = 0;
        self.reasons.clear();
        self.last_success = Some(now);
        // Always a little late, by a different bit each time, so that workers and sidecars that
        // started together drift apart.
        let late = rng.jitter(config.refresh_rate / 8);
        let rate = if disputed {
            config.refresh_rate.min(DISAGREEMENT_INTERVAL)
        } else {
            config.refresh_rate + late
        };
        self.ask_at(now + rate);
    }

    /// No node answered: the round is over, and the next one comes after a pause.
    pub(crate) fn fail(&mut self, now: Instant, rng: &mut Rng) {
        if let Some(round) = self.round.take() {
            self.reasons = round.reasons;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(6)).min(LAST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.ask_at(now + rng.jitter(pause));
    }

    /// Whether a node of another cluster has answered in this round.
    pub(crate) fn is_foreign(&self) -> bool {
        self.round.as_ref().is_some_and(|round| round.foreign)
    }

    /// How many rounds in a row have failed.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether the nodes of the last round wanted other credentials, or none of ours.
    pub(crate) fn is_denied(&self) -> bool {
        let denied = |reason: &String| {
            ["NOAUTH", "WRONGPASS", "NOPERM"]
                .iter()
                .any(|code| reason.contains(&format!("'{code} ")))
        };
        !self.reasons.is_empty() && self.reasons.iter().all(denied)
    }

    /// Why the last round failed: each node asked and its reason.
    pub(crate) fn reasons(&self) -> String {
        self.reasons.join("; ")
    }

    fn ask_at(&mut self, at: Instant) {
        if self.never {
            return;
        }
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

impl Round {
    /// The next node to ask; `None` if enough are asked that may answer soon, or none is left. One
    /// more is asked where nodes differ: it may tell at once who is right.
    pub(crate) fn next_candidate(&mut self) -> Option<Address> {
        let prompt = self.asked.iter().filter(|asked| asked.slow_at.is_some()).count();
        let differ = self.views.len() > 1 && !self.is_agreed();
        if prompt + self.views.len() >= self.wanted + usize::from(differ) {
            return None;
        }
        self.candidates.pop()
    }

    /// Finds out which nodes are slow to answer.
    pub(crate) fn note_slow(&mut self, now: Instant) {
        for asked in &mut self.asked {
            asked.slow_at = asked.slow_at.filter(|at| now < *at);
        }
    }

    /// A candidate is asked over `connection`, until `deadline`.
    pub(crate) fn note_asked(&mut self, connection: ConnectionId, deadline: Instant, now: Instant) {
        self.asked.push(Asked { connection, slow_at: Some(now + SLOW), deadline });
    }

    /// A node that has been silent for too long.
    pub(crate) fn silent(&self, now: Instant) -> Option<ConnectionId> {
        self.asked.iter().find(|asked| asked.deadline <= now).map(|asked| asked.connection)
    }

    /// A node has answered with a topology. Returns whether it had been asked.
    pub(crate) fn note_view(
        &mut self,
        connection: ConnectionId,
        view: Topology,
        now: Instant,
    ) -> bool {
        let asked = self.forget(connection);
        if asked {
            if self.views.is_empty() {
                self.first_view = now;
            }
            self.last_view = now;
            self.views.push(view);
        }
        asked
    }

    /// A node of another cluster has answered.
    pub(crate) fn note_foreign(&mut self) {
        self.foreign = true;
    }

    /// A node gave no topology. Returns whether it had been asked.
    pub(crate) fn note_reason(&mut self, connection: ConnectionId, reason: String) -> bool {
        // Enough to tell an operator what is wrong; an error reply has to carry them.
        const REASONS: usize = 4;
        let asked = self.forget(connection);
        if asked && self.reasons.len() < REASONS {
            self.reasons.push(reason);
        }
        asked
    }

    /// How the round has ended, if it has: nobody is left to answer, or the others have had their
    /// time. Where two nodes agree, that is as long again as they took: another one that differs
    /// is a reason to ask again soon.
    pub(crate) fn outcome(&mut self, now: Instant) -> Option<Outcome> {
        let everybody = self.asked.is_empty();
        let Some(best) = self.best() else {
            return (everybody && self.candidates.is_empty()).then_some(Outcome::Nothing);
        };
        let grace = self.first_view + GRACE;
        let as_long_again = self.last_view + self.last_view.saturating_duration_since(self.started);
        let decide_by = if self.is_agreed() { as_long_again.min(grace) } else { grace };
        if !everybody && now < decide_by {
            self.decide_by = Some(decide_by);
            return None;
        }
        let differ = |view: &Topology| self.supporters(view) < self.views.len();
        Some(Outcome::Topology {
            disputed: self.views.get(best).is_some_and(differ),
            topology: self.views.swap_remove(best),
            unneeded: self.asked.iter().map(|asked| asked.connection).collect(),
        })
    }

    /// The view to believe: not one from before what is known, then one that most nodes share,
    /// then the one whose node knows more, then the one that came last.
    fn best(&self) -> Option<usize> {
        let rank = |view: &Topology| {
            (!self.is_behind(view), self.supporters(view), view.epoch, view.slots())
        };
        (0..self.views.len()).max_by_key(|at| self.views.get(*at).map(rank))
    }

    /// Whether the best view is one that another node shares, and not from before what is known.
    fn is_agreed(&self) -> bool {
        let best = self.best().and_then(|best| self.views.get(best));
        best.is_some_and(|view| self.supporters(view) > 1 && !self.is_behind(view))
    }

    /// How many nodes share a view.
    fn supporters(&self, view: &Topology) -> usize {
        self.views.iter().filter(|other| other.agrees_with(view)).count()
    }

    fn is_behind(&self, view: &Topology) -> bool {
        view.epoch != 0 && view.epoch < self.known_epoch
    }

    fn next_timeout(&self) -> Option<Instant> {
        let deadlines = self.asked.iter().map(|asked| asked.deadline);
        let slow = self.asked.iter().filter_map(|asked| asked.slow_at);
        let slow = slow.filter(|_| !self.candidates.is_empty());
        deadlines.chain(slow).chain(self.decide_by).min()
    }

    fn forget(&mut self, connection: ConnectionId) -> bool {
        let before = self.asked.len();
        self.asked.retain(|asked| asked.connection != connection);
        self.asked.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::super::topology::{Member, SlotRange};
    use super::*;
    use crate::arena::Arena;
    use crate::ids::Connection;

    /// Who owns all slots in the view of a node that knows of this epoch.
    type View = (&'static str, u64);

    /// What is believed when `views` come, a millisecond one after the other, of nodes that are all
    /// asked at the same time, while `silent` more do not answer: who owns the slots, whether that
    /// is disputed, after how many milliseconds, and how many nodes were asked.
    fn believe(views: &[View], silent: usize, known_epoch: u64) -> (String, bool, u64, usize) {
        let address = |text: &str| Address::parse(text).unwrap();
        let at = |millis| Instant::default() + Duration::from_millis(millis);
        let mut refresh = Refresh::new(true);
        let candidates = (1..=9).map(|port| address(&format!("node:{port}"))).collect();
        refresh.start(candidates, views.len() + silent, known_epoch, at(0));
        let round = refresh.round_mut().unwrap();
        let mut connections = Arena::<Connection, ()>::new();
        let mut asked = Vec::new();
        let mut ask = |round: &mut Round, asked: &mut Vec<ConnectionId>, now| {
            round.note_slow(now);
            while round.next_candidate().is_some() {
                asked.push(connections.insert(()));
                round.note_asked(*asked.last().unwrap(), at(1000), now);
            }
        };
        for now in 0..1000 {
            ask(round, &mut asked, at(now));
            if let Some(Outcome::Topology { topology, disputed, .. }) = round.outcome(at(now)) {
                let owner = topology.ranges[0].primary.address.to_string();
                return (owner, disputed, now, asked.len());
            }
            assert!(round.next_timeout() > Some(at(now)), "a timer is due for ever");
            let Some((owner, epoch)) = views.get(now as usize) else { continue };
            let primary = Member { address: address(owner), id: None };
            let range = SlotRange { slots: 0..=16383, primary, replicas: Vec::new() };
            let view = Topology::new(vec![range], *epoch);
            assert!(round.note_view(asked[now as usize], view, at(now + 1)));
        }
        panic!("nobody is believed")
    }

    #[test]
    fn what_most_nodes_tell_is_believed() {
        let told = |owner: &str, disputed, after, asked| (owner.to_owned(), disputed, after, asked);
        assert_eq!(believe(&[("a:1", 1); 3], 0, 0), told("a:1", false, 3, 3));
        let views = [("a:1", 1), ("b:1", 9), ("a:1", 1)];
        assert_eq!(believe(&views, 0, 0), told("a:1", true, 6, 4));
        assert_eq!(believe(&[("a:1", 1), ("b:1", 2)], 0, 0), told("b:1", true, 201, 3));
        assert_eq!(believe(&[("a:1", 0)], 2, 0), told("a:1", false, 201, 5));
    }

    #[test]
    fn two_nodes_that_agree_are_believed_when_the_others_have_had_as_long_as_they() {
        let (owner, disputed, after, _) = believe(&[("a:1", 1), ("a:1", 1)], 1, 0);
        assert_eq!((&owner[..], disputed, after), ("a:1", false, 4));
        let (owner, disputed, after, _) = believe(&[("a:1", 1), ("a:1", 1), ("b:1", 2)], 0, 0);
        assert_eq!((&owner[..], disputed, after), ("a:1", true, 3), "the third has come in time");
    }

    #[test]
    fn nodes_that_have_not_heard_of_what_is_known_outvote_nobody() {
        let views = [("old:1", 1), ("old:1", 1), ("new:1", 2)];
        let (owner, disputed, ..) = believe(&views, 0, 2);
        assert_eq!((&owner[..], disputed), ("new:1", true));
        let (owner, ..) = believe(&views, 0, 1);
        assert_eq!(owner, "old:1", "an epoch alone says little");
        let (owner, ..) = believe(&views[..2], 1, 2);
        assert_eq!(owner, "old:1", "there is no other view");
    }

    #[test]
    fn where_nodes_differ_one_more_is_asked_at_once() {
        let (_, disputed, after, asked) = believe(&[("a:1", 1), ("b:1", 2), ("b:1", 2)], 1, 0);
        assert_eq!((disputed, asked), (true, 5));
        assert_eq!(after, 6, "it is soon known who is right");
    }
}
