//! What CLIENT tells of this worker's clients and does to them, as redis-server 7.0 does it.

use std::fmt::Write;
use std::net::SocketAddr;

use super::Proxy;
use crate::output::Queued;
use crate::pubsub::TopicKind;
use crate::resp::{Protocol, RequestFrame, encode, parse_decimal};
use crate::session::{Replies, Session, SessionId};

const SYNTAX_ERROR: &str = "ERR syntax error";

/// Which clients a CLIENT KILL or a CLIENT LIST means: all that fit every condition.
#[derive(Debug, Default)]
struct Filter<'a> {
    ids: Vec<i64>,
    address: Option<&'a [u8]>,
    local_address: Option<&'a [u8]>,
    user: Option<&'a [u8]>,
    kind: Kind,
}

/// What Redis calls the type of a client.
#[derive(Clone, Copy, Debug, Default)]
enum Kind {
    #[default]
    Any,
    Normal,
    PubSub,
    /// A replica or a primary: none is a client of a proxy.
    Replication,
}

impl Proxy {
    /// Where a client's connection comes from and where it arrived, as far as the host knows: what
    /// CLIENT LIST shows, and where cluster-aware clients are told to go.
    pub fn handle_downstream_addresses(
        &mut self,
        id: SessionId,
        remote: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) {
        if let Some(session) = self.sessions.get_mut(id) {
            (session.remote, session.local) = (remote, local);
        }
    }

    /// `CLIENT INFO`
    pub(super) fn client_info(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let (protocol, mut text) = (session.protocol, String::new());
        self.write_client(session, &mut text);
        self.answer(id, |out| write_text(out, protocol, &text));
    }

    /// `CLIENT LIST [TYPE type] [ID id ...]`
    pub(super) fn client_list(
        &mut self,
        id: SessionId,
        frame: &RequestFrame<'_>,
    ) -> Result<(), String> {
        let mut filter = Filter::default();
        let option = frame.arg(2).unwrap_or_default();
        match frame.len() {
            2 => {}
            4 if option.eq_ignore_ascii_case(b"TYPE") => {
                filter.kind = Kind::parse(frame.arg(3).unwrap_or_default())?;
            }
            4.. if option.eq_ignore_ascii_case(b"ID") => {
                for id in frame.args().skip(3) {
                    filter.ids.push(parse_decimal(id).ok_or("ERR Invalid client ID")?);
                }
            }
            _ => return Err(SYNTAX_ERROR.to_owned()),
        }
        let Some(protocol) = self.sessions.get(id).map(|session| session.protocol) else {
            return Ok(());
        };
        let mut sessions: Vec<_> =
            self.fellows(id).map(|(_, s)| s).filter(|s| filter.fits(s)).collect();
        sessions.sort_by_key(|session| session.client_id);
        let mut text = String::new();
        for session in sessions {
            self.write_client(session, &mut text);
        }
        self.answer(id, |out| write_text(out, protocol, &text));
        Ok(())
    }

    /// `CLIENT KILL address`, `CLIENT KILL option value [option value ...]`
    pub(super) fn client_kill(
        &mut self,
        id: SessionId,
        frame: &RequestFrame<'_>,
    ) -> Result<(), String> {
        let mut filter = Filter::default();
        let mut spares_itself = true;
        if frame.len() == 3 {
            filter.address = frame.arg(2);
            spares_itself = false;
        }
        let mut options = frame.args().skip(2);
        while let (3.., Some(option)) = (frame.len() - 1, options.next()) {
            let value = options.next().ok_or(SYNTAX_ERROR)?;
            match option.to_ascii_uppercase().as_slice() {
                b"ID" => {
                    let id = parse_decimal(value).filter(|id| *id > 0);
                    filter.ids.push(id.ok_or("ERR client-id should be greater than 0")?);
                }
                b"TYPE" => filter.kind = Kind::parse(value)?,
                b"ADDR" => filter.address = Some(value),
                b"LADDR" => filter.local_address = Some(value),
                b"USER" => {
                    self.check_user_name(value)?;
                    filter.user = Some(value);
                }
                b"SKIPME" if value.eq_ignore_ascii_case(b"yes") => spares_itself = true,
                b"SKIPME" if value.eq_ignore_ascii_case(b"no") => spares_itself = false,
                _ => return Err(SYNTAX_ERROR.to_owned()),
            }
        }
        let killed: Vec<SessionId> = self
            .fellows(id)
            .filter(|(other, session)| {
                filter.fits(session) && !session.closing && !(spares_itself && *other == id)
            })
            .map(|(other, _)| other)
            .collect();
        if frame.len() == 3 && killed.is_empty() {
            return Err("ERR No such client".to_owned());
        }
        self.answer(id, |out| match frame.len() {
            3 => encode::simple(out, b"OK"),
            _ => encode::integer(out, i64::try_from(killed.len()).unwrap_or(i64::MAX)),
        });
        for other in killed {
            if other == id {
                self.close_after_replies(id);
            } else {
                self.kill(other);
            }
        }
        Ok(())
    }

