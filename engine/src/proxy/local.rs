//! Commands that the proxy answers itself, as a standalone redis-server 7.0 would.

use super::Proxy;
use super::client::switch;
use crate::auth::{check_password, check_user};
use crate::command::{CommandSpec, Local};
use crate::config::User;
use crate::identity::Greeting;
use crate::request::{Owner, Request, RequestId, State, SubRequestId};
use crate::resp::{Protocol, RequestFrame, encode, parse_decimal};
use crate::session::{Session, SessionId};
use crate::time::Instant;

/// Redis' words for a HELLO that should have had AUTH.
pub(super) const HELLO_NOAUTH: &str = "NOAUTH HELLO must be called with the client already authenticated, \
                            otherwise the HELLO <proto> AUTH <user> <pass> option can be used to \
                            authenticate the client and select the RESP protocol version at the \
                            same time";

/// What a HELLO asks for, once it has been found in order.
#[derive(Debug, Default)]
struct Hello<'a> {
    protocol: Option<Protocol>,
    /// With the password.
    user: Option<(&'a [u8], &'a [u8])>,
    name: Option<&'a [u8]>,
}

impl Proxy {
    pub(super) fn answer_locally(
        &mut self,
        id: SessionId,
        local: Local,
        spec: &'static CommandSpec,
        frame: &RequestFrame<'_>,
        len: usize,
        now: Instant,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let protocol = session.protocol;
        let first = frame.arg(1).unwrap_or_default();
        let result: Result<(), String> = match local {
            Local::Auth if self.config.auth_passthrough => self.claim_user(id, spec, frame, now),
            Local::Auth => match authenticate(&self.config.users, frame) {
                Ok(()) => {
                    session.authenticated = true;
                    session.user.clear();
                    if frame.len() == 3 {
                        session.user.extend_from_slice(first);
                    }
                    self.answer_ok(id);
                    Ok(())
                }
                Err(error) => Err(error.to_owned()),
            },
            Local::AclWhoami => {
                let user = session.user().to_vec();
                self.answer(id, |out| encode::bulk(out, &user));
                Ok(())
            }
            Local::ClientCapa => {
                self.answer_ok(id);
                Ok(())
            }
            Local::ClientGetname => {
                let name = session.name.clone();
                self.answer(id, |out| match name.is_empty() {
                    true => encode::null(out, protocol),
                    false => encode::bulk(out, &name),
                });
                Ok(())
            }
            Local::ClientCaching => self.client_caching(id, frame.arg(2).unwrap_or_default()),
            Local::ClientGetredir => {
                let tracking = session.tracking.as_ref();
                let redirect = tracking.map_or(-1, |tracking| tracking.redirect_id());
                self.answer(id, |out| encode::integer(out, redirect));
                Ok(())
            }
            Local::ClientId => {
                let client_id = i64::try_from(session.client_id).unwrap_or(i64::MAX);
                self.answer(id, |out| encode::integer(out, client_id));
                Ok(())
            }
            Local::ClientInfo => {
                self.client_info(id);
                Ok(())
            }
            Local::ClientKill => self.client_kill(id, frame),
            Local::ClientList => self.client_list(id, frame),
            Local::ClientReply => self.client_reply(id, frame),
            Local::ClientNoEvict => switch(frame).map(|on| {
                if let Some(session) = self.sessions.get_mut(id) {
                    session.no_evict = on;
                }
                self.answer_ok(id);
            }),
            Local::ClientNoTouch => switch(frame).map(|_| self.answer_ok(id)),
            Local::ClientTrackinginfo => {
                self.client_trackinginfo(id);
                Ok(())
            }
            Local::Cluster => self.answer_cluster(id, spec, frame, len, now),
            Local::ClusterMode => self.check_cluster_mode().map(|()| self.answer_ok(id)),
            Local::ClientSetinfo => check_info(frame).map(|()| self.answer_ok(id)),
            Local::ClientSetname => {
                session.set_name(frame.arg(2).unwrap_or_default()).map(|()| self.answer_ok(id))
            }
            Local::Echo => {
                self.answer(id, |out| encode::bulk(out, first));
                Ok(())
            }
            Local::Hello => return self.answer_hello(id, spec, frame, len, now),
            Local::Ping => match frame.len() {
                1 => {
                    self.answer(id, |out| encode::simple(out, b"PONG"));
                    Ok(())
                }
                2 => {
                    self.answer(id, |out| encode::bulk(out, first));
                    Ok(())
                }
                _ => Err("ERR wrong number of arguments for 'ping' command".to_owned()),
            },
            Local::Quit => {
                self.answer_ok(id);
                self.close_after_replies(id);
                Ok(())
            }
            Local::Reset => {
                session.reset(self.config.users.is_empty());
                let subscribed = std::mem::take(&mut session.subscribed);
                self.discard(id);
                self.stop_tracking(id);
                self.change_identity(id, self.stranger);
                self.drop_subscriptions(id, subscribed);
                self.answer(id, |out| encode::simple(out, b"RESET"));
                Ok(())
            }
            Local::Role => {
                self.answer(id, |out| {
                    // A primary that has written nothing for a replica, and has none.
                    encode::array_header(out, 3);
                    encode::bulk(out, b"master");
                    encode::integer(out, 0);
                    encode::array_header(out, 0);
                });
                Ok(())
            }
            Local::Select => self.select(id, spec, frame, now),
        };
        if let Err(text) = result {
            self.answer(id, |out| encode::error(out, text.as_bytes()));
        }
    }

