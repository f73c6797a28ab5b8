//! Client-side caching: what a client has said with CLIENT TRACKING, and how invalidations look.
//!
//! The nodes do the tracking, as they do it for clients of their own; what follows from that is in
//! `features::tracking`.

use std::collections::BTreeSet;

use crate::errors::{self, ErrorText};
use crate::ids::SessionId;
use crate::resp::{Protocol, Reply, RequestFrame, encode, parse_decimal};

/// Bytes of one client's prefixes, each with [`PREFIX_OVERHEAD`].
const PREFIX_BYTES: usize = 64 * 1024;
const PREFIX_OVERHEAD: usize = 64;

/// The channel in which RESP2 clients hear of invalidations.
const CHANNEL: &[u8] = b"__redis__:invalidate";

/// What a client that caches wants to hear of.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct TrackingOptions {
    mode: Mode,
    /// In [`Mode::Broadcast`], what keys begin with; the empty one is that of all.
    prefixes: BTreeSet<Box<[u8]>>,
    /// Not of its own changes.
    no_loop: bool,
    /// Another client that hears of them instead.
    redirect: Option<Redirect>,
    /// That client had gone when it should have heard of something.
    broken: bool,
    caching: Caching,
}

/// The client that gets another's invalidations.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Redirect {
    /// What it is called.
    pub(crate) client_id: u64,
    pub(crate) session: SessionId,
}

/// Of which keys.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Mode {
    /// Those that it reads.
    #[default]
    Read,
    /// Those that it reads right after CLIENT CACHING YES.
    OptIn,
    /// Those that it reads, but not right after CLIENT CACHING NO.
    OptOut,
    /// All that begin with its prefixes.
    Broadcast,
}

/// What CLIENT CACHING says, and of which command.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Caching {
    /// The one now read.
    current: bool,
    /// The one after it.
    next: bool,
}

/// What CLIENT TRACKING asks for.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum TrackingRequest {
    /// `CLIENT TRACKING ON`
    On(TrackingOptions),
    /// `CLIENT TRACKING OFF`
    Off,
}

impl TrackingRequest {
    /// Reads a CLIENT TRACKING of a client that is tracking as `before` says, if it is; errors are
    /// redis-server's. `find` knows clients by their ids.
    pub(crate) fn parse(
        frame: &RequestFrame<'_>,
        before: Option<&TrackingOptions>,
        find: impl Fn(u64) -> Option<SessionId>,
    ) -> Result<Self, ErrorText> {
        let mut wanted = TrackingOptions::default();
        let (mut broadcast, mut opt_in, mut opt_out) = (false, false, false);
        let mut prefixes: Vec<&[u8]> = Vec::new();
        let mut options = frame.args().skip(3);
        while let Some(option) = options.next() {
            match option.to_ascii_lowercase().as_slice() {
                b"redirect" => {
                    let client_id = options.next().ok_or(errors::SYNTAX)?;
                    if wanted.redirect.is_some() {
                        return Err(
                            "ERR A client can only redirect to a single other client".into()
                        );
                    }
                    wanted.redirect = Some(redirect(client_id, &find)?);
                }
                b"bcast" => broadcast = true,
                b"optin" => opt_in = true,
                b"optout" => opt_out = true,
                b"noloop" => wanted.no_loop = true,
                b"prefix" => prefixes.push(options.next().ok_or(errors::SYNTAX)?),
                _ => return Err(errors::SYNTAX.into()),
            }
        }
        match frame.arg(2).unwrap_or_default().to_ascii_lowercase().as_slice() {
            b"on" => {}
            b"off" => return Ok(Self::Off),
            _ => return Err(errors::SYNTAX.into()),
        }
        if !broadcast && !prefixes.is_empty() {
            return Err("ERR PREFIX option requires BCAST mode to be enabled".into());
        }
        if before.is_some_and(|before| before.is_broadcast() != broadcast) {
            return Err(switch("BCAST mode on/off"));
        }
        wanted.mode = match (broadcast, opt_in, opt_out) {
            (true, false, false) => Mode::Broadcast,
            (true, ..) => {
                return Err("ERR OPTIN and OPTOUT are not compatible with BCAST".into());
            }
            (_, true, true) => {
                return Err("ERR You can't specify both OPTIN mode and OPTOUT mode".into());
            }
            (_, true, _) => Mode::OptIn,
            (_, _, true) => Mode::OptOut,
            _ => Mode::Read,
        };
        let modes = (before.map(|before| before.mode), wanted.mode);
        if let (Some(Mode::OptIn), Mode::OptOut) | (Some(Mode::OptOut), Mode::OptIn) = modes {
            return Err(switch("OPTIN/OPTOUT mode"));
        }
        let known = || before.iter().flat_map(|before| &before.prefixes);
        check_prefixes(&prefixes, known)?;
        wanted.prefixes.extend(known().cloned());
        if broadcast && prefixes.is_empty() {
            wanted.prefixes.insert(Box::default());
        }
        wanted.prefixes.extend(prefixes.into_iter().map(Box::from));
        Ok(Self::On(wanted))
    }
}

