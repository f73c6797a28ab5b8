//! From a client's bytes to commands.

use crate::budget::ByteBudget;
use crate::buffers;
use crate::command::{self, CommandSpec, Lookup};
use crate::downstream::client::{Input, Phase};
use crate::downstream::{Caller, Downstream, Queued, ReplyMode};
use crate::ids::SessionId;
use crate::resp::{self, Parsed, ProtocolError, RequestFrame, RequestParser};
use crate::time::Instant;

/// A parked client that has sent this many bytes ahead is asked to wait.
const READ_AHEAD: usize = 1024 * 1024;

/// A buffer with room for more bytes gives back what it does not need.
const KEPT_CAPACITY: usize = 2 * READ_AHEAD;

/// What is to be done with bytes that have come.
#[derive(Debug)]
pub(crate) enum Unread {
    /// They are to be read as they are; what is left of them goes to [`Downstream::keep`].
    AsTheyCame,
    /// They are behind others, and all of them are to be read; then [`Downstream::put_back`].
    Kept(Vec<u8>),
    /// They wait.
    Nothing,
    /// The client has gone or is being closed: they are dropped.
    Dropped,
}

/// Finds a client's commands. It is taken out of the client while that goes on, and boxed, so that
/// this moves a pointer.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    parser: RequestParser,
    /// The row of the last command, if its name alone leads there.
    last: Option<&'static CommandSpec>,
    /// What the client may send.
    limits: resp::Limits,
    /// Some of the bytes have waited.
    has_waited: bool,
}

impl Reader {
    /// Reads the next command from `rest`.
    #[inline]
    pub(crate) fn parse(&mut self, rest: &[u8]) -> Result<Parsed, ProtocolError> {
        self.parser.parse(rest, &self.limits)
    }

    /// The command that has been read, and its row.
    #[inline]
    pub(crate) fn command<'a>(&'a mut self, rest: &'a [u8]) -> (RequestFrame<'a>, Lookup) {
        let frame = self.parser.frame(rest);
        let lookup = match self.last.filter(|_| self.parser.repeats()) {
            Some(spec) => Lookup::Known(spec),
            None => {
                let lookup = command::lookup(&frame);
                self.last = lookup.by_name();
                lookup
            }
        };
        (frame, lookup)
    }

    /// Whether the last error was about what the client goes on to send.
    pub(crate) fn exceeds_limit(&self) -> bool {
        self.parser.exceeds_limit()
    }

    /// Whether some of the bytes have waited for commands before them.
    #[inline]
    pub(crate) fn has_waited(&self) -> bool {
        self.has_waited
    }
}

impl Input {
    /// Adds to an unfinished command.
    fn append(&mut self, data: &[u8]) {
        self.reserve(data.len());
        self.bytes.extend_from_slice(data);
    }

    /// Makes room for more of an unfinished command. It takes no more room than has been announced,
    /// and at most twice what has come.
    fn reserve(&mut self, more: usize) {
        let len = self.bytes.len().saturating_add(more);
        let announced = self.reader.as_ref().map_or(0, |reader| reader.parser.announced());
        if len > self.bytes.capacity() && len < announced {
            let room = announced.min(self.bytes.len().saturating_mul(2)).max(len);
            self.bytes.reserve_exact(room - self.bytes.len());
        }
    }

    /// Counts what it takes.
    fn count(&mut self, budget: &mut ByteBudget) {
        let unfinished = self.reader.as_ref().filter(|_| !self.bytes.is_empty());
        let cost = unfinished.map_or(0, |reader| reader.parser.cost_of_args());
        let now = self.bytes.len() + cost;
        budget.replace(self.counted, now);
        self.counted = now;
    }
}

impl Downstream {
    /// A client has sent bytes.
    #[inline]
    pub(crate) fn receive(&mut self, id: SessionId, data: &[u8]) -> Unread {
        self.stats.count().downstream_cx_rx_bytes_total += data.len() as u64;
        let Some(client) = self.clients.get_mut(id) else { return Unread::Dropped };
        match client.phase {
            Phase::Closing => {
                self.note_dropped(id);
                Unread::Dropped
            }
            Phase::Reading if client.input.bytes.is_empty() => Unread::AsTheyCame,
            Phase::Reading => {
                client.input.append(data);
                Unread::Kept(std::mem::take(&mut client.input.bytes))
            }
            Phase::Parked => {
                client.input.bytes.extend_from_slice(data);
                Unread::Nothing
            }
        }
    }