    /// `CLIENT REPLY ON|OFF|SKIP`
    pub(super) fn client_reply(
        &mut self,
        id: SessionId,
        frame: &RequestFrame<'_>,
    ) -> Result<(), String> {
        let mode = frame.arg(2).unwrap_or_default();
        let Some(session) = self.sessions.get_mut(id) else { return Ok(()) };
        match mode.to_ascii_uppercase().as_slice() {
            b"ON" => {
                (session.replies, session.silent) = (Replies::On, false);
                self.answer(id, |out| encode::simple(out, b"OK"));
            }
            b"OFF" => (session.replies, session.silent) = (Replies::Off, true),
            b"SKIP" => {
                if session.replies != Replies::Off {
                    (session.replies, session.silent) = (Replies::Skip, true);
                }
            }
            _ => return Err(SYNTAX_ERROR.to_owned()),
        }
        Ok(())
    }

    /// Clients that a client may know of and do something to: where nodes say what users may do, those
    /// of its own user, since no node can be asked about these.
    pub(super) fn fellows(&self, id: SessionId) -> impl Iterator<Item = (SessionId, &Session)> {
        let user = self.sessions.get(id).map(Session::user);
        let all = !self.config.auth_passthrough;
        self.sessions.iter().filter(move |(_, other)| all || Some(other.user()) == user)
    }

    /// Closes a client, whatever it is still owed.
    pub(super) fn kill(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.output.clear();
        }
        self.close_at_once(id);
    }

    /// Closes a client behind what has been handed over to it.
    pub(super) fn close_at_once(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.closing = true;
        for request in std::mem::take(&mut session.pending) {
            self.abandon_subscribe(request);
            self.requests.remove(request);
        }
        self.queue_write_downstream(id);
        self.outputs.push_back(Queued::CloseDownstream(id));
    }

    fn check_user_name(&self, name: &[u8]) -> Result<(), String> {
        let known = self.config.users.iter().any(|user| user.name.as_bytes() == name);
        if known || name == b"default" {
            return Ok(());
        }
        Err(format!("ERR No such user '{}'", String::from_utf8_lossy(name)))
    }

    /// One line of CLIENT LIST; what only a server has is 0.
    fn write_client(&self, session: &Session, out: &mut String) {
        let show = |address: Option<SocketAddr>| {
            address.map_or_else(|| "?:0".to_owned(), |address| address.to_string())
        };
        let seconds = |since| self.now.saturating_duration_since(since).as_secs();
        let subscribed = |kind| session.subscribed.get(kind).len();
        let mut flags = String::new();
        flags.extend((!session.subscribed.is_empty()).then_some('P'));
        flags.extend(session.transaction.is_some().then_some('x'));
        let tracking = session.tracking.as_ref();
        flags.extend(tracking.map(|tracking| tracking.letters()));
        flags.extend(session.no_evict.then_some('e'));
        if flags.is_empty() {
            flags.push('N');
        }
        let redirect = tracking.map_or(-1, |tracking| tracking.redirect_id());
        let multi = if session.transaction.is_some() { 0 } else { -1 };
        let command = if session.command.is_empty() { "NULL" } else { session.command };
        let protocol = if session.protocol == Protocol::Resp3 { 3 } else { 2 };
        let _ = writeln!(
            out,
            "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={flags} db={} sub={} psub={} ssub={} \
             multi={multi} qbuf={} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl={} oll={} \
             omem=0 tot-mem=0 events=r cmd={command} user={} redir={redirect} resp={protocol}",
            session.client_id,
            show(session.remote),
            show(session.local),
            String::from_utf8_lossy(&session.name),
            seconds(session.since),
            seconds(session.active),
            self.login(session.identity).1,
            subscribed(TopicKind::Channel),
            subscribed(TopicKind::Pattern),
            subscribed(TopicKind::ShardChannel),
            session.input.len(),
            session.output.len(),
            session.pending.len(),
            String::from_utf8_lossy(session.user()),
        );
    }
}

impl Filter<'_> {
    fn fits(&self, session: &Session) -> bool {
        let is = |wanted: Option<&[u8]>, address: Option<SocketAddr>| {
            wanted.is_none_or(|wanted| {
                address.is_some_and(|address| address.to_string().as_bytes() == wanted)
            })
        };
        let subscribes = !session.subscribed.is_empty();
        let kind_fits = match self.kind {
            Kind::Any => true,
            Kind::Normal => !subscribes,
            Kind::PubSub => subscribes,
            Kind::Replication => false,
        };
        kind_fits
            && (self.ids.is_empty()
                || self.ids.iter().any(|id| u64::try_from(*id) == Ok(session.client_id)))
            && is(self.address, session.remote)
            && is(self.local_address, session.local)
            && self.user.is_none_or(|user| user == session.user())
    }
}

/// What `CLIENT NO-EVICT` and its like are to switch to.
pub(super) fn switch(frame: &RequestFrame<'_>) -> Result<bool, String> {
    match frame.arg(2).unwrap_or_default() {
        word if word.eq_ignore_ascii_case(b"on") => Ok(true),
        word if word.eq_ignore_ascii_case(b"off") => Ok(false),
        _ => Err(SYNTAX_ERROR.to_owned()),
    }
}

/// A text, as a verbatim string where there is such a thing.
pub(super) fn write_text(out: &mut Vec<u8>, protocol: Protocol, text: &str) {
    match protocol {
        Protocol::Resp2 => encode::bulk(out, text.as_bytes()),
        Protocol::Resp3 => encode::verbatim(out, text.as_bytes()),
    }
}

impl Kind {
    fn parse(name: &[u8]) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_slice() {
            b"normal" => Ok(Self::Normal),
            b"pubsub" => Ok(Self::PubSub),
            b"master" | b"replica" | b"slave" => Ok(Self::Replication),
            _ => Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(name))),
        }
    }
}
