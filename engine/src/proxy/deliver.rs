//! From replies to the client's bytes, in the order of its commands.

use super::Proxy;
use crate::output::{LogLevel, Queued};
use crate::request::{Owner, Request, RequestId, State, SubRequestId, Way};
use crate::resp::{Protocol, encode};
use crate::session::{Session, SessionId};

/// What an error says beside its cause if a part of the command that gets it may have changed
/// something: whoever tries again does that twice.
const IN_PART: &[u8] = b"; it may have been executed in part";

/// While a client is paused its replies are kept back, because writing to it means reading what it
/// has sent; but not more of them than this.
const KEPT_BACK: usize = 1024 * 1024;

impl Proxy {
    /// Answers a command that needs no node; the reply keeps its place among the others.
    pub(super) fn answer(&mut self, id: SessionId, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(captured) = &mut self.captured {
            return write(captured);
        }
        let Some(session) = self.sessions.get_mut(id).filter(|session| !session.silent) else {
            return;
        };
        if session.pending.is_empty() {
            write(session.output(&mut self.buffers));
            self.queue_write_downstream(id);
        } else {
            let mut reply = self.buffers.take();
            write(&mut reply);
            let owner = Owner::Session(id);
            let request = Request::new(owner, session.protocol, 0, State::Answered(reply));
            let request = self.requests.insert_answered(request);
            session.note_pending(request, 0);
            self.bound_replies();
        }
    }