    /// The beginning of a client's unfinished command, with room for `more` bytes of it, if it has
    /// come to so many that they are not to be copied. [`Self::receive_rest`] takes it back.
    pub(crate) fn take_unfinished(
        &mut self,
        id: SessionId,
        more: usize,
        least: usize,
    ) -> Option<Vec<u8>> {
        let client = self.clients.get_mut(id)?;
        if client.input.bytes.len() < least.max(1) || client.phase != Phase::Reading {
            return None;
        }
        client.input.reserve(more);
        Some(std::mem::take(&mut client.input.bytes))
    }

    /// More of an unfinished command has come. It begins in `bytes` at `rest_at`.
    pub(crate) fn receive_rest(&mut self, id: SessionId, bytes: Vec<u8>, rest_at: usize) -> Unread {
        let rest = bytes.len().saturating_sub(rest_at);
        self.stats.count().downstream_cx_rx_bytes_total += rest as u64;
        match self.clients.get(id).map(|client| client.phase) {
            Some(Phase::Reading) => Unread::Kept(bytes),
            // It has not been read since.
            _ => Unread::Dropped,
        }
    }

    /// Begins to read commands; `None`: the client has gone.
    #[inline]
    pub(crate) fn start_reading(&mut self, id: SessionId) -> Option<Box<Reader>> {
        let client = self.clients.get_mut(id)?;
        let mut reader = client.input.reader.take().unwrap_or_default();
        reader.limits = limits_of(client.authenticated, &self.frame_limits);
        reader.has_waited = !client.input.arrivals.is_empty();
        Some(reader)
    }

    /// Who the client is may be known now, and with it what it may send.
    pub(crate) fn renew_limits(&self, id: SessionId, reader: &mut Reader) {
        let client = self.clients.get(id);
        let authenticated = client.is_some_and(|client| client.authenticated);
        reader.limits = limits_of(authenticated, &self.frame_limits);
    }

    /// Ends reading; so many bytes have been taken.
    #[inline]
    pub(crate) fn end_reading(&mut self, id: SessionId, mut reader: Box<Reader>, read: usize) {
        let Some(client) = self.clients.get_mut(id) else { return };
        reader.parser.shrink();
        if reader.has_waited {
            client.input.arrived = None;
            client.input.arrivals.take(read);
        }
        client.input.reader = Some(reader);
    }

    /// The command that is being read ends `read` bytes from the beginning of those that have
    /// waited.
    pub(crate) fn note_arrival(&mut self, id: SessionId, read: usize) {
        if let Some(client) = self.clients.get_mut(id) {
            client.input.arrived = client.input.arrivals.of(read);
        }
    }