impl TrackingOptions {
    /// Whether it is small enough to be kept.
    pub(crate) fn fits(&self) -> bool {
        let bytes = self.prefixes.iter().map(|prefix| prefix.len().saturating_add(PREFIX_OVERHEAD));
        bytes.fold(0, usize::saturating_add) <= PREFIX_BYTES
    }

    /// Whether nobody hears of anything: RESP2 has no place for it but another client's channel.
    pub(crate) fn is_mute(&self, protocol: Protocol) -> bool {
        protocol == Protocol::Resp2 && self.redirect.is_none()
    }

    /// The client that is told instead.
    pub(crate) fn redirect(&self) -> Option<SessionId> {
        self.redirect.map(|redirect| redirect.session)
    }

    /// The client that was to be told instead had gone when it should have heard of something.
    pub(crate) fn set_broken(&mut self) {
        self.broken = true;
    }

    /// Whether changes are told of all keys, read or not.
    pub(crate) fn is_broadcast(&self) -> bool {
        self.mode == Mode::Broadcast
    }

    /// Appends the command by which a node tracks for this client on a connection. `listener` is
    /// what the node calls the connection that is to hear of it, if that is another one.
    pub(crate) fn write_command(&self, listener: Option<i64>, out: &mut Vec<u8>) {
        let listener = listener.map(|listener| listener.to_string());
        let mut words: Vec<&[u8]> = vec![b"CLIENT", b"TRACKING", b"ON"];
        if let Some(listener) = &listener {
            words.extend([b"REDIRECT", listener.as_bytes()]);
        }
        match self.mode {
            Mode::Read => {}
            Mode::OptIn => words.push(b"OPTIN"),
            Mode::OptOut => words.push(b"OPTOUT"),
            Mode::Broadcast => {
                words.push(b"BCAST");
                // The empty one is all there is to say.
                let all = self.prefixes.iter().any(|prefix| prefix.is_empty());
                for prefix in self.prefixes.iter().filter(|_| !all) {
                    words.extend([b"PREFIX", &prefix[..]]);
                }
            }
        }
        if self.no_loop {
            words.push(b"NOLOOP");
        }
        encode::command(out, &words);
    }

    /// `CLIENT CACHING YES|NO`; errors are redis-server's.
    pub(crate) fn set_caching(&mut self, answer: &[u8]) -> Result<(), ErrorText> {
        let (mode, text) = match answer.to_ascii_lowercase().as_slice() {
            b"yes" => (
                Mode::OptIn,
                "ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.",
            ),
            b"no" => (
                Mode::OptOut,
                "ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.",
            ),
            _ => return Err(errors::SYNTAX.into()),
        };
        if self.mode != mode {
            return Err(text.into());
        }
        self.caching.next = true;
        Ok(())
    }