    /// Answers a HELLO that had to wait for the version of Redis.
    pub(super) fn finish_hello(&mut self, id: RequestId, now: Instant) {
        let Some(request) = self.requests.get(id) else { return };
        let (State::Hello(cluster), Some(session)) = (&request.state, request.session()) else {
            return;
        };
        let (cluster, protocol) = (*cluster, request.protocol);
        if !self.clusters.get(cluster).is_some_and(|cluster| cluster.is_known()) {
            return self.hold(SubRequestId { request: id, part: 0 }, &[], now);
        }
        let mut reply = self.buffers.take();
        self.write_hello(session, protocol, &mut reply);
        self.deliver(id, &reply);
        self.buffers.recycle(reply);
    }

    /// HELLO reports the version of the server, which is that of the nodes: it waits until one
    /// has told.
    fn answer_hello(
        &mut self,
        id: SessionId,
        spec: &'static CommandSpec,
        frame: &RequestFrame<'_>,
        len: usize,
        now: Instant,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let users = (!self.config.auth_passthrough).then_some(&self.config.users[..]);
        let hello = match Hello::parse(users, session.authenticated, frame) {
            Ok(hello) => hello,
            Err(text) => return self.answer(id, |out| encode::error(out, text.as_bytes())),
        };
        let protocol = hello.protocol.unwrap_or(session.protocol);
        let greeting = Greeting { protocol, name: hello.name.map(<[u8]>::to_vec) };
        let is_stranger = self.stranger.is_some() && session.identity == self.stranger;
        if users.is_none() && (hello.user.is_some() || is_stranger) {
            return self.claim_hello(id, hello.user, greeting, spec, now);
        }
        session.authenticated = true;
        if let Some((user, _)) = hello.user {
            session.user = user.to_vec();
        }
        self.greet(id, greeting);
        let cluster = self.default_cluster;
        if self.clusters.get(cluster).is_some_and(|cluster| cluster.is_known()) {
            let mut reply = self.buffers.take();
            self.write_hello(id, protocol, &mut reply);
            self.answer(id, |out| out.extend_from_slice(&reply));
            self.buffers.recycle(reply);
        } else {
            let owner = Owner::Session(id);
            let mut request = Request::new(owner, protocol, len, State::Hello(cluster));
            request.silent = self.sessions.get(id).is_some_and(|session| session.silent);
            let request = self.requests.insert_waiting(request, now + self.config.op_timeout);
            if let Some(session) = self.sessions.get_mut(id) {
                session.note_pending(request, len);
            }
            self.hold(SubRequestId { request, part: 0 }, &[], now);
        }
    }

