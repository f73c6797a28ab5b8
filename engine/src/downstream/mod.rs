//! The clients' side: their bytes, how much of these may wait, and what they have said of
//! themselves.
//!
//! What their commands mean, and in which order they are answered, others know.

mod arrivals;
mod client;
mod input;
mod lingering;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

pub(crate) use client::{Caller, Modes, Profile, ReplyMode};
use client::{Client, Phase};
pub(crate) use input::Unread;
use lingering::Look;

use crate::arena::Arena;
use crate::budget::{ByteBudget, Memory};
use crate::buffers::Buffers;
use crate::config::Config;
use crate::ids::{self, IdentityId, SessionId};
use crate::offer::Offer;
use crate::output::{LogLevel, Output};
use crate::resp::{self, Protocol};
use crate::stats::{ClientStats, DownstreamGauges};
use crate::throttle::Throttle;
use crate::time::Instant;

/// Warnings about clients that speak HTTP are logged this often at most.
const HTTP_WARNING_PAUSE: Duration = Duration::from_secs(60);

/// The buffer of a node's last bytes is freed if it has grown beyond this.
const KEPT_CAPACITY: usize = 1024 * 1024;

/// So many bytes of what is known of a connection become part of its keys, at most.
const LONGEST_ATTRIBUTE: usize = 1024;

/// All clients.
#[derive(Debug)]
pub(crate) struct Downstream {
    clients: Arena<ids::Session, Client>,
    next_client_id: u64,
    op_timeout: Duration,
    frame_limits: resp::Limits,
    /// Bytes in all clients' input.
    input: ByteBudget,
    /// Bytes that may wait behind a relayed reply.
    behind_relay: usize,
    stats: ClientStats,
    buffers: Buffers,
    outputs: VecDeque<Queued>,
    /// Clients that have been answered in this event, but are owed more.
    partly_answered: Vec<SessionId>,
    /// Clients whose replies wait for [`Self::flush`].
    deferred: Vec<SessionId>,
    /// Parked clients that may read on.
    resumable: VecDeque<SessionId>,
    /// Clients that are closed once they have ceased to send, the first to be looked at first.
    lingering: VecDeque<Look>,
    /// Warnings about clients that speak HTTP.
    http_warnings: Throttle,
    /// The bytes of the last [`Output::WriteDownstream`].
    lent: Vec<u8>,
    offer: Offer,
    /// What a node has sent last, as long as it has been claimed.
    taken: Vec<u8>,
    /// The clients that have claimed what is in it.
    claimants: Vec<SessionId>,
}

/// An output about clients that waits to be polled; ids only, the bytes stay with their owners.
#[derive(Debug)]
enum Queued {
    Write(SessionId),
    Close(SessionId),
    Pause(SessionId),
    Resume(SessionId),
    Log(LogLevel, String),
}

impl Downstream {
    /// Without clients; the first one gets the id `first_client_id`.
    pub(crate) fn new(config: &Config, memory: &Memory, first_client_id: u64) -> Self {
        let limits = &config.limits;
        Self {
            clients: Arena::new(),
            next_client_id: first_client_id,
            op_timeout: config.op_timeout,
            frame_limits: limits.frame,
            input: ByteBudget::within(memory, limits.reserve_bytes, limits.input_bytes),
            behind_relay: limits.session_bytes,
            stats: ClientStats::new(config.latency_in_micros),
            buffers: Buffers::default(),
            outputs: VecDeque::new(),
            partly_answered: Vec::new(),
            deferred: Vec::new(),
            resumable: VecDeque::new(),
            lingering: VecDeque::new(),
            http_warnings: Throttle::new(HTTP_WARNING_PAUSE),
            lent: Vec::new(),
            offer: Offer::default(),
            taken: Vec::new(),
            claimants: Vec::new(),
        }
    }

    /// A client has connected.
    pub(crate) fn open(
        &mut self,
        authenticated: bool,
        identity: Option<IdentityId>,
        now: Instant,
    ) -> SessionId {
        self.stats.count().downstream_cx_total += 1;
        let client_id = self.next_client_id;
        self.next_client_id += 1;
        self.clients.insert(Client::new(client_id, authenticated, identity, now))
    }

