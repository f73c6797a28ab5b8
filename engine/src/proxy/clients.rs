//! What CLIENT tells of this worker's clients and does to them, as redis-server 7.0 does it.

use std::fmt::Write;
use std::net::SocketAddr;

use super::Proxy;
use crate::command::TopicKind;
use crate::downstream::{Caller, Modes, Profile, ReplyMode};
use crate::errors::{self, ErrorText};
use crate::ids::SessionId;
use crate::resp::{Protocol, RequestFrame, encode, parse_decimal};
use crate::sort::sort_by_key;

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
    /// `CLIENT INFO`
    pub(super) fn client_info(&mut self, caller: &Caller) {
        let Some(profile) = self.x.downstream.profile(caller.id) else { return };
        let mut text = String::new();
        self.write_client(caller.id, profile, &mut text);
        self.x.answer(caller.id, |out| write_text(out, caller.protocol, &text));
    }

    /// `CLIENT LIST [TYPE type] [ID id ...]`
    pub(super) fn client_list(
        &mut self,
        caller: &Caller,
        frame: &RequestFrame<'_>,
    ) -> Result<(), ErrorText> {
        let mut filter = Filter::default();
        let option = frame.arg(2).unwrap_or_default();
        match frame.len() {
            2 => {}
            4 if option.eq_ignore_ascii_case(b"TYPE") => {
                filter.kind = Kind::parse(frame.arg(3).unwrap_or_default())?;
            }
            4.. if option.eq_ignore_ascii_case(b"ID") => {
                for id in frame.args().skip(3) {
                    filter.ids.push(parse_decimal(id).ok_or(errors::INVALID_CLIENT_ID)?);
                }
            }
            _ => return Err(errors::SYNTAX.into()),
        }
        let clients = self.x.visible_to(caller.id);
        let mut clients: Vec<_> =
            clients.filter(|(id, profile)| self.fits(&filter, *id, profile)).collect();
        sort_by_key(&mut clients, |(_, profile)| profile.client_id);
        let mut text = String::new();
        for (id, profile) in clients {
            self.write_client(id, profile, &mut text);
        }
        self.x.answer(caller.id, |out| write_text(out, caller.protocol, &text));
        Ok(())
    }

    /// `CLIENT KILL address`, `CLIENT KILL option value [option value ...]`
    pub(super) fn client_kill(
        &mut self,
        caller: &Caller,
        frame: &RequestFrame<'_>,
    ) -> Result<(), ErrorText> {
        let mut filter = Filter::default();
        let mut spares_itself = true;
        if frame.len() == 3 {
            filter.address = frame.arg(2);
            spares_itself = false;
        }
        let mut options = frame.args().skip(2);
        while let (3.., Some(option)) = (frame.len() - 1, options.next()) {
            let value = options.next().ok_or(errors::SYNTAX)?;
            match option.to_ascii_uppercase().as_slice() {
                b"ID" => {
                    let id = parse_decimal(value).filter(|id| *id > 0);
                    filter.ids.push(id.ok_or(errors::CLIENT_ID_TOO_LOW)?);
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
                _ => return Err(errors::SYNTAX.into()),
            }
        }
        let killed: Vec<SessionId> = self
            .x
            .visible_to(caller.id)
            .filter(|(other, profile)| {
                self.fits(&filter, *other, profile)
                    && self.x.downstream.is_open(*other)
                    && !(spares_itself && *other == caller.id)
            })
            .map(|(other, _)| other)
            .collect();
        if frame.len() == 3 && killed.is_empty() {
            return Err(errors::NO_SUCH_CLIENT.into());
        }
        self.x.answer(caller.id, |out| match frame.len() {
            3 => encode::simple(out, b"OK"),
            _ => encode::integer(out, i64::try_from(killed.len()).unwrap_or(i64::MAX)),
        });
        for other in killed {
            if other == caller.id {
                self.x.close_after_replies(other);
            } else {
                self.x.kill(other);
            }
        }
        Ok(())
    }

    /// `CLIENT REPLY ON|OFF|SKIP`
    pub(super) fn client_reply(
        &mut self,
        caller: &Caller,
        frame: &RequestFrame<'_>,
    ) -> Result<(), ErrorText> {
        let mode = frame.arg(2).unwrap_or_default();
        let downstream = &mut self.x.downstream;
        match mode.to_ascii_uppercase().as_slice() {
            b"ON" => {
                downstream.set_reply_mode(caller.id, ReplyMode::On, false);
                self.x.answer(caller.id, |out| encode::simple(out, b"OK"));
            }
            b"OFF" => downstream.set_reply_mode(caller.id, ReplyMode::Off, true),
            b"SKIP" => {
                if downstream.reply_mode(caller.id) != ReplyMode::Off {
                    downstream.set_reply_mode(caller.id, ReplyMode::SkipNext, true);
                }
            }
            _ => return Err(errors::SYNTAX.into()),
        }
        Ok(())
    }

    fn check_user_name(&self, name: &[u8]) -> Result<(), ErrorText> {
        let known = self.x.config.users.iter().any(|user| user.name.as_bytes() == name);
        if known || name == b"default" {
            return Ok(());
        }
        Err(format!("ERR No such user '{}'", String::from_utf8_lossy(name)).into())
    }

    fn fits(&self, filter: &Filter<'_>, id: SessionId, profile: &Profile) -> bool {
        let is = |wanted: Option<&[u8]>, address: Option<SocketAddr>| {
            wanted.is_none_or(|wanted| {
                address.is_some_and(|address| address.to_string().as_bytes() == wanted)
            })
        };
        let subscribes = self.x.downstream.modes(id).has(Modes::SUBSCRIBED);
        let kind_fits = match filter.kind {
            Kind::Any => true,
            Kind::Normal => !subscribes,
            Kind::PubSub => subscribes,
            Kind::Replication => false,
        };
        kind_fits
            && (filter.ids.is_empty()
                || filter.ids.iter().any(|id| u64::try_from(*id) == Ok(profile.client_id)))
            && is(filter.address, profile.remote)
            && is(filter.local_address, profile.local)
            && filter.user.is_none_or(|user| user == profile.user())
    }

    /// One line of CLIENT LIST; what only a server has is 0.
    fn write_client(&self, id: SessionId, profile: &Profile, out: &mut String) {
        let show = |address: Option<SocketAddr>| {
            address.map_or_else(|| "?:0".to_owned(), |address| address.to_string())
        };
        let downstream = &self.x.downstream;
        let seconds = |since| self.x.now().saturating_duration_since(since).as_secs();
        let subscribed = |kind| self.pubsub.count(id, kind);
        let modes = downstream.modes(id);
        let in_multi = modes.has(Modes::MULTI);
        let mut flags = String::new();
        flags.extend(modes.has(Modes::SUBSCRIBED).then_some('P'));
        flags.extend(in_multi.then_some('x'));
        flags.push_str(&self.tracking.letters(id));
        flags.extend(profile.no_evict.then_some('e'));
        if flags.is_empty() {
            flags.push('N');
        }
        let redirect = self.tracking.redirect_id(id);
        let multi = if in_multi { 0 } else { -1 };
        let command = if profile.command.is_empty() { "NULL" } else { profile.command };
        let protocol = if downstream.protocol(id) == Some(Protocol::Resp3) { 3 } else { 2 };
        let (input, output) = downstream.buffered(id);
        let _ = writeln!(
            out,
            "id={} addr={} laddr={} fd=0 name={} age={} idle={} flags={flags} db={} sub={} psub={} \
             ssub={} multi={multi} qbuf={input} qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 \
             obl={output} oll={} omem=0 tot-mem=0 events=r cmd={command} user={} redir={redirect} \
             resp={protocol}",
            profile.client_id,
            show(profile.remote),
            show(profile.local),
            String::from_utf8_lossy(&profile.name),
            seconds(profile.since),
            seconds(profile.active),
            self.x.login_of(id).1,
            subscribed(TopicKind::Channel),
            subscribed(TopicKind::Pattern),
            subscribed(TopicKind::ShardChannel),
            self.x.flight.pending(id),
            String::from_utf8_lossy(profile.user()),
        );
    }
}

/// What `CLIENT NO-EVICT` and its like are to switch to.
pub(super) fn switch(frame: &RequestFrame<'_>) -> Result<bool, ErrorText> {
    match frame.arg(2).unwrap_or_default() {
        word if word.eq_ignore_ascii_case(b"on") => Ok(true),
        word if word.eq_ignore_ascii_case(b"off") => Ok(false),
        _ => Err(errors::SYNTAX.into()),
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
    fn parse(name: &[u8]) -> Result<Self, ErrorText> {
        match name.to_ascii_lowercase().as_slice() {
            b"normal" => Ok(Self::Normal),
            b"pubsub" => Ok(Self::PubSub),
            b"master" | b"replica" | b"slave" => Ok(Self::Replication),
            _ => Err(format!("ERR Unknown client type '{}'", String::from_utf8_lossy(name)).into()),
        }
    }
}
