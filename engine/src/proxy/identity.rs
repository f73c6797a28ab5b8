//! AUTH, HELLO and SELECT where nodes say who a client may be: see [`crate::identity`].
//!
//! The client's command goes to a node over a connection of the identity that the client will have if
//! the node agrees. Where there is none yet, it is opened, and logs in before anything else: if the
//! node refuses that, its error is the answer to all that waits for the connection. Whatever it says,
//! it says in its own words.

use std::time::Duration;

use super::command::Command;
use super::local::HELLO_NOAUTH;
use super::upstream::Fate;
use super::{PING, Proxy};
use crate::command::CommandSpec;
use crate::config::{ReadPolicy, Secret};
use crate::identity::{Claim, Greeting, IDLE, IdentityId, Login};
use crate::request::{Owner, Part, RequestId, State, SubRequestId, Way};
use crate::resp::{Reply, RequestFrame, encode, parse_decimal};
use crate::session::SessionId;
use crate::time::Instant;
use crate::transaction::{EXEC, MULTI};
use crate::upstream::{ConnectionId, Expect, Pipeline};

const TOO_MANY: &[u8] = b"ERR this proxy has connections of as many users as it may already";

const MIRRORED: &str = "ERR SELECT is not possible through this proxy: one of its routes has mirrors, \
                        and they would mix what is in different databases";

impl Proxy {
    /// `AUTH [user] password`
    pub(super) fn claim_user(
        &mut self,
        id: SessionId,
        spec: &'static CommandSpec,
        frame: &RequestFrame<'_>,
        now: Instant,
    ) -> Result<(), String> {
        let (name, password) = match (frame.arg(1), frame.arg(2), frame.len()) {
            (Some(password), None, _) => (None, password),
            (Some(name), Some(password), 3) => (Some(name), password),
            _ => return Err("ERR syntax error".to_owned()),
        };
        let login = Login::User { name: name.map(Secret::new), password: Secret::new(password) };
        let (_, database) = self.login_of(id);
        let user = Some(name.unwrap_or_default().to_vec());
        let claim = |identity| Claim { identity, user, hello: None };
        self.claim(id, login, database, claim, spec, frame.bytes(), now);
        Ok(())
    }

    /// A HELLO that names a user, or comes from a client that has not said who it is.
    pub(super) fn claim_hello(
        &mut self,
        id: SessionId,
        user: Option<(&[u8], &[u8])>,
        hello: Greeting,
        spec: &'static CommandSpec,
        now: Instant,
    ) {
        let (mut login, database) = self.login_of(id);
        let mut command = self.buffers.take();
        match user {
            Some((name, password)) => {
                login =
                    Login::User { name: Some(Secret::new(name)), password: Secret::new(password) };
                encode::command(&mut command, &[b"AUTH", name, password]);
            }
            // Whether it may go on as what it is.
            None => command.extend_from_slice(PING),
        }
        let user = user.map(|(name, _)| name.to_vec());
        let claim = |identity| Claim { identity, user, hello: Some(hello) };
        self.claim(id, login, database, claim, spec, &command, now);
        self.buffers.recycle(command);
    }

    /// `SELECT index`
    pub(super) fn select(
        &mut self,
        id: SessionId,
        spec: &'static CommandSpec,
        frame: &RequestFrame<'_>,
        now: Instant,
    ) -> Result<(), String> {
        let wanted = database(frame).ok_or("ERR value is not an integer or out of range")?;
        let (login, current) = self.login_of(id);
        if wanted == current || (wanted == 0 && login == Login::Configured) {
            if wanted != current {
                self.change_identity(id, None);
            }
            self.answer(id, |out| encode::simple(out, b"OK"));
            return Ok(());
        }
        if self.routes.has_mirrors() {
            return Err(MIRRORED.to_owned());
        }
        let claim = |identity| Claim { identity, user: None, hello: None };
        self.claim(id, login, wanted, claim, spec, frame.bytes(), now);
        Ok(())
    }

    /// Whether a SELECT that is queued would change the client's database.
    pub(super) fn changes_database(&self, id: SessionId, frame: &RequestFrame<'_>) -> bool {
        database(frame).is_some_and(|wanted| wanted != self.login_of(id).1)
    }

    /// A node has said who a client may be, or never will.
    pub(super) fn conclude_claim(&mut self, id: RequestId, claim: Claim, reply: &[u8]) {
        let session = self.requests.get(id).and_then(|request| request.session());
        let Some(session_id) = session else { return };
        let Claim { identity, user, hello } = claim;
        let error = Reply::new(reply).error_line();
        // Whoever may not do what was asked has been let in.
        let is_let_in = hello.is_some() && error.is_some_and(|text| text.starts_with(b"NOPERM"));
        let mut out = self.buffers.take();
        match error.filter(|_| !is_let_in) {
            Some(text) if hello.is_some() && text.starts_with(b"NOAUTH") => {
                encode::error(&mut out, HELLO_NOAUTH.as_bytes());
            }
            Some(_) => out.extend_from_slice(reply),
            None => {
                self.change_identity(session_id, identity);
                if let (Some(user), Some(session)) = (user, self.sessions.get_mut(session_id)) {
                    session.user = user;
                }
                match hello {
                    Some(hello) => {
                        let protocol = hello.protocol;
                        self.greet(session_id, hello);
                        self.write_hello(session_id, protocol, &mut out);
                    }
                    None => encode::simple(&mut out, b"OK"),
                }
            }
        }
        self.deliver(id, &out);
        self.buffers.recycle(out);
    }