    /// A client has gone. Returns whether it was known.
    pub(crate) fn close(&mut self, id: SessionId) -> bool {
        let Some(client) = self.clients.remove(id) else { return false };
        self.stats.touch();
        self.input.give_back(client.input.counted);
        self.buffers.recycle(client.input.bytes);
        self.buffers.recycle(client.output.bytes);
        true
    }

    // What is known of clients.

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = SessionId> {
        self.clients.iter().map(|(id, _)| id)
    }

    /// What CLIENT LIST tells of a client.
    pub(crate) fn profile(&self, id: SessionId) -> Option<&Profile> {
        self.clients.get(id).map(|client| &client.profile)
    }

    /// All clients, with what CLIENT LIST tells of them.
    pub(crate) fn profiles(&self) -> impl Iterator<Item = (SessionId, &Profile)> {
        self.clients.iter().map(|(id, client)| (id, &client.profile))
    }

    /// What CLIENT LIST tells of a client, to change it.
    pub(crate) fn profile_mut(&mut self, id: SessionId) -> Option<&mut Profile> {
        self.clients.get_mut(id).map(|client| &mut client.profile)
    }

    pub(crate) fn protocol(&self, id: SessionId) -> Option<Protocol> {
        self.clients.get(id).map(|client| client.protocol)
    }

    /// Sets the protocol. Returns the one before.
    pub(crate) fn set_protocol(&mut self, id: SessionId, protocol: Protocol) -> Option<Protocol> {
        let client = self.clients.get_mut(id)?;
        Some(std::mem::replace(&mut client.protocol, protocol))
    }

    pub(crate) fn identity(&self, id: SessionId) -> Option<IdentityId> {
        self.clients.get(id)?.identity
    }

    /// Sets the user and the database. Returns whether they were others before.
    pub(crate) fn set_identity(&mut self, id: SessionId, identity: Option<IdentityId>) -> bool {
        let Some(client) = self.clients.get_mut(id) else { return false };
        std::mem::replace(&mut client.identity, identity) != identity
    }

    /// The identities that clients have.
    pub(crate) fn identities(&self) -> impl Iterator<Item = IdentityId> {
        self.clients.iter().filter_map(|(_, client)| client.identity)
    }