    /// The client's next command has been read. CLIENT CACHING speaks of the one behind it, or of
    /// all of a transaction; other subcommands of CLIENT may come between.
    pub(crate) fn note_command(&mut self, name: &str, in_multi: bool) {
        self.caching.current = self.caching.next;
        let goes_on = name.starts_with("client|")
            || name == "multi"
            || in_multi && !matches!(name, "exec" | "discard");
        self.caching.next &= goes_on;
    }

    /// What a node has to hear right before the command that is now read.
    pub(crate) fn caching_command(&self) -> Option<&'static [u8]> {
        const YES: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$3\r\nYES\r\n";
        const NO: &[u8] = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nCACHING\r\n$2\r\nNO\r\n";
        match self.mode {
            Mode::OptIn => self.caching.current.then_some(YES),
            Mode::OptOut => self.caching.current.then_some(NO),
            Mode::Read | Mode::Broadcast => None,
        }
    }

    /// The letters that CLIENT LIST shows.
    pub(crate) fn letters(&self) -> String {
        let broken = self.broken.then_some('R');
        let broadcast = self.is_broadcast().then_some('B');
        std::iter::once('t').chain(broken).chain(broadcast).collect()
    }

    /// The client that is told instead, as CLIENT GETREDIR answers it; 0: none.
    pub(crate) fn redirect_id(&self) -> i64 {
        let id = self.redirect.map_or(0, |redirect| redirect.client_id);
        i64::try_from(id).unwrap_or(i64::MAX)
    }

    fn words(&self) -> Vec<&'static [u8]> {
        let mut words: Vec<&[u8]> = vec![b"on"];
        let caching = self.caching.next;
        match self.mode {
            Mode::Read => {}
            Mode::Broadcast => words.push(b"bcast"),
            Mode::OptIn => {
                words.push(b"optin");
                words.extend(caching.then_some(&b"caching-yes"[..]));
            }
            Mode::OptOut => {
                words.push(b"optout");
                words.extend(caching.then_some(&b"caching-no"[..]));
            }
        }
        words.extend(self.no_loop.then_some(&b"noloop"[..]));
        words.extend(self.broken.then_some(&b"broken_redirect"[..]));
        words
    }
}

/// Appends the reply to CLIENT TRACKINGINFO.
pub(crate) fn write_info(
    tracking: Option<&TrackingOptions>,
    protocol: Protocol,
    out: &mut Vec<u8>,
) {
    let words = tracking.map_or_else(|| vec![&b"off"[..]], TrackingOptions::words);
    encode::map_header(out, protocol, 3);
    encode::bulk(out, b"flags");
    encode::set_header(out, protocol, words.len());
    words.iter().for_each(|word| encode::bulk(out, word));
    encode::bulk(out, b"redirect");
    encode::integer(out, tracking.map_or(-1, TrackingOptions::redirect_id));
    encode::bulk(out, b"prefixes");
    let prefixes = || tracking.iter().flat_map(|tracking| &tracking.prefixes);
    encode::array_header(out, prefixes().count());
    prefixes().for_each(|prefix| encode::bulk(out, prefix));
}

/// The keys, as an array's frame, or the null that means all of them, that a node's push says have
/// changed; `None`: it says something else.
pub(crate) fn invalidated(push: &[u8]) -> Option<&[u8]> {
    let mut elements = Reply::new(push).elements();
    let is_one = Reply::new(elements.next()?).bulk() == Some(b"invalidate");
    elements.next().filter(|_| is_one)
}

/// Appends the news that keys have changed, or with `None` that any may have, for a client of this
/// protocol. In RESP2 it is a message.
pub(crate) fn invalidation(out: &mut Vec<u8>, protocol: Protocol, keys: Option<&[u8]>) {
    match protocol {
        Protocol::Resp2 => {
            encode::array_header(out, 3);
            encode::bulk(out, b"message");
            encode::bulk(out, CHANNEL);
        }
        Protocol::Resp3 => {
            encode::push_header(out, protocol, 2);
            encode::bulk(out, b"invalidate");
        }
    }
    match keys.filter(|keys| !Reply::new(keys).is_null()) {
        Some(keys) => out.extend_from_slice(keys),
        None => encode::null(out, protocol),
    }
}