    /// Tells a client what is no reply, and must not get into the middle of one.
    pub(super) fn notify(&mut self, id: SessionId, write: impl FnOnce(&mut Vec<u8>, Protocol)) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| !session.closing) else {
            return;
        };
        let protocol = session.protocol;
        let Some(news) = &mut session.news else {
            write(session.output(&mut self.buffers), protocol);
            return self.queue_write_downstream(id);
        };
        write(news, protocol);
        if news.len() > self.config.limits.session_bytes {
            // It must not miss any of it, and takes none.
            self.kill(id);
        }
    }

    /// Takes a node's reply to a sub-request; the client gets it, or what it makes with the others.
    pub(super) fn take_reply(&mut self, sub_request: SubRequestId, reply: &[u8]) {
        self.fail_overtaken(sub_request);
        self.hand_in(sub_request, reply);
    }

    /// Takes what the client gets for a sub-request; a node need not have executed it.
    pub(super) fn hand_in(&mut self, sub_request: SubRequestId, reply: &[u8]) {
        let id = sub_request.request;
        if let Some(count) = self.count_receivers(id, reply) {
            let mut counted = self.buffers.take();
            encode::integer(&mut counted, count);
            self.deliver(id, &counted);
            return self.buffers.recycle(counted);
        }
        let Some(request) = self.requests.waiting(id) else { return };
        if let Some(exec) = request.known_extra().and_then(|extra| extra.exec.take()) {
            let mut merged = self.buffers.take();
            exec.write_reply(reply, &mut merged);
            self.deliver(id, &merged);
            return self.buffers.recycle(merged);
        }
        if let Some(step) = request.extra().step {
            let mut next = self.buffers.take();
            step.write_reply(reply, &mut next);
            self.deliver(id, &next);
            return self.buffers.recycle(next);
        }
        match request.state {
            State::Split(_) => self.take_part(sub_request, reply),
            _ => self.deliver(id, reply),
        }
    }

    /// Takes the reply to a part of a split command; when it is the last, the client gets the whole.
    pub(super) fn take_part(&mut self, sub_request: SubRequestId, reply: &[u8]) {
        let whole = self.requests.absorb(sub_request, reply);
        let Some(Request { state: State::Split(split), read_only, .. }) = whole else {
            return self.bound_replies();
        };
        let mut merged = self.buffers.take();
        split.write_reply(&mut merged);
        if split.is_executed() && !*read_only {
            encode::extend_error(&mut merged, IN_PART);
        }
        self.deliver(sub_request.request, &merged);
        self.buffers.recycle(merged);
    }

    /// Answers a sub-request with an error of the proxy's own, though it may have been executed.
    pub(super) fn take_error(&mut self, sub_request: SubRequestId, text: &str) {
        self.fail_overtaken(sub_request);
        let request = self.requests.waiting(sub_request.request);
        if let Some(State::Split(split)) = request.map(|request| &mut request.state) {
            split.note_executed();
        }
        self.fail(sub_request, text);
    }

    /// Answers a sub-request that has not been executed with an error of the proxy's own; `text`
    /// starts with a code.
    pub(super) fn fail(&mut self, sub_request: SubRequestId, text: &str) {
        let mut error = self.buffers.take();
        encode::error(&mut error, text.as_bytes());
        self.hand_in(sub_request, &error);
        self.buffers.recycle(error);
    }

    /// The request's time is up.
    pub(super) fn expire(&mut self, id: RequestId) {
        let Some(request) = self.requests.get(id) else { return };
        for cluster in request.clusters() {
            self.stats.upstream(cluster).upstream_rq_timeout += 1;
        }
        if let Owner::Mirror(cluster) = request.owner {
            self.stats.upstream(cluster).mirror_timeout += 1;
            return self.deliver(id, b"");
        }
        self.stats.downstream().downstream_rq_timeout += 1;
        let mut error = self.buffers.take();
        if let Some(request) = self.requests.get(id) {
            self.write_timeout(request, &mut error);
            if let (Owner::Session(session), true) = (request.owner, request.way != Way::Shared) {
                self.abandon_dedicated(session);
            }
        }
        self.abandon_subscribe(id);
        self.deliver(id, &error);
        self.buffers.recycle(error);
    }

    /// Says why there was no reply in time, as well as that is known.
    fn write_timeout(&self, request: &Request, out: &mut Vec<u8>) {
        let unknown = !request.read_only && request.may_be_executed();
        let mut clusters = request.clusters().filter_map(|index| self.clusters.get(index));
        if let Some(cluster) = clusters.find(|cluster| !cluster.is_known()) {
            let (name, reasons) = (&cluster.config.name, cluster.refresh.reasons());
            let text = match cluster.refresh.is_denied() {
                true => format!("NOAUTH cluster '{name}' refused the proxy: {reasons}"),
                false => format!("CLUSTERDOWN no node of cluster '{name}' answers: {reasons}"),
            };
            encode::error(out, text.as_bytes());
        } else if request.is_held() && !request.extra().refusal.is_empty() {
            encode::error(out, &request.extra().refusal);
        } else {
            let timeout = self.config.op_timeout;
            let more = match unknown {
                true => "; it may have been executed",
                false if request.is_unsent() => ": it has waited for those before it",
                false => "",
            };
            let text = format!("TIMEOUT no reply to the command within {timeout:?}{more}");
            return encode::error(out, text.as_bytes());
        }
        if unknown {
            encode::extend_error(out, IN_PART);
        }
    }

    /// Hands the whole reply of a request over: at once if it is its turn, else when it is, or
    /// after a made-up delay.
    pub(super) fn deliver(&mut self, id: RequestId, reply: &[u8]) {
        let Some(request) = self.requests.waiting(id) else { return };
        if let Some(claim) = request.known_extra().and_then(|extra| extra.claim.take()) {
            return self.conclude_claim(id, claim, reply);
        }
        if matches!(request.way, Way::Track) {
            return self.conclude_track(id, reply);
        }
        match request.known_extra().and_then(|extra| extra.delay.take()) {
            Some(delay) => self.delay(id, reply, self.now + delay),
            None => self.hand_over(id, reply),
        }
    }

    /// Hands a reply over that nothing holds back any more.
    pub(super) fn hand_over(&mut self, id: RequestId, reply: &[u8]) {
        let Some(request) = self.requests.get_mut(id) else { return };
        let session_id = match request.owner {
            Owner::Session(session) => session,
            Owner::Mirror(cluster) => return self.forget_copy(id, cluster, reply),
        };
        self.stats.finish(request.tally, reply);
        let reply = if request.silent { b"" } else { reply };
        let Some(session) = self.sessions.get_mut(session_id) else {
            self.requests.remove(id);
            return;
        };
        if session.pending.front() != Some(&id) {
            let mut kept = self.buffers.take();
            kept.extend_from_slice(reply);
            self.requests.set_answered(id, kept);
            return self.bound_replies();
        }
        session.output(&mut self.buffers).extend_from_slice(reply);
        session.pending.pop_front();
        if let Some(request) = self.requests.remove(id) {
            session.note_answered(&request);
        }
        self.deliver_kept(session_id);
        self.queue_replies(session_id);
    }

    /// Has what a client gets written: at once if nothing else is owed to it, else with what else this
    /// event brings for it, and the events at hand.
    fn queue_replies(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.pending.is_empty() {
            self.queue_write_downstream(id);
        } else if !session.corked {
            session.corked = true;
            self.partly_answered.push(id);
        }
    }

    /// Ends an event: clients that have been answered all by now are written to already, others wait for
    /// the replies that are at hand, perhaps from other nodes.
    pub(super) fn cork_clients(&mut self) {
        while let Some(id) = self.partly_answered.pop() {
            let Some(session) = self.sessions.get_mut(id) else { continue };
            session.corked = !session.pending.is_empty() && !session.output.is_empty();
            if session.corked {
                self.flush_soon();
                self.corked_clients.push(id);
            }
        }
    }

    /// A mirror has answered, or never will: nobody wants to know but the counters.
    fn forget_copy(&mut self, id: RequestId, cluster: usize, reply: &[u8]) {
        self.stats.upstream(cluster).mirror_error += u64::from(reply.first() == Some(&b'-'));
        let Some(request) = self.requests.remove(id) else { return };
        if let Some(bytes) = self.mirror_bytes.get_mut(cluster) {
            *bytes = bytes.saturating_sub(request.len);
        }
    }

    /// Hands over the replies whose turn has come because the one before them has gone.
    fn deliver_kept(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        while let Some(next) = session.pending.front().copied() {
            let answered = |request: &Request| matches!(request.state, State::Answered(_));
            if !self.requests.get(next).is_some_and(answered) {
                return;
            }
            session.pending.pop_front();
            let Some(request) = self.requests.remove(next) else { continue };
            session.note_answered(&request);
            if let State::Answered(reply) = request.state {
                session.output(&mut self.buffers).extend_from_slice(&reply);
                self.buffers.recycle(reply);
            }
        }
        if session.closing {
            self.queue_write_downstream(id);
            self.outputs.push_back(Queued::CloseDownstream(id));
        } else if session.parked {
            self.resumable.push_back(id);
        }
    }

    /// While too many bytes of replies wait, closes the client that has most of them. Nothing else would
    /// do: they have been executed, and their client cannot be told so before its turn comes.
    pub(super) fn bound_replies(&mut self) {
        while self.requests.reply_bytes() > self.config.limits.waiting_reply_bytes {
            if self.close_greediest().is_none() {
                return;
            }
        }
    }

    #[cold]
    fn close_greediest(&mut self) -> Option<()> {
        let kept = |session: &Session| -> usize {
            let requests = session.pending.iter().filter_map(|id| self.requests.get(*id));
            requests.map(Request::reply_bytes).sum()
        };
        let sessions = self.sessions.iter().map(|(id, session)| (kept(session), id));
        let (bytes, greediest) = sessions.max().filter(|(bytes, _)| *bytes > 0)?;
        self.stats.downstream().downstream_cx_reply_overflow += 1;
        let text = format!("closing a client: {bytes} bytes of its replies wait for others");
        self.log(LogLevel::Warn, text);
        self.kill(greediest);
        Some(())
    }

    /// Reads nothing more from the client and closes it once it has all its replies.
    pub(super) fn close_after_replies(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.closing = true;
        if session.pending.is_empty() {
            self.outputs.push_back(Queued::CloseDownstream(id));
        }
    }

    pub(super) fn queue_write_downstream(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let kept_back = session.paused && !session.closing && session.output.len() < KEPT_BACK;
        if !session.write_queued && !session.output.is_empty() && !kept_back {
            session.write_queued = true;
            self.outputs.push_back(Queued::WriteDownstream(id));
        }
    }
}