    /// Keeps what has not been read of bytes that have just come.
    pub(crate) fn keep(&mut self, id: SessionId, rest: &[u8]) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if !rest.is_empty() && !client.is_closing() {
            client.input.bytes = self.buffers.take();
            client.input.bytes.extend_from_slice(rest);
        }
    }

    /// The same for all of a buffer, without a copy.
    pub(crate) fn keep_buffer(&mut self, id: SessionId, buffer: &mut Vec<u8>) {
        if let Some(client) = self.clients.get_mut(id)
            && !client.is_closing()
        {
            client.input.bytes = std::mem::take(buffer);
            buffers::fit(&mut client.input.bytes);
        }
    }

    /// Keeps what has not been read of bytes that were kept before.
    pub(crate) fn put_back(&mut self, id: SessionId, mut bytes: Vec<u8>, read: usize) {
        match self.clients.get_mut(id) {
            Some(client) if read < bytes.len() && !client.is_closing() => {
                bytes.drain(..read);
                if read > 0 && bytes.capacity() > KEPT_CAPACITY {
                    // What a large command took does not stay with what is behind it.
                    bytes.shrink_to(bytes.len().saturating_mul(2));
                }
                client.input.bytes = bytes;
            }
            _ => self.buffers.recycle(bytes),
        }
    }

    /// Keeps the count of bytes that wait, and account of when they came. If all clients' are too
    /// many, those of the client that has most give way: see [`Self::crowd_out`].
    pub(crate) fn count_input(&mut self, id: SessionId, now: Instant) -> Option<SessionId> {
        let client = self.clients.get_mut(id)?;
        let is_parked = client.phase == Phase::Parked;
        let input = &mut client.input;
        if is_parked {
            input.arrivals.note(input.bytes.len(), self.op_timeout, now);
        } else if !input.arrivals.is_empty() {
            input.arrivals.clear();
        }
        input.count(&mut self.input);
        if !self.input.is_exceeded() || input.bytes.is_empty() {
            return None;
        }
        let open = self.clients.iter().filter(|(_, client)| !client.is_closing());
        let (_, most) = open.map(|(id, client)| (client.input.counted, id)).max()?;
        self.crowd_out(most)
    }

    /// An unfinished command is not kept any more, and refused when its end has come. If the client
    /// has sent whole commands ahead instead, they are dropped, and it is returned: it is to be
    /// closed.
    fn crowd_out(&mut self, id: SessionId) -> Option<SessionId> {
        let client = self.clients.get_mut(id)?;
        let is_parked = client.phase == Phase::Parked;
        let input = &mut client.input;
        self.stats.count().downstream_cx_input_overflow += 1;
        let len = input.bytes.len();
        let skip = |reader: &mut Box<Reader>| reader.parser.skip(len);
        if !is_parked && let Some(useless) = input.reader.as_mut().and_then(skip) {
            input.bytes = input.bytes.split_off(useless);
            input.is_crowded_out = true;
            input.count(&mut self.input);
            return None;
        }
        self.input.give_back(std::mem::take(&mut input.counted));
        input.bytes = Vec::new();
        Some(id)
    }

    /// Why a command was not kept whose end has come.
    pub(crate) fn take_refusal(&mut self, id: SessionId) -> String {
        let client = self.clients.get_mut(id);
        if client.is_some_and(|client| std::mem::take(&mut client.input.is_crowded_out)) {
            let bound = self.input.limit();
            return format!(
                "ERR too many bytes of unfinished commands wait in this proxy: it keeps {bound} of \
                 all its clients; send this one again later"
            );
        }
        let bound = self.frame_limits.max_command_bytes;
        format!(
            "ERR the command is too large for this proxy: it takes {bound} bytes, where each \
             argument counts for 32 more"
        )
    }

    /// Asks a client to send no more for now if it has sent far ahead.
    pub(crate) fn pause_if_ahead(&mut self, id: SessionId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        let is_ahead = client.phase == Phase::Parked && client.input.bytes.len() >= READ_AHEAD;
        if is_ahead && !client.input.paused {
            client.input.paused = true;
            self.outputs.push_back(Queued::Pause(id));
        }
    }

    /// Lets a client send again if not much of what it has sent waits.
    pub(crate) fn resume_if_read(&mut self, id: SessionId) {
        let Some(client) = self.clients.get_mut(id) else { return };
        if client.input.paused && client.input.bytes.len() < READ_AHEAD {
            client.input.paused = false;
            self.outputs.push_back(Queued::Resume(id));
            // What was kept back while the client could not be read.
            self.queue_write(id);
        }
    }

    /// Lets the client's commands wait until those before them are answered.
    pub(crate) fn park(&mut self, id: SessionId) {
        if let Some(client) = self.clients.get_mut(id)
            && client.phase == Phase::Reading
        {
            client.phase = Phase::Parked;
        }
    }

    /// Whether a parked client may read on.
    #[inline]
    pub(crate) fn has_resumable(&self) -> bool {
        !self.resumable.is_empty()
    }

    /// A parked client whose commands have been answered.
    pub(crate) fn pop_resumable(&mut self) -> Option<SessionId> {
        self.resumable.pop_front()
    }

    /// A parked client reads on: returns what waits. `renew` says that no time has run for it.
    pub(crate) fn resume(&mut self, id: SessionId, renew: bool, now: Instant) -> Option<Vec<u8>> {
        let client = self.clients.get_mut(id)?;
        if client.phase == Phase::Parked {
            client.phase = Phase::Reading;
        }
        if renew {
            client.input.arrivals.renew(now);
        }
        let is_closing = client.is_closing();
        let bytes = &mut client.input.bytes;
        (!bytes.is_empty() && !is_closing).then(|| std::mem::take(bytes))
    }

    /// A command has been read and is about to be executed; `None`: its client has gone.
    #[inline]
    pub(crate) fn begin_command(
        &mut self,
        id: SessionId,
        name: &'static str,
        now: Instant,
    ) -> Option<Caller> {
        self.stats.count().downstream_rq_total += 1;
        let client = self.clients.get_mut(id)?;
        client.profile.command = name;
        client.profile.active = now;
        client.silent = client.reply_mode != ReplyMode::On;
        if client.reply_mode == ReplyMode::SkipNext {
            client.reply_mode = ReplyMode::On;
        }
        Some(Caller::of(id, client))
    }

    /// The client as the last command has found it.
    pub(crate) fn caller(&self, id: SessionId) -> Option<Caller> {
        self.clients.get(id).map(|client| Caller::of(id, client))
    }
}

/// What a client may send: little before it has said who it is.
#[inline]
fn limits_of(authenticated: bool, limits: &resp::Limits) -> resp::Limits {
    match authenticated {
        true => *limits,
        false => resp::Limits { max_array_len: 10, max_bulk_len: 16 * 1024, ..*limits },
    }
}
