//! As whom, and in which database, nodes execute what clients say.
//!
//! Clients of one identity share connections, and nobody else uses these: a connection logs in, and
//! selects its database, before its first command, and never again. Identities are named by keys
//! that are never used twice, so what is left of one that has gone cannot be taken for another's.
//!
//! Who a client may be, a node says: see `features::identities`.

use std::time::Duration;

use crate::arena::Arena;
use crate::config::Secret;
use crate::ids::{self, IdentityId};
use crate::time::Instant;

/// For how long connections are kept that no client has wanted.
pub(crate) const IDLE: Duration = Duration::from_secs(30);

/// As whom and where commands are executed.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) login: Login,
    pub(crate) database: i64,
    /// Since when no client has had it.
    unused_since: Option<Instant>,
}

/// As whom a connection logs in.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Login {
    /// As the configuration says of the cluster.
    #[default]
    Configured,
    /// Not at all: for what a node's default user may do without a password.
    Nobody,
    /// As a client has said of itself.
    User {
        /// `None`: it gave a password alone.
        name: Option<Secret>,
        /// Not yet known to be right before a node has said so.
        password: Secret,
    },
}

/// All identities but the usual one, which is that of the configuration in database 0.
#[derive(Debug)]
pub(crate) struct Identities {
    arena: Arena<ids::Identity, Identity>,
    /// How many there may be: each has connections of its own.
    most: usize,
}

impl Identities {
    pub(crate) fn new(most: usize) -> Self {
        Self { arena: Arena::new(), most }
    }

    pub(crate) fn get(&self, id: IdentityId) -> Option<&Identity> {
        self.arena.get(id)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.arena.len() >= self.most
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.arena.len() == 0
    }

    /// The identity of this login in this database, if there is one already.
    pub(crate) fn find(&self, login: &Login, database: i64) -> Option<IdentityId> {
        let fits = |identity: &Identity| identity.database == database && identity.login == *login;
        self.arena.iter().find(|(_, identity)| fits(identity)).map(|(id, _)| id)
    }

    pub(crate) fn insert(&mut self, login: Login, database: i64) -> IdentityId {
        self.arena.insert(Identity { login, database, unused_since: None })
    }

    /// Takes out those that no client has had for `patience`, given those that clients have.
    pub(crate) fn take_unused(
        &mut self,
        used: &[IdentityId],
        patience: Duration,
        now: Instant,
    ) -> Vec<IdentityId> {
        let all: Vec<_> = self.arena.iter().map(|(id, _)| id).collect();
        let is_old = |id: &IdentityId| {
            let Some(identity) = self.arena.get_mut(*id) else { return false };
            if used.contains(id) {
                identity.unused_since = None;
                return false;
            }
            let since = *identity.unused_since.get_or_insert(now);
            now.saturating_duration_since(since) >= patience
        };
        let old: Vec<_> = all.into_iter().filter(is_old).collect();
        for id in &old {
            self.arena.remove(*id);
        }
        old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> Login {
        let secret = |text: &str| Secret::new(text.as_bytes());
        Login::User { name: Some(secret(name)), password: secret(password) }
    }

    #[test]
    fn an_identity_is_found_by_user_password_and_database_alike() {
        let mut identities = Identities::new(2);
        let alice = identities.insert(user("alice", "a"), 0);
        assert_eq!(identities.find(&user("alice", "a"), 0), Some(alice));
        for (login, database) in
            [(user("alice", "b"), 0), (user("bob", "a"), 0), (user("alice", "a"), 1)]
        {
            assert_eq!(identities.find(&login, database), None);
        }
        assert_eq!(identities.find(&Login::Nobody, 0), None);
    }

    #[test]
    fn what_nobody_has_had_for_a_while_goes_and_its_name_is_not_used_again() {
        let mut identities = Identities::new(2);
        let start = Instant::default();
        let (alice, bob) =
            (identities.insert(user("alice", "a"), 0), identities.insert(user("bob", "b"), 0));
        assert!(identities.take_unused(&[bob], IDLE, start).is_empty());
        assert!(identities.take_unused(&[alice, bob], IDLE, start + IDLE).is_empty());
        assert!(identities.take_unused(&[bob], IDLE, start + IDLE).is_empty(), "it was back");
        assert_eq!(identities.take_unused(&[bob], IDLE, start + IDLE * 2), [alice]);
        let carol = identities.insert(user("carol", "c"), 0);
        assert_ne!(carol, alice);
        assert!(identities.get(alice).is_none());
    }
}