/// Appends the news that whoever was to be told has gone.
pub(crate) fn redirection_broken(out: &mut Vec<u8>, client_id: i64) {
    encode::push_header(out, Protocol::Resp3, 2);
    encode::bulk(out, b"tracking-redir-broken");
    encode::integer(out, client_id);
}

fn redirect(
    client_id: &[u8],
    find: impl Fn(u64) -> Option<SessionId>,
) -> Result<Redirect, ErrorText> {
    let client_id = parse_decimal(client_id).ok_or(errors::NOT_AN_INTEGER)?;
    let known = u64::try_from(client_id).ok().and_then(|id| Some((id, find(id)?)));
    let (client_id, session) =
        known.ok_or("ERR The client ID you want redirect to does not exist")?;
    Ok(Redirect { client_id, session })
}

fn overlap(one: &[u8], other: &[u8]) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Redis' order: each with those that the client has already, then with those behind it.
fn check_prefixes<'a, Known: Iterator<Item = &'a Box<[u8]>>>(
    prefixes: &[&[u8]],
    known: impl Fn() -> Known,
) -> Result<(), ErrorText> {
    for (number, one) in prefixes.iter().enumerate() {
        let old = known().map(|old| (&old[..], "an existing"));
        let behind = prefixes.iter().skip(number + 1).map(|other| (*other, "another provided"));
        if let Some((other, which)) = old.chain(behind).find(|(other, _)| overlap(one, other)) {
            return Err(format!(
                "ERR Prefix '{}' overlaps with {which} prefix '{}'. Prefixes for a single client \
                 must not overlap.",
                String::from_utf8_lossy(one),
                String::from_utf8_lossy(other)
            )
            .into());
        }
    }
    Ok(())
}

