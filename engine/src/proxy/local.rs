//! Commands that the proxy answers itself, as a standalone redis-server 7.0 would.

use super::Proxy;
use super::clients::switch;
use crate::auth::{check_password, check_user};
use crate::command::{self, Local, Lookup, Support};
use crate::config::User;
use crate::downstream::Caller;
use crate::errors::{self, ErrorText};
use crate::exchange::Command;
use crate::features::identities::{Greeting, Selected};
use crate::ids::SessionId;
use crate::resp::{Protocol, RequestFrame, RequestParser, encode, parse_decimal};

/// What a HELLO asks for, once it has been found in order.
#[derive(Debug, Default)]
struct Hello<'a> {
    protocol: Option<Protocol>,
    /// With the password.
    user: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

impl Proxy {
    pub(super) fn answer_locally(&mut self, caller: &Caller, command: &Command<'_>, local: Local) {
        let (id, frame) = (caller.id, &command.frame);
        let first = frame.arg(1).unwrap_or_default();
        let second = frame.arg(2).unwrap_or_default();
        let result: Result<Answer, ErrorText> = match local {
            Local::Auth if self.x.config.auth_passthrough => {
                let claimed = self.identities.claim_user(&mut self.x, caller, command);
                claimed.map(|()| Answer::Given)
            }
            Local::Auth => {
                authenticate(&self.x.config.users, frame).map_err(Into::into).map(|()| {
                    let user = if frame.len() == 3 { first } else { b"" };
                    self.x.downstream.authenticate(id, Some(user));
                    Answer::Ok
                })
            }
            Local::AclWhoami => {
                let user = self.x.downstream.profile(id).map(|profile| profile.user().to_vec());
                self.x.answer(id, |out| encode::bulk(out, &user.unwrap_or_default()));
                Ok(Answer::Given)
            }
            Local::ClientCapa => Ok(Answer::Ok),
            Local::ClientGetname => {
                let name = self.x.downstream.profile(id).map(|profile| profile.name.clone());
                let name = name.unwrap_or_default();
                self.x.answer(id, |out| match name.is_empty() {
                    true => encode::null(out, caller.protocol),
                    false => encode::bulk(out, &name),
                });
                Ok(Answer::Given)
            }
            Local::ClientCaching => self.tracking.caching(id, second).map(|()| Answer::Ok),
            Local::ClientGetredir => {
                let redirect = self.tracking.redirect_id(id);
                self.x.answer(id, |out| encode::integer(out, redirect));
                Ok(Answer::Given)
            }
            Local::ClientId => {
                let client_id = self.client_id(id);
                self.x.answer(id, |out| encode::integer(out, client_id));
                Ok(Answer::Given)
            }
            Local::ClientInfo => {
                self.client_info(caller);
                Ok(Answer::Given)
            }
            Local::ClientKill => self.client_kill(caller, frame).map(|()| Answer::Given),
            Local::ClientList => self.client_list(caller, frame).map(|()| Answer::Given),
            Local::ClientReply => self.client_reply(caller, frame).map(|()| Answer::Given),
            Local::ClientNoEvict => switch(frame).map(|on| {
                if let Some(profile) = self.x.downstream.profile_mut(id) {
                    profile.no_evict = on;
                }
                Answer::Ok
            }),
            Local::ClientNoTouch => switch(frame).map(|_| Answer::Ok),
            Local::ClientTrackinginfo => {
                let tracking = &self.tracking;
                self.x.answer(id, |out| tracking.write_info(id, caller.protocol, out));
                Ok(Answer::Given)
            }
            Local::Cluster => self.answer_cluster(caller, command).map(|()| Answer::Given),
            Local::ClusterMode => self.check_cluster_mode().map(|()| Answer::Ok),
            Local::ClientSetinfo => check_info(frame).map(|()| Answer::Ok),
            Local::ClientSetname => check_name(second).map(|()| {
                if let Some(profile) = self.x.downstream.profile_mut(id) {
                    profile.name = second.to_vec();
                }
                Answer::Ok
            }),
            Local::Echo => {
                self.x.answer(id, |out| encode::bulk(out, first));
                Ok(Answer::Given)
            }
            Local::Hello => {
                return self.answer_hello(caller, command);
            }
            Local::Ping => match frame.len() {
                1 => {
                    self.x.answer(id, |out| encode::simple(out, b"PONG"));
                    Ok(Answer::Given)
                }
                2 => {
                    self.x.answer(id, |out| encode::bulk(out, first));
                    Ok(Answer::Given)
                }
                _ => Err(errors::PING_ARITY.into()),
            },
            Local::Quit => {
                self.x.answer(id, |out| encode::simple(out, b"OK"));
                self.x.close_after_replies(id);
                Ok(Answer::Given)
            }
            Local::Reset => {
                self.reset(id);
                Ok(Answer::Given)
            }
            Local::Role => {
                self.x.answer(id, |out| {
                    // A primary that has written nothing for a replica, and has none.
                    encode::array_header(out, 3);
                    encode::bulk(out, b"master");
                    encode::integer(out, 0);
                    encode::array_header(out, 0);
                });
                Ok(Answer::Given)
            }
            Local::Select => {
                let selected = self.identities.select(&mut self.x, caller, command);
                selected.map(|selected| match selected {
                    Selected::Current => Answer::Ok,
                    Selected::Configured => {
                        self.change_identity(id, None);
                        Answer::Ok
                    }
                    Selected::Asked => Answer::Given,
                })
            }
        };
        match result {
            Ok(Answer::Given) => {}
            Ok(Answer::Ok) => self.x.answer(id, |out| encode::simple(out, b"OK")),
            Err(text) => self.x.answer(id, |out| encode::error(out, text.as_bytes())),
        }
    }