    /// The client has said who it is; `user` is empty for the default user.
    pub(crate) fn authenticate(&mut self, id: SessionId, user: Option<&[u8]>) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.authenticated = true;
        if let Some(user) = user {
            client.profile.user = user.to_vec();
        }
    }

    /// What the client calls itself; empty: the default user.
    pub(crate) fn set_user(&mut self, id: SessionId, user: Vec<u8>) {
        if let Some(client) = self.clients.get_mut(id) {
            client.profile.user = user;
        }
    }

    /// See [`Client::reset`].
    pub(crate) fn reset(&mut self, id: SessionId, authenticated: bool) {
        if let Some(client) = self.clients.get_mut(id) {
            client.reset(authenticated);
        }
    }

    pub(crate) fn modes(&self, id: SessionId) -> Modes {
        self.clients.get(id).map(|client| client.modes).unwrap_or_default()
    }

    pub(crate) fn set_modes(&mut self, id: SessionId, modes: Modes, on: bool) {
        if let Some(client) = self.clients.get_mut(id) {
            client.modes.set(modes, on);
        }
    }

    pub(crate) fn reply_mode(&self, id: SessionId) -> ReplyMode {
        self.clients.get(id).map_or(ReplyMode::On, |client| client.reply_mode)
    }

    /// CLIENT REPLY: `silent` says whether that command itself gets no reply.
    pub(crate) fn set_reply_mode(&mut self, id: SessionId, mode: ReplyMode, silent: bool) {
        if let Some(client) = self.clients.get_mut(id) {
            (client.reply_mode, client.silent) = (mode, silent);
        }
    }

    pub(crate) fn set_addresses(
        &mut self,
        id: SessionId,
        remote: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) {
        if let Some(client) = self.clients.get_mut(id) {
            (client.profile.remote, client.profile.local) = (remote, local);
        }
    }

    /// What keys are made of beside themselves.
    pub(crate) fn attributes(&self, id: SessionId) -> &[Vec<u8>] {
        self.clients.get(id).map_or(&[], |client| &client.profile.attributes)
    }

    pub(crate) fn set_attributes(&mut self, id: SessionId, mut attributes: Vec<Vec<u8>>) {
        let Some(client) = self.clients.get_mut(id) else { return };
        for value in &mut attributes {
            value.truncate(LONGEST_ATTRIBUTE);
        }
        client.profile.attributes = attributes;
    }

    /// Bytes of a client's input and output that wait.
    pub(crate) fn buffered(&self, id: SessionId) -> (usize, usize) {
        let client = self.clients.get(id);
        client.map_or((0, 0), |one| (one.input.bytes.len(), one.output_len()))
    }

    pub(crate) fn is_open(&self, id: SessionId) -> bool {
        self.clients.get(id).is_some_and(|client| !client.is_closing())
    }

    // Writing.

    /// Appends to what a client gets next; `None`: the client has gone.
    #[inline]
    pub(crate) fn output(&mut self, id: SessionId) -> Option<&mut Vec<u8>> {
        let client = self.clients.get_mut(id)?;
        Some(client.output(&mut self.buffers))
    }

    /// Appends a reply, or a piece of one, to what a client gets next.
    #[inline]
    pub(crate) fn append(&mut self, id: SessionId, reply: &[u8]) {
        let Some(client) = self.clients.get_mut(id) else { return };
        match self.offer.find(reply) {
            Some(found) if client.output_len() == 0 => {
                client.output.claimed = found;
                self.claimants.push(id);
            }
            _ => client.output(&mut self.buffers).extend_from_slice(reply),
        }
    }

    /// A node has sent `bytes`. Replies that are not less than `least` are not copied if
    /// [`Self::take_buffer`] follows.
    pub(crate) fn offer_buffer(&mut self, bytes: &[u8], least: usize) {
        self.copy_claimed();
        self.offer.make(bytes, least);
    }

    /// Keeps the buffer that was offered if replies have been claimed that are in it, and leaves
    /// another one.
    pub(crate) fn take_buffer(&mut self, buffer: &mut Vec<u8>) {
        self.offer.withdraw();
        if !self.claimants.is_empty() {
            std::mem::swap(&mut self.taken, buffer);
        }
    }

    /// Copies what clients have claimed and still not got, because the next buffer comes.
    fn copy_claimed(&mut self) {
        while let Some(id) = self.claimants.pop() {
            let Some(client) = self.clients.get_mut(id) else { continue };
            let claimed = std::mem::take(&mut client.output.claimed);
            if !claimed.is_empty() {
                let reply = self.taken.get(claimed).unwrap_or_default();
                client.output(&mut self.buffers).splice(..0, reply.iter().copied());
            }
        }
        if self.taken.capacity() > KEPT_CAPACITY {
            self.taken = Vec::new();
        }
    }

    /// Whether the command that is being read gets no reply.
    pub(crate) fn is_silent(&self, id: SessionId) -> bool {
        self.clients.get(id).is_none_or(|client| client.silent)
    }

    /// Appends what is no reply, and must not get into the middle of one. Returns `false` if too
    /// much waits behind a reply that is being relayed.
    pub(crate) fn notify(
        &mut self,
        id: SessionId,
        write: impl FnOnce(&mut Vec<u8>, Protocol),
    ) -> bool {
        let Some(client) = self.clients.get_mut(id).filter(|client| !client.is_closing()) else {
            return true;
        };
        let protocol = client.protocol;
        let Some(behind) = &mut client.output.behind_relay else {
            write(client.output(&mut self.buffers), protocol);
            self.queue_write(id);
            return true;
        };
        write(behind, protocol);
        behind.len() <= self.behind_relay
    }

    /// A client has its replies, as far as they are there. They are written at once if nothing else
    /// is owed to it, and then it reads on, or is closed. Else they are written with what else this
    /// event, and the events at hand, bring for it.
    #[inline]
    pub(crate) fn end_replies(&mut self, id: SessionId, is_owed_more: bool, now: Instant) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if is_owed_more {
            if !client.output.deferred {
                client.output.deferred = true;
                self.partly_answered.push(id);
            }
            return;
        }
        match client.phase {
            Phase::Reading => {}
            Phase::Parked => self.resumable.push_back(id),
            Phase::Closing => return self.close_answered(id, now),
        }
        if client.may_be_written() {
            client.output.write_queued = true;
            self.outputs.push_back(Queued::Write(id));
        }
    }

    /// A client that has been answered in this event but is owed more, unless [`Self::defer`] has
    /// been told of it.
    #[inline]
    pub(crate) fn pop_partly_answered(&mut self) -> Option<SessionId> {
        self.partly_answered.pop()
    }

    /// The event is over. If the client is still owed more it waits for the replies that are at
    /// hand, perhaps from other nodes.
    pub(crate) fn defer(&mut self, id: SessionId, is_owed_more: bool) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.output.deferred = is_owed_more && client.output_len() > 0;
        if client.output.deferred {
            self.deferred.push(id);
        }
    }

    /// Whether replies wait for [`Self::flush`].
    #[inline]
    pub(crate) fn is_corked(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// The events that were at hand have been handled.
    pub(crate) fn flush(&mut self) {
        while let Some(id) = self.deferred.pop() {
            if let Some(client) = self.clients.get_mut(id) {
                client.output.deferred = false;
                self.queue_write(id);
            }
        }
    }

    #[inline]
    pub(crate) fn queue_write(&mut self, id: SessionId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if client.may_be_written() {
            client.output.write_queued = true;
            self.outputs.push_back(Queued::Write(id));
        }
    }

    /// From here on a reply is handed over as it comes: nothing may get into the middle of it.
    pub(crate) fn begin_relay(&mut self, id: SessionId) {
        if let Some(client) = self.clients.get_mut(id) {
            client.output.behind_relay = Some(Vec::new());
        }
    }

    /// The end of such a reply has been handed over. It took the time that it took: no time has run
    /// for what came behind it.
    pub(crate) fn end_relay(&mut self, id: SessionId, now: Instant) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.input.arrivals.renew(now);
        if let Some(behind) = client.output.behind_relay.take() {
            client.output(&mut self.buffers).extend_from_slice(&behind);
        }
    }

    // Closing.

    /// All commands have been answered of a client that is to be closed: it is, unless it lingers.
    #[cold]
    pub(crate) fn close_answered(&mut self, id: SessionId, now: Instant) {
        match self.linger(id, now) {
            true => self.queue_write(id),
            false => self.finish(id),
        }
    }

    /// A client that waits for its own commands need not wait for all of them. It reads on.
    #[inline]
    pub(crate) fn note_window(&mut self, id: SessionId) {
        if self.clients.get(id).is_some_and(|client| client.phase == Phase::Parked) {
            self.resumable.push_back(id);
        }
    }

    /// Reads nothing more from the client. [`Self::end_replies`] closes it.
    pub(crate) fn set_closing(&mut self, id: SessionId) {
        if let Some(client) = self.clients.get_mut(id) {
            client.phase = Phase::Closing;
        }
    }

    /// Closes a client behind what has been handed over to it.
    pub(crate) fn finish(&mut self, id: SessionId) {
        self.set_closing(id);
        self.queue_write(id);
        self.outputs.push_back(Queued::Close(id));
    }

    /// Drops what has not been handed over to a client.
    pub(crate) fn clear_output(&mut self, id: SessionId) {
        if let Some(client) = self.clients.get_mut(id) {
            client.output.bytes.clear();
            client.output.claimed = 0..0;
        }
    }

    /// Warns of a client that speaks HTTP, once a minute, as Redis does.
    pub(crate) fn warn_of_http(&mut self, id: SessionId, now: Instant) {
        if !self.http_warnings.allows(now) {
            return;
        }
        let remote = self.profile(id).and_then(|profile| profile.remote);
        let from = remote.map(|address| format!(" from {address}")).unwrap_or_default();
        let text = format!(
            "closing a client{from} that speaks HTTP (POST or Host:): perhaps a web browser that \
             was lured to this port; look where it comes from. More of them within a minute are \
             not logged"
        );
        self.log(LogLevel::Warn, text);
    }

    pub(crate) fn log(&mut self, level: LogLevel, message: String) {
        self.outputs.push_back(Queued::Log(level, message));
    }

    /// Drops outputs that mean nothing any more. Returns whether any is left.
    #[inline]
    pub(crate) fn has_outputs(&mut self) -> bool {
        while let Some(queued) = self.outputs.front() {
            let is_current = match queued {
                Queued::Write(id) => {
                    self.clients.get(*id).is_some_and(|client| client.output_len() > 0)
                }
                Queued::Close(id) | Queued::Pause(id) | Queued::Resume(id) => {
                    self.clients.get(*id).is_some()
                }
                Queued::Log(..) => true,
            };
            if is_current {
                return true;
            }
            self.outputs.pop_front();
        }
        false
    }

    /// The next thing to do, if [`Self::has_outputs`].
    #[inline]
    pub(crate) fn poll_output(&mut self) -> Option<Output<'_>> {
        match self.outputs.pop_front()? {
            Queued::Write(id) => {
                let client = self.clients.get_mut(id)?;
                client.output.write_queued = false;
                if !client.output.claimed.is_empty() {
                    return self.write_claimed(id);
                }
                let bytes = std::mem::take(&mut client.output.bytes);
                let spent = std::mem::replace(&mut self.lent, bytes);
                self.buffers.recycle(spent);
                self.stats.count().downstream_cx_tx_bytes_total += self.lent.len() as u64;
                Some(Output::WriteDownstream { session: id, bytes: &self.lent })
            }
            Queued::Close(session) => Some(Output::CloseDownstream { session }),
            Queued::Pause(session) => Some(Output::PauseDownstream { session }),
            Queued::Resume(session) => Some(Output::ResumeDownstream { session }),
            Queued::Log(level, message) => Some(Output::Log { level, message }),
        }
    }

    /// Writes what a client has claimed, and then what is behind it.
    fn write_claimed(&mut self, id: SessionId) -> Option<Output<'_>> {
        let client = self.clients.get_mut(id)?;
        let claimed = std::mem::take(&mut client.output.claimed);
        if !client.output.bytes.is_empty() {
            client.output.write_queued = true;
            self.outputs.push_front(Queued::Write(id));
        }
        self.stats.count().downstream_cx_tx_bytes_total += claimed.len() as u64;
        let bytes = self.taken.get(claimed).unwrap_or_default();
        Some(Output::WriteDownstream { session: id, bytes })
    }

    // Statistics.

    /// What is counted, to be reported.
    pub(crate) fn stats(&self) -> &ClientStats {
        &self.stats
    }

    /// The same, to count something.
    #[inline]
    pub(crate) fn stats_mut(&mut self) -> &mut ClientStats {
        &mut self.stats
    }

    /// Sets the gauges, given the number of commands in flight.
    pub(crate) fn measure(&mut self, commands: usize) {
        self.stats.set_gauges(DownstreamGauges {
            downstream_cx_active: self.clients.len(),
            downstream_cx_rx_bytes_buffered: self.input.used(),
            downstream_rq_active: commands,
        });
    }

    /// Bytes of all clients' commands that are unfinished or wait unread.
    pub(crate) fn input_bytes(&self) -> usize {
        self.input.used()
    }

    /// Panics if its parts contradict each other: for tests.
    pub(crate) fn check_invariants(&self) {
        let counted: usize = self.clients.iter().map(|(_, client)| client.input.counted).sum();
        assert_eq!(counted, self.input.used(), "bytes of input");
        for (id, client) in self.clients.iter().filter(|(_, one)| !one.output.claimed.is_empty()) {
            assert!(self.claimants.contains(&id), "who claims is known");
            assert!(client.output.claimed.end <= self.taken.len(), "what is claimed is there");
        }
    }
}
