//! How a command becomes a request.

use std::time::Duration;

use crate::command::{CommandSpec, Flags, Support};
use crate::downstream::{Caller, Modes};
use crate::exchange::Exchange;
use crate::flight::{Completion, ConnectionClass, Owner, Request, State};
use crate::ids::{ClusterId, RequestId};
use crate::resp::{Protocol, RequestFrame};
use crate::scripts::Digest;

/// A client's command, looked up in the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Command<'a> {
    pub(crate) spec: &'static CommandSpec,
    /// As it is to be sent.
    pub(crate) frame: RequestFrame<'a>,
    /// Bytes that it took in the client's stream.
    pub(crate) len: usize,
    /// For how long a fault holds its reply back.
    pub(crate) delay: Option<Duration>,
    /// The script that it runs, if that is known.
    pub(crate) script: Option<&'a Digest>,
}

impl<'a> Command<'a> {
    #[inline]
    pub(crate) fn new(spec: &'static CommandSpec, frame: RequestFrame<'a>, len: usize) -> Self {
        Self { spec, frame, len, delay: None, script: None }
    }

    /// One that is sent as these bytes, whose arguments nobody looks at.
    pub(crate) fn of_bytes(spec: &'static CommandSpec, bytes: &'a [u8]) -> Self {
        Self::new(spec, RequestFrame::new(bytes, &[]), bytes.len())
    }
}

impl Exchange {
    /// Gives a client's command its deadline and its place among the replies; `None` if the client
    /// has gone.
    #[inline]
    pub(crate) fn begin(
        &mut self,
        caller: &Caller,
        command: &Command<'_>,
        state: State,
        completion: Completion,
    ) -> Option<RequestId> {
        let traits = Traits::of(caller, command.spec, &state, &completion);
        let owner = Owner::Client(caller.id);
        let mut request = Request::new(owner, caller.protocol, command.len, state, completion);
        (request.read_only, request.class) = (traits.read_only, traits.class);
        request.identity = caller.identity;
        request.silent = caller.silent;
        if command.delay.is_some() || command.script.is_some() || caller.caching.is_some() {
            let rare = request.rare_mut();
            rare.delay = command.delay;
            rare.script = command.script.copied();
            rare.caching = caller.caching;
        }
        request.tally = Some(self.downstream.stats_mut().begin(command.spec));
        let deadline = caller.arrived.unwrap_or(self.now) + self.config.op_timeout;
        let id = self.flight.begin(request, deadline, self.upstream.epoch())?;
        if traits.is_barrier {
            self.flight.set_barrier(caller.id);
        }
        Some(id)
    }

    /// Gives a command that the proxy answers itself, but not yet, its place among the replies. It
    /// is not counted by its name.
    pub(crate) fn begin_own(
        &mut self,
        caller: &Caller,
        len: usize,
        cluster: ClusterId,
    ) -> Option<RequestId> {
        let (owner, state) = (Owner::Client(caller.id), State::Own(cluster));
        let mut request = Request::new(owner, caller.protocol, len, state, Completion::Deliver);
        request.silent = caller.silent;
        let deadline = self.now + self.config.op_timeout;
        let id = self.flight.begin(request, deadline, self.upstream.epoch())?;
        self.flight.set_barrier(caller.id);
        Some(id)
    }

    /// The same for a copy of a command, for a mirror.
    pub(crate) fn begin_copy(
        &mut self,
        mirror: ClusterId,
        command: &Command<'_>,
        state: State,
        completion: Completion,
    ) -> Option<RequestId> {
        let owner = Owner::Mirror(mirror);
        let mut request = Request::new(owner, Protocol::Resp2, command.len, state, completion);
        request.read_only = command.spec.is_read();
        if command.spec.flags.contains(Flags::ALLOW_BUSY) {
            request.class = ConnectionClass::Urgent;
        }
        if let Some(script) = command.script {
            request.rare_mut().script = Some(*script);
        }
        request.tally = Some(self.downstream.stats_mut().tally(command.spec));
        self.mirrors.take(mirror, command.len);
        self.flight.begin(request, self.now + self.config.op_timeout, self.upstream.epoch())
    }
}

/// How a client's command is treated.
struct Traits {
    /// May be sent again when its reply was lost.
    read_only: bool,
    /// On which connections it travels.
    class: ConnectionClass,
    /// No command may follow until it has been answered.
    is_barrier: bool,
}

impl Traits {
    #[inline]
    fn of(caller: &Caller, spec: &CommandSpec, state: &State, completion: &Completion) -> Self {
        use ConnectionClass::{Dedicated, Shared, Tracked, Urgent};

        let shared = if spec.flags.contains(Flags::ALLOW_BUSY) { Urgent } else { Shared };
        let own = |class| if caller.modes.has(Modes::TRACKED) { Tracked } else { class };
        let has_identity = caller.identity.is_some();
        let (read_only, class, is_barrier) = match completion {
            Completion::Deliver | Completion::Publish { .. } | Completion::Scan(_) => {
                let is_barrier = matches!(state, State::Unplanned(..))
                    || matches!(spec.support, Support::Subscribe(_));
                (spec.is_read(), own(shared), is_barrier)
            }
            Completion::Exec(exec) => {
                let class = if has_identity { Dedicated } else { shared };
                let is_barrier = has_identity || exec.watched_by.is_some();
                (exec.target.read_only, own(class), is_barrier)
            }
            Completion::Block(_) => (spec.is_read(), own(Dedicated), true),
            // To say these twice does no harm.
            Completion::Watch => (true, own(Dedicated), true),
            Completion::StartTracking => (true, own(shared), true),
            // It asks for somebody who the client is not yet.
            Completion::Claim => (true, shared, true),
        };
        Self { read_only, class, is_barrier }
    }
}