    /// The proxy's own reply to a command of a transaction.
    pub(super) fn capture(&mut self, caller: &Caller, bytes: &[u8]) -> Vec<u8> {
        let mut parser = RequestParser::new();
        self.x.start_capture();
        if let Some((Lookup::Known(spec), frame, len)) = command::read_again(&mut parser, bytes)
            && let Support::Local(local) = spec.support_for(&frame)
        {
            self.answer_locally(caller, &Command::new(spec, frame, len), local);
        }
        self.x.take_captured()
    }

    /// `RESET`: a client as it came, under its id.
    fn reset(&mut self, id: SessionId) {
        self.x.downstream.reset(id, self.x.config.users.is_empty());
        self.transactions.discard(&mut self.x, id);
        self.tracking.stop(&mut self.x, id);
        self.change_identity(id, self.identities.initial());
        self.pubsub.drop_client(&mut self.x, id);
        self.x.answer(id, |out| encode::simple(out, b"RESET"));
    }

    /// HELLO reports the version of the server, which is that of the nodes: it waits until one
    /// has told.
    fn answer_hello(&mut self, caller: &Caller, command: &Command<'_>) {
        let config = &self.x.config;
        let users = (!config.auth_passthrough).then_some(&config.users[..]);
        let hello = match Hello::parse(users, caller.authenticated, &command.frame) {
            Ok(hello) => hello,
            Err(text) => {
                return self.x.answer(caller.id, |out| encode::error(out, text.as_bytes()));
            }
        };
        let has_users = users.is_some();
        let protocol = hello.protocol.unwrap_or(caller.protocol);
        let greeting = Greeting { protocol, name: hello.name.map(<[u8]>::to_vec) };
        if !has_users && (hello.user.is_some() || self.identities.is_unknown(caller)) {
            let Self { x, identities, .. } = self;
            return identities.claim_hello(x, caller, hello.user, greeting, command);
        }
        self.x.downstream.authenticate(caller.id, hello.user.map(|(user, _)| user));
        self.greet(caller.id, greeting);
        let cluster = self.x.default_cluster();
        if self.x.upstream.is_known(cluster) {
            let mut reply = Vec::new();
            self.write_hello(caller.id, protocol, &mut reply);
            return self.x.answer(caller.id, |out| out.extend_from_slice(&reply));
        }
        let caller = Caller { protocol, ..*caller };
        self.hellos.extend(self.x.begin_own(&caller, command.len, cluster));
    }

    /// Answers the HELLO commands that have waited for the version of Redis.
    pub(super) fn finish_hellos(&mut self) {
        if self.hellos.is_empty() || !self.x.upstream.is_known(self.x.default_cluster()) {
            return;
        }
        for id in std::mem::take(&mut self.hellos) {
            let Some(request) = self.x.flight.waiting(id) else { continue };
            let (client, protocol) = (request.client(), request.protocol);
            let mut reply = Vec::new();
            if let Some(client) = client {
                self.write_hello(client, protocol, &mut reply);
            }
            self.x.deliver(id, &reply);
        }
    }

    /// Does what a HELLO asks for beside its reply.
    pub(super) fn greet(&mut self, id: SessionId, Greeting { protocol, name }: Greeting) {
        let before = self.x.downstream.set_protocol(id, protocol);
        if let (Some(name), Some(profile)) = (name, self.x.downstream.profile_mut(id)) {
            profile.name = name;
        }
        if before.is_some_and(|before| before != protocol) {
            self.tracking.restart(&mut self.x, id);
        }
    }