fn switch(what: &str) -> ErrorText {
    format!(
        "ERR You can't switch {what} before disabling tracking for this client, and then \
         re-enabling it with a different mode."
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Limits, RequestParser};

    fn parsed(words: &str, before: Option<&TrackingOptions>) -> Result<TrackingRequest, ErrorText> {
        let mut command = Vec::new();
        let words: Vec<_> = words.split(' ').map(str::as_bytes).collect();
        encode::command(&mut command, &words);
        let mut parser = RequestParser::new();
        parser.parse(&command, &Limits::UNBOUNDED).unwrap();
        TrackingRequest::parse(&parser.frame(&command), before, |_| None)
    }

    fn try_on(words: &str, before: Option<&TrackingOptions>) -> Result<TrackingOptions, ErrorText> {
        match parsed(format!("CLIENT TRACKING ON {words}").trim_end(), before)? {
            TrackingRequest::On(tracking) => Ok(tracking),
            TrackingRequest::Off => panic!("{words} is off"),
        }
    }

    fn on(words: &str) -> TrackingOptions {
        try_on(words, None).unwrap()
    }

    #[test]
    fn errors_are_those_of_redis() {
        // As measured on redis-server 7.0.15.
        for (words, error) in [
            ("CLIENT TRACKING MAYBE", errors::SYNTAX),
            ("CLIENT TRACKING ON FOO", errors::SYNTAX),
            ("CLIENT TRACKING OFF PREFIX", errors::SYNTAX),
            ("CLIENT TRACKING ON REDIRECT", errors::SYNTAX),
            ("CLIENT TRACKING ON REDIRECT x", errors::NOT_AN_INTEGER),
            (
                "CLIENT TRACKING ON REDIRECT -1",
                "ERR The client ID you want redirect to does not exist",
            ),
            ("CLIENT TRACKING ON PREFIX a", "ERR PREFIX option requires BCAST mode to be enabled"),
            (
                "CLIENT TRACKING ON OPTIN OPTOUT",
                "ERR You can't specify both OPTIN mode and OPTOUT mode",
            ),
            (
                "CLIENT TRACKING ON BCAST OPTIN",
                "ERR OPTIN and OPTOUT are not compatible with BCAST",
            ),
            (
                "CLIENT TRACKING ON BCAST PREFIX foo PREFIX foobar",
                "ERR Prefix 'foo' overlaps with another provided prefix 'foobar'. Prefixes for a \
                 single client must not overlap.",
            ),
        ] {
            assert_eq!(parsed(words, None), Err(error.into()), "{words}");
        }
        assert_eq!(parsed("client tracking off noloop", None), Ok(TrackingRequest::Off));
    }

    #[test]
    fn a_mode_cannot_be_left_for_another_without_turning_it_off() {
        for (before, after) in
            [("BCAST", ""), ("", "BCAST"), ("OPTIN", "OPTOUT"), ("BCAST", "OPTIN")]
        {
            assert!(try_on(after, Some(&on(before))).is_err(), "{before} {after}");
        }
        for (before, after) in [("", "OPTIN"), ("OPTIN", ""), ("BCAST", "BCAST NOLOOP")] {
            assert!(try_on(after, Some(&on(before))).is_ok(), "{before} {after}");
        }
        let error = try_on("BCAST PREFIX fo", Some(&on("BCAST PREFIX foo"))).unwrap_err();
        assert!(
            error.to_string().contains("'fo' overlaps with an existing prefix 'foo'"),
            "{error}"
        );
    }

    #[test]
    fn a_node_is_told_what_the_client_wants() {
        let told = |tracking: &TrackingOptions, listener| {
            let mut command = Vec::new();
            tracking.write_command(listener, &mut command);
            let text = String::from_utf8(command).unwrap();
            text.lines().filter(|line| !line.starts_with(['*', '$'])).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(&on("NOLOOP"), None), "CLIENT TRACKING ON NOLOOP");
        assert_eq!(told(&on("OPTIN"), Some(7)), "CLIENT TRACKING ON REDIRECT 7 OPTIN");
        let both = try_on("BCAST PREFIX b", Some(&on("BCAST PREFIX a"))).unwrap();
        assert_eq!(told(&both, None), "CLIENT TRACKING ON BCAST PREFIX a PREFIX b");
        let all = try_on("BCAST", Some(&both)).unwrap();
        assert_eq!(told(&all, None), "CLIENT TRACKING ON BCAST");
    }

    #[test]
    fn caching_concerns_the_next_command_or_all_of_a_transaction() {
        let mut tracking = on("OPTIN");
        assert!(tracking.set_caching(b"no").is_err());
        tracking.note_command("client|caching", false);
        tracking.set_caching(b"YES").unwrap();
        for (name, in_multi, tracked) in [
            ("client|id", false, true),
            ("multi", false, true),
            ("get", true, true),
            ("exec", true, true),
            ("get", false, false),
        ] {
            tracking.note_command(name, in_multi);
            assert_eq!(tracking.caching_command().is_some(), tracked, "{name}");
        }
    }

    #[test]
    fn a_push_is_handed_on_in_the_form_of_the_protocol() {
        let keys = b"*1\r\n$1\r\nk\r\n";
        let push = [&b">2\r\n$10\r\ninvalidate\r\n"[..], keys].concat();
        assert_eq!(invalidated(&push), Some(&keys[..]));
        assert_eq!(invalidated(b">2\r\n$7\r\nmessage\r\n:1\r\n"), None);
        assert_eq!(invalidated(b">0\r\n"), None);
        let written = |protocol, keys| {
            let mut out = Vec::new();
            invalidation(&mut out, protocol, keys);
            String::from_utf8(out).unwrap().replace("\r\n", " ")
        };
        let message = "*3 $7 message $20 __redis__:invalidate ";
        assert_eq!(written(Protocol::Resp2, Some(keys)), format!("{message}*1 $1 k "));
        assert_eq!(written(Protocol::Resp2, Some(b"_\r\n")), format!("{message}$-1 "));
        assert_eq!(written(Protocol::Resp3, None), ">2 $10 invalidate _ ");
    }

    #[test]
    fn prefixes_are_bounded() {
        assert!(on("BCAST PREFIX a").fits());
        assert!(!on(&format!("BCAST PREFIX {}", "a".repeat(PREFIX_BYTES))).fits());
    }
}