    /// Does what a HELLO asks for beside its reply.
    pub(super) fn greet(&mut self, id: SessionId, Greeting { protocol, name }: Greeting) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let before = std::mem::replace(&mut session.protocol, protocol);
        if let Some(name) = name {
            session.name = name;
        }
        if protocol != before {
            self.restart_tracking(id);
        }
    }

    pub(super) fn write_hello(&self, id: SessionId, protocol: Protocol, out: &mut Vec<u8>) {
        /// Reported for servers that do not know HELLO and so do not tell their version.
        const BEFORE_HELLO: &[u8] = b"5.0.0";
        let version = match self.clusters.get(self.default_cluster) {
            Some(cluster) if !cluster.server_version.is_empty() => &cluster.server_version[..],
            _ => BEFORE_HELLO,
        };
        let client_id = self.sessions.get(id).map_or(0, |session| session.client_id);
        encode::map_header(out, protocol, 7);
        encode::bulk(out, b"server");
        encode::bulk(out, b"redis");
        encode::bulk(out, b"version");
        encode::bulk(out, version);
        encode::bulk(out, b"proto");
        encode::integer(out, if protocol == Protocol::Resp3 { 3 } else { 2 });
        encode::bulk(out, b"id");
        encode::integer(out, i64::try_from(client_id).unwrap_or(i64::MAX));
        encode::bulk(out, b"mode");
        encode::bulk(
            out,
            if self.config.cluster_emulation { &b"cluster"[..] } else { b"standalone" },
        );
        encode::bulk(out, b"role");
        encode::bulk(out, b"master");
        encode::bulk(out, b"modules");
        encode::array_header(out, 0);
    }

    fn answer_ok(&mut self, id: SessionId) {
        self.answer(id, |out| encode::simple(out, b"OK"));
    }
}

impl Session {
    fn set_name(&mut self, name: &[u8]) -> Result<(), String> {
        check_name(name)?;
        self.name = name.to_vec();
        Ok(())
    }
}

impl<'a> Hello<'a> {
    /// Reads `HELLO [version [AUTH user password] [SETNAME name]]`; errors are redis-server's. It
    /// succeeds only for a client that is, or is by this command, authenticated; where nodes know the
    /// `users`, they are to say so.
    fn parse(
        users: Option<&[User]>,
        mut authenticated: bool,
        frame: &RequestFrame<'a>,
    ) -> Result<Self, String> {
        let mut hello = Self::default();
        let mut args = frame.args().skip(1);
        let Some(version) = args.next() else {
            return if authenticated { Ok(hello) } else { Err(HELLO_NOAUTH.to_owned()) };
        };
        let version = parse_decimal(version)
            .ok_or("ERR Protocol version is not an integer or out of range")?;
        hello.protocol = Some(match version {
            2 => Protocol::Resp2,
            3 => Protocol::Resp3,
            _ => return Err("NOPROTO unsupported protocol version".to_owned()),
        });
        while let Some(option) = args.next() {
            let syntax_error = || {
                format!("ERR Syntax error in HELLO option '{}'", String::from_utf8_lossy(option))
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
            return Err(HELLO_NOAUTH.to_owned());
        }
        Ok(hello)
    }
}

/// Reads `AUTH [user] password`.
fn authenticate(users: &[User], frame: &RequestFrame<'_>) -> Result<(), &'static str> {
    match (frame.arg(1), frame.arg(2), frame.len()) {
        (Some(password), None, _) => check_password(users, password),
        (Some(user), Some(password), 3) => check_user(users, user, password),
        _ => Err("ERR syntax error"),
    }
}

fn check_name(name: &[u8]) -> Result<(), String> {
    if name.iter().all(u8::is_ascii_graphic) {
        return Ok(());
    }
    Err("ERR Client names cannot contain spaces, newlines or special characters.".to_owned())
}

/// CLIENT SETINFO as redis-server 7.2 takes it; the attributes concern nobody here.
fn check_info(frame: &RequestFrame<'_>) -> Result<(), String> {
    let attribute = frame.arg(2).unwrap_or_default();
    let value = frame.arg(3).unwrap_or_default();
    let lower = attribute.to_ascii_lowercase();
    if lower != b"lib-name" && lower != b"lib-ver" {
        let attribute = String::from_utf8_lossy(attribute);
        return Err(format!("ERR Unrecognized option '{attribute}'"));
    }
    if !value.iter().all(u8::is_ascii_graphic) {
        let attribute = String::from_utf8_lossy(&lower).into_owned();
        return Err(format!(
            "ERR {attribute} cannot contain spaces, newlines or special characters."
        ));
    }
    Ok(())
}