    pub(super) fn write_hello(&self, id: SessionId, protocol: Protocol, out: &mut Vec<u8>) {
        /// Reported for servers that do not know HELLO and so do not tell their version.
        const BEFORE_HELLO: &[u8] = b"5.0.0";
        let version = match self.x.upstream.server_version(self.x.default_cluster()) {
            b"" => BEFORE_HELLO,
            version => version,
        };
        encode::map_header(out, protocol, 7);
        encode::bulk(out, b"server");
        encode::bulk(out, b"redis");
        encode::bulk(out, b"version");
        encode::bulk(out, version);
        encode::bulk(out, b"proto");
        encode::integer(out, if protocol == Protocol::Resp3 { 3 } else { 2 });
        encode::bulk(out, b"id");
        encode::integer(out, self.client_id(id));
        encode::bulk(out, b"mode");
        let mode = if self.x.config.cluster_emulation { "cluster" } else { "standalone" };
        encode::bulk(out, mode.as_bytes());
        encode::bulk(out, b"role");
        encode::bulk(out, b"master");
        encode::bulk(out, b"modules");
        encode::array_header(out, 0);
    }

    fn client_id(&self, id: SessionId) -> i64 {
        let client_id = self.x.downstream.profile(id).map_or(0, |profile| profile.client_id);
        i64::try_from(client_id).unwrap_or(i64::MAX)
    }
}

/// What is still to be answered.
enum Answer {
    /// OK.
    Ok,
    /// Nothing: it has been answered, or will be.
    Given,
}

impl<'a> Hello<'a> {
    /// Reads `HELLO [version [AUTH user password] [SETNAME name]]`; errors are redis-server's. It
    /// succeeds only for a client that is, or is by this command, authenticated; where nodes know
    /// the `users`, they are to say so.
    fn parse(
        users: Option<&[User]>,
        mut authenticated: bool,
        frame: &RequestFrame<'a>,
    ) -> Result<Self, ErrorText> {
        let mut hello = Self::default();
        let mut args = frame.args().skip(1);
        let Some(version) = args.next() else {
            return if authenticated { Ok(hello) } else { Err(errors::HELLO_NOAUTH.into()) };
        };
        let version = parse_decimal(version).ok_or(errors::NO_PROTOCOL_VERSION)?;
        hello.protocol = Some(match version {
            2 => Protocol::Resp2,
            3 => Protocol::Resp3,
            _ => return Err(errors::NOPROTO.into()),
        });
        while let Some(option) = args.next() {
            let syntax_error = || {
                let option = String::from_utf8_lossy(option);
                ErrorText::from(format!("ERR Syntax error in HELLO option '{option}'"))
            };
            if option.eq_ignore_ascii_case(b"AUTH") {
                let user = args.next().ok_or_else(syntax_error)?;
                let password = args.next().ok_or_else(syntax_error)?;
                if let Some(users) = users {
                    check_user(users, user, password)?;
                }
                authenticated = true;
                hello.user = Some((user, password));
            } else if option.eq_ignore_ascii_case(b"SETNAME") {
                let name = args.next().ok_or_else(syntax_error)?;
                check_name(name)?;
                hello.name = Some(name);
            } else {
                return Err(syntax_error());
            }
        }
        if !authenticated {
            return Err(errors::HELLO_NOAUTH.into());
        }
        Ok(hello)
    }
}

/// Reads `AUTH [user] password`.
fn authenticate(users: &[User], frame: &RequestFrame<'_>) -> Result<(), &'static str> {
    match (frame.arg(1), frame.arg(2), frame.len()) {
        (Some(password), None, _) => check_password(users, password),
        (Some(user), Some(password), 3) => check_user(users, user, password),
        _ => Err(errors::SYNTAX),
    }
}

fn check_name(name: &[u8]) -> Result<(), ErrorText> {
    if name.iter().all(u8::is_ascii_graphic) {
        return Ok(());
    }
    Err(errors::INVALID_CLIENT_NAME.into())
}

/// CLIENT SETINFO as redis-server 7.2 takes it; the attributes concern nobody here.
fn check_info(frame: &RequestFrame<'_>) -> Result<(), ErrorText> {
    let attribute = frame.arg(2).unwrap_or_default();
    let value = frame.arg(3).unwrap_or_default();
    let lower = attribute.to_ascii_lowercase();
    if lower != b"lib-name" && lower != b"lib-ver" {
        let attribute = String::from_utf8_lossy(attribute);
        return Err(format!("ERR Unrecognized option '{attribute}'").into());
    }
    if !value.iter().all(u8::is_ascii_graphic) {
        let attribute = String::from_utf8_lossy(&lower).into_owned();
        return Err(format!(
            "ERR {attribute} cannot contain spaces, newlines or special characters."
        )
        .into());
    }
    Ok(())
}