    /// From now on nodes execute what a client says as somebody else, or elsewhere. Nothing may travel
    /// over the connections that it had to itself.
    pub(super) fn change_identity(&mut self, id: SessionId, identity: Option<IdentityId>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.identity != identity {
            session.identity = identity;
            self.abandon_dedicated(id);
            self.restart_tracking(id);
        }
    }

    /// As whom connections of an identity log in, and their database.
    pub(super) fn login(&self, identity: Option<IdentityId>) -> (Login, i64) {
        let Some(id) = identity else { return (Login::Configured, 0) };
        match self.identities.get(id) {
            Some(identity) => (identity.login.clone(), identity.database),
            // Of one that has gone nothing is known but that it was not the usual one.
            None => (Login::Nobody, 0),
        }
    }

    /// The same for a client.
    pub(super) fn login_of(&self, id: SessionId) -> (Login, i64) {
        self.login(self.sessions.get(id).and_then(|session| session.identity))
    }

    /// A node refuses what all that waits for a connection depends on: its error is the answer. That is
    /// no fault of the node's.
    pub(super) fn refuse_all(&mut self, id: ConnectionId, reply: &[u8]) -> Fate {
        self.forget_shared(id);
        let Some(connection) = self.connections.get_mut(id) else { return Fate::Closed };
        let mut refused = Vec::new();
        while let Some(popped) = connection.pipeline.pop() {
            if let Expect::Request(sub_request) = popped.expect {
                refused.push(sub_request);
            }
        }
        let user = connection.user;
        if let Some(session) = user.and_then(|user| self.sessions.get_mut(user)) {
            session.dedicated.retain(|own| *own != id);
        }
        self.close_quietly(id);
        for sub_request in refused {
            self.hand_in(sub_request, reply);
        }
        Fate::Closed
    }

    /// Closes the connections of identities that no client has had for a while.
    pub(super) fn end_unused_identities(&mut self, now: Instant) {
        if !self.identities.is_empty() {
            self.end_identities(IDLE, now);
        }
    }

    /// Asks a node whether a client may be what it wants to be.
    #[expect(clippy::too_many_arguments, reason = "each is another thing")]
    fn claim(
        &mut self,
        id: SessionId,
        login: Login,
        database: i64,
        claim: impl FnOnce(Option<IdentityId>) -> Claim,
        spec: &'static CommandSpec,
        command: &[u8],
        now: Instant,
    ) {
        let identity = match self.identities.find(&login, database) {
            Some(known) => known,
            None => {
                if self.identities.is_full() {
                    self.end_identities(Duration::ZERO, now);
                }
                if self.identities.is_full() {
                    return self.answer(id, |out| encode::error(out, TOO_MANY));
                }
                self.identities.insert(login, database)
            }
        };
        let claim = claim(Some(identity));
        let part = Part::new(self.default_cluster, None, ReadPolicy::Master);
        let unit = Command::unit(spec, command, Way::Shared);
        let Some(request) = self.begin(Owner::Session(id), &unit, State::Whole(part), now) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(id) {
            session.alone = true;
        }
        if let Some(request) = self.requests.get_mut(request) {
            request.identity = Some(identity);
            if let Some(hello) = &claim.hello {
                request.protocol = hello.protocol;
            }
            let extra = request.extra_mut();
            (extra.claim, extra.caching) = (Some(claim), None);
            // It may be said twice.
            request.read_only = true;
            request.tracked = false;
        }
        self.send(SubRequestId { request, part: 0 }, command, now);
    }

    fn end_identities(&mut self, patience: Duration, now: Instant) {
        let mut used: Vec<_> = self.stranger.into_iter().collect();
        for (_, session) in self.sessions.iter() {
            used.extend(session.identity);
            // A claim is alone.
            let claim = session.pending.front().and_then(|first| self.requests.get(*first));
            used.extend(claim.and_then(|request| request.identity));
        }
        let ended = self.identities.take_unused(&used, patience, now);
        let is_of = |identity: Option<IdentityId>| identity.is_some_and(|id| ended.contains(&id));
        let left = self.connections.iter().filter(|(_, c)| is_of(c.purpose.manner().identity));
        for id in left.map(|(id, _)| id).collect::<Vec<_>>() {
            self.forget_shared(id);
            self.spare.retain(|spare| *spare != id);
            self.close_quietly(id);
        }
    }
}

/// Lets nothing follow on a connection before a transaction without commands has succeeded: a user who
/// lacks the permission for MULTI would have the commands executed one by one, one who lacks that for EXEC
/// could not end the transaction.
pub(super) fn ask_permit(pipeline: &mut Pipeline) {
    pipeline.push(Expect::Permit, MULTI);
    pipeline.push(Expect::Permit, EXEC);
    pipeline.close_gate();
}

/// The number of a database.
fn database(frame: &RequestFrame<'_>) -> Option<i64> {
    parse_decimal(frame.arg(1)?)
}
