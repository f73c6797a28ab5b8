//! AUTH, HELLO and SELECT where nodes say who a client may be.
//!
//! The client's command goes to a node over a connection of the identity that the client will have
//! if the node agrees. Where there is none yet, it is opened, and logs in before anything else: if
//! the node refuses that, its error is the answer to all that waits for the connection. Whatever it
//! says, it says in its own words.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::command::database_of;
use crate::config::Secret;
use crate::downstream::Caller;
use crate::errors::{self, ErrorText};
use crate::exchange::{Command, Exchange};
use crate::flight::{Completion, Part, State};
use crate::ids::{IdentityId, PartId, RequestId};
use crate::resp::{Protocol, encode};
use crate::target::Target;
use crate::upstream::{IDLE, Login, PING};

/// Who clients are and want to be.
#[derive(Debug)]
pub(crate) struct Identities {
    /// What a client is before it has said who it is; `None`: what the configuration says.
    initial: Option<IdentityId>,
    claims: BTreeMap<RequestId, Claim>,
}

/// What a client will be, if a node lets it.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) identity: Option<IdentityId>,
    /// What it calls itself; empty: the default user. `None`: as before.
    pub(crate) user: Option<Vec<u8>>,
    /// What else it asks for by HELLO.
    pub(crate) hello: Option<Greeting>,
}

/// What a HELLO asks for.
#[derive(Debug)]
pub(crate) struct Greeting {
    pub(crate) protocol: Protocol,
    pub(crate) name: Option<Vec<u8>>,
}

/// What a client wants to be.
struct Wanted {
    login: Login,
    database: i64,
    user: Option<Vec<u8>>,
    hello: Option<Greeting>,
}

impl Identities {
    pub(crate) fn new(x: &mut Exchange) -> Self {
        let initial = match x.config.auth_passthrough {
            true => Some(x.upstream.add_initial_identity()),
            false => None,
        };
        Self { initial, claims: BTreeMap::new() }
    }

    /// What a client is before it has said who it is.
    pub(crate) fn initial(&self) -> Option<IdentityId> {
        self.initial
    }

    /// Whether a client has not said who it is, though it has to.
    pub(crate) fn is_unknown(&self, caller: &Caller) -> bool {
        self.initial.is_some() && caller.identity == self.initial
    }

    /// `AUTH [user] password`
    pub(crate) fn claim_user(
        &mut self,
        x: &mut Exchange,
        caller: &Caller,
        command: &Command<'_>,
    ) -> Result<(), ErrorText> {
        let frame = &command.frame;
        let (name, password) = match (frame.arg(1), frame.arg(2), frame.len()) {
            (Some(password), None, _) => (None, password),
            (Some(name), Some(password), 3) => (Some(name), password),
            _ => return Err(errors::SYNTAX.into()),
        };
        let login = Login::User { name: name.map(Secret::new), password: Secret::new(password) };
        let (_, database) = x.login_of(caller.id);
        let user = Some(name.unwrap_or_default().to_vec());
        let wanted = Wanted { login, database, user, hello: None };
        self.claim(x, caller, wanted, command, frame.bytes());
        Ok(())
    }

    /// A HELLO that names a user, or comes from a client that has not said who it is.
    pub(crate) fn claim_hello(
        &mut self,
        x: &mut Exchange,
        caller: &Caller,
        user: Option<(&[u8], &[u8])>,
        hello: Greeting,
        command: &Command<'_>,
    ) {
        let (mut login, database) = x.login_of(caller.id);
        let mut bytes = x.buffers.take();
        match user {
            Some((name, password)) => {
                login =
                    Login::User { name: Some(Secret::new(name)), password: Secret::new(password) };
                encode::command(&mut bytes, &[b"AUTH", name, password]);
            }
            // Whether it may go on as what it is.
            None => bytes.extend_from_slice(PING),
        }
        let user = user.map(|(name, _)| name.to_vec());
        let wanted = Wanted { login, database, user, hello: Some(hello) };
        self.claim(x, caller, wanted, command, &bytes);
        x.buffers.recycle(bytes);
    }

    /// `SELECT index`. Returns whether the client is in the configured database from now on.
    pub(crate) fn select(
        &mut self,
        x: &mut Exchange,
        caller: &Caller,
        command: &Command<'_>,
    ) -> Result<Selected, ErrorText> {
        let wanted = database_of(&command.frame).ok_or(errors::NOT_AN_INTEGER)?;
        let (login, current) = x.login_of(caller.id);
        if wanted == current {
            return Ok(Selected::Current);
        }
        if wanted == 0 && login == Login::Configured {
            return Ok(Selected::Configured);
        }
        if x.routes.has_mirrors() {
            return Err(errors::SELECT_MIRRORED.into());
        }
        let wanted = Wanted { login, database: wanted, user: None, hello: None };
        self.claim(x, caller, wanted, command, command.frame.bytes());
        Ok(Selected::Asked)
    }

    /// A node has said who a client may be, or never will: takes out what the client wants to be.
    pub(crate) fn take_claim(&mut self, request: RequestId) -> Option<Claim> {
        self.claims.remove(&request)
    }

    /// Closes the connections of identities that no client has had for a while.
    pub(crate) fn end_unused(&mut self, x: &mut Exchange) {
        self.end(x, IDLE);
    }

    /// Asks a node whether a client may be what it wants to be.
    fn claim(
        &mut self,
        x: &mut Exchange,
        caller: &Caller,
        wanted: Wanted,
        command: &Command<'_>,
        bytes: &[u8],
    ) {
        let Wanted { login, database, user, hello } = wanted;
        let known = x.upstream.find_identity(&login, database);
        if known.is_none() && x.upstream.has_all_identities() {
            self.end(x, Duration::ZERO);
        }
        let Some(identity) = known.or_else(|| x.upstream.add_identity(login, database)) else {
            return x.answer_error(caller.id, errors::IDENTITY_OVERFLOW);
        };
        let protocol = hello.as_ref().map_or(caller.protocol, |hello| hello.protocol);
        let claimed = Caller { identity: Some(identity), protocol, caching: None, ..*caller };
        let part = Part::new(x.default_cluster(), Target::Home(None));
        let unit = Command::of_bytes(command.spec, bytes);
        let Some(id) = x.begin(&claimed, &unit, State::Whole(part), Completion::Claim) else {
            return;
        };
        self.claims.insert(id, Claim { identity: Some(identity), user, hello });
        x.send(PartId::whole(id), bytes);
    }

    fn end(&mut self, x: &mut Exchange, patience: Duration) {
        // A client that has gone claims nothing.
        self.claims.retain(|request, _| x.flight.get(*request).is_some());
        let mut used: Vec<_> = self.initial.into_iter().collect();
        used.extend(x.downstream.identities());
        used.extend(self.claims.values().filter_map(|claim| claim.identity));
        let now = x.now();
        x.upstream.end_identities(&used, patience, now);
    }
}

/// What has become of a SELECT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Selected {
    /// The client is in that database already.
    Current,
    /// It is the configured one.
    Configured,
    /// A node has been asked.
    Asked,
}
