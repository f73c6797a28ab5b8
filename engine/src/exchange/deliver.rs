//! From replies to the client's bytes, in the order of its commands.

use crate::downstream::Caller;
use crate::errors::ErrorText;
use crate::exchange::{Event, Exchange};
use crate::flight::{Completion, Owner, Request, State, Turn};
use crate::ids::{ClusterId, PartId, RequestId, SessionId};
use crate::output::LogLevel;
use crate::resp::{Protocol, Reply, encode};
use crate::sort::sort_by_key;
use crate::time::Instant;

/// What an error says beside its cause if a part of the command that gets it may have changed
/// something: whoever tries again does that twice.
const IN_PART: &[u8] = b"; it may have been executed in part";

/// A reply that is held back.
#[derive(Debug)]
pub(super) struct Delayed {
    pub(super) until: Instant,
    request: RequestId,
    reply: Vec<u8>,
}

impl Exchange {
    // The proxy's own answers.

    /// Answers a command that needs no node; the reply keeps its place among the others.
    pub(crate) fn answer(&mut self, id: SessionId, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(captured) = &mut self.captured {
            return write(captured);
        }
        if self.downstream.is_silent(id) {
            return;
        }
        if self.flight.is_idle(id) {
            if let Some(output) = self.downstream.output(id) {
                write(output);
            }
            return self.downstream.queue_write(id);
        }
        let mut reply = self.buffers.take();
        write(&mut reply);
        self.queue_answer(id, reply);
    }

    /// Answers with an error of the proxy's own; `text` starts with a code.
    pub(crate) fn answer_error(&mut self, id: SessionId, text: &str) {
        self.answer(id, |out| encode::error(out, text.as_bytes()));
    }

    /// The same for a command that is counted by its name.
    pub(crate) fn answer_failure(
        &mut self,
        caller: &Caller,
        command: &super::Command<'_>,
        text: &str,
    ) {
        self.downstream.stats_mut().fail(command.spec);
        self.answer_error(caller.id, text);
    }

    /// Answers OK, or with the error.
    pub(crate) fn answer_result(&mut self, id: SessionId, result: Result<(), ErrorText>) {
        self.answer(id, |out| match result {
            Ok(()) => encode::simple(out, b"OK"),
            Err(text) => encode::error(out, text.as_bytes()),
        });
    }

    /// Gives a client these bytes behind the replies to all that it has sent.
    pub(crate) fn queue_answer(&mut self, id: SessionId, reply: Vec<u8>) {
        let owner = Owner::Client(id);
        let request =
            Request::new(owner, Protocol::Resp2, 0, State::Answered(reply), Completion::Deliver);
        self.flight.begin_answered(request, self.upstream.epoch());
        self.bound_replies();
    }

    /// Tells a client what is no reply, and must not get into the middle of one.
    pub(crate) fn notify(&mut self, id: SessionId, write: impl FnOnce(&mut Vec<u8>, Protocol)) {
        if !self.downstream.notify(id, write) {
            // It must not miss any of it, and takes none.
            self.kill(id);
        }
    }

    // Replies of nodes.

    /// Takes what the client gets for a part; a node need not have executed it.
    pub(super) fn hand_in(&mut self, id: PartId, reply: &[u8]) {
        let Some(request) = self.flight.waiting(id.request) else { return };
        if let State::Split(_) = request.state {
            return self.take_part(id, reply);
        }
        let mut made = self.buffers.take();
        match &request.completion {
            Completion::Publish { more_receivers } => match Reply::new(reply).integer() {
                Some(count) => {
                    encode::integer(&mut made, count.saturating_add(*more_receivers).max(0));
                }
                None => made.extend_from_slice(reply),
            },
            Completion::Scan(step) => step.write_reply(reply, &mut made),
            Completion::Exec(exec) => exec.write_reply(reply, &mut made),
            Completion::Deliver
            | Completion::Watch
            | Completion::Block(_)
            | Completion::Claim
            | Completion::StartTracking => {
                self.buffers.recycle(made);
                return self.deliver(id.request, reply);
            }
        }
        self.deliver(id.request, &made);
        self.buffers.recycle(made);
    }

    /// Takes the reply to a part of a split command; when it is the last, the client gets the
    /// whole.
    #[inline]
    pub(super) fn take_part(&mut self, id: PartId, reply: &[u8]) {
        let whole = self.flight.absorb(id, reply);
        let Some(Request { state: State::Split(split), read_only, .. }) = whole else {
            return self.bound_replies();
        };
        let mut merged = self.buffers.take();
        split.write_reply(&mut merged);
        if split.is_executed() && !*read_only {
            encode::extend_error(&mut merged, IN_PART);
        }
        self.deliver(id.request, &merged);
        self.buffers.recycle(merged);
    }

    /// Answers a part with an error of the proxy's own, though it may have been executed.
    pub(super) fn fail_executed(&mut self, id: PartId, text: &str) {
        self.fail_overtaken(id);
        self.flight.note_executed(id.request);
        self.fail(id, text);
    }

    /// Answers a part that has not been executed with an error of the proxy's own; `text` starts
    /// with a code.
    pub(super) fn fail(&mut self, id: PartId, text: &str) {
        let mut error = self.buffers.take();
        encode::error(&mut error, text.as_bytes());
        self.hand_in(id, &error);
        self.buffers.recycle(error);
    }

    /// Answers parts that a node, or the way to it, refuses.
    pub(crate) fn refuse(&mut self, parts: &[PartId], reply: &[u8]) {
        for part in parts {
            self.hand_in(*part, reply);
        }
    }

    /// Hands the whole reply of a request over: at once if it is its turn, else when it is, or
    /// after an injected delay.
    pub(crate) fn deliver(&mut self, id: RequestId, reply: &[u8]) {
        let Some(request) = self.flight.waiting(id) else { return };
        match request.completion {
            Completion::Claim => {
                return self.tell_feature(id, Event::Claimed(id, reply.to_vec()));
            }
            Completion::StartTracking => {
                return self.tell_feature(id, Event::TrackingStarted(id, reply.to_vec()));
            }
            _ => {}
        }
        match self.flight.take_delay(id) {
            Some(delay) => self.delay(id, reply, self.now + delay),
            None => self.hand_over(id, reply),
        }
    }

    /// A feature decides what the client gets, and delivers it. Meanwhile the request's time does
    /// not run out.
    fn tell_feature(&mut self, id: RequestId, event: Event) {
        self.flight.take_completion(id);
        self.flight.suspend(id);
        self.events.push_back(event);
    }

    /// Hands a reply over that nothing holds back any more.
    #[inline]
    pub(super) fn hand_over(&mut self, id: RequestId, reply: &[u8]) {
        let Some(request) = self.flight.get(id) else { return };
        let client = match request.owner {
            Owner::Client(client) => client,
            Owner::Mirror(mirror) => return self.forget_copy(id, mirror, reply),
        };
        let in_time = !request.is_overdue(self.now);
        self.downstream.stats_mut().finish(request.tally, reply);
        let reply = if request.silent { b"" } else { reply };
        let turn = self.flight.pop_first(client, id, reply.len());
        if turn == Turn::Later {
            return self.keep_reply(id, reply);
        }
        self.downstream.append(client, reply);
        self.deliver_next(client, turn, in_time);
    }

    /// Hands over the replies whose turn has come because the one before them has gone.
    #[inline]
    fn deliver_next(&mut self, client: SessionId, mut turn: Turn, in_time: bool) {
        while turn == Turn::NextAnswered
            && let Some((reply, next)) = self.flight.pop_answered(client)
        {
            if let Some(output) = self.downstream.output(client) {
                output.extend_from_slice(&reply);
            }
            self.buffers.recycle(reply);
            turn = next;
        }
        let is_owed_more = turn != Turn::Last;
        if is_owed_more && self.flight.window_opens(client, in_time) {
            self.downstream.note_window(client);
        }
        self.downstream.end_replies(client, is_owed_more, self.now);
    }

    /// Keeps a reply until its turn comes.
    fn keep_reply(&mut self, id: RequestId, reply: &[u8]) {
        let mut kept = self.buffers.take();
        kept.extend_from_slice(reply);
        self.flight.set_answered(id, kept);
        self.bound_replies();
    }

    /// A mirror has answered, or never will: nobody wants to know but the counters.
    fn forget_copy(&mut self, id: RequestId, mirror: ClusterId, reply: &[u8]) {
        self.upstream.count(mirror).mirror_error += u64::from(reply.first() == Some(&b'-'));
        if let Some(request) = self.flight.remove(id) {
            self.mirrors.give_back(mirror, request.len);
        }
    }

    // Delays.

    /// Hands a request's reply over at `until`; its time cannot be up before.
    pub(crate) fn delay(&mut self, request: RequestId, reply: &[u8], until: Instant) {
        if let Some(client) = self.flight.get(request).and_then(Request::client) {
            self.flight.set_untimed(client);
        }
        self.flight.set_delayed(request);
        self.delayed.push(Delayed { until, request, reply: reply.to_vec() });
    }

    /// Hands over the replies that have been held back long enough, those first that are due first.
    pub(super) fn release_delayed(&mut self) {
        let now = self.now;
        sort_by_key(&mut self.delayed, |delayed| delayed.until);
        let due = self.delayed.partition_point(|delayed| delayed.until <= now);
        let due: Vec<_> = self.delayed.drain(..due).collect();
        for Delayed { request, reply, .. } in due {
            self.hand_over(request, &reply);
        }
    }

    // Deadlines.

    /// Ends the requests whose time is up.
    #[inline]
    pub(crate) fn expire_overdue(&mut self) {
        while let Some((id, deadline)) = self.flight.oldest()
            && deadline <= self.now
        {
            self.expire(id);
        }
    }

    /// The request's time is up.
    #[cold]
    fn expire(&mut self, id: RequestId) {
        let Some(request) = self.flight.get(id) else { return };
        for cluster in request.clusters() {
            self.upstream.count(cluster).upstream_rq_timeout += 1;
        }
        if let Owner::Mirror(mirror) = request.owner {
            self.upstream.count(mirror).mirror_timeout += 1;
            return self.deliver(id, b"");
        }
        self.downstream.stats_mut().count().downstream_rq_timeout += 1;
        let mut error = self.buffers.take();
        self.write_timeout(request, &mut error);
        let is_own = matches!(request.state, State::Own(_));
        if let Some(client) = request.client().filter(|_| has_own_connection(request))
            && self.abandon(client)
        {
            self.events.push_back(Event::Untracked(client));
        }
        if is_own {
            self.events.push_back(Event::Dropped(id));
        }
        self.deliver(id, &error);
        self.buffers.recycle(error);
    }

    /// Closes the connections that a client has to itself: it will not wait for what is due on
    /// them. Returns whether nodes tracked on any of them, so that it has to forget what it knows.
    #[must_use]
    pub(crate) fn abandon(&mut self, client: SessionId) -> bool {
        self.events.push_back(Event::WatchLost(client));
        self.upstream.abandon(client)
    }

    /// Says why there was no reply in time, as well as that is known.
    fn write_timeout(&self, request: &Request, out: &mut Vec<u8>) {
        let unknown = !request.read_only && request.may_be_executed();
        let mut outages = request.clusters().filter_map(|cluster| self.upstream.outage(cluster));
        if let Some(text) = outages.next() {
            encode::error(out, text.as_bytes());
        } else if request.is_held() && !request.rare().refusal.is_empty() {
            encode::error(out, &request.rare().refusal);
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

    // Closing clients.

    /// While too many bytes of replies wait, closes the client that has most of them. Nothing else
    /// would do: they have been executed, and their client cannot be told so before its turn comes.
    #[inline]
    fn bound_replies(&mut self) {
        while self.flight.has_too_many_replies() {
            let Some((client, bytes)) = self.flight.largest_waiting() else { return };
            self.downstream.stats_mut().count().downstream_cx_reply_overflow += 1;
            let text = format!("closing a client: {bytes} bytes of its replies wait for others");
            self.downstream.log(LogLevel::Warn, text);
            self.kill(client);
        }
    }

    /// Closes a client, whatever it is still owed.
    pub(crate) fn kill(&mut self, id: SessionId) {
        self.downstream.clear_output(id);
        self.close_at_once(id);
    }

    /// Closes a client behind what has been handed over to it.
    pub(super) fn close_at_once(&mut self, id: SessionId) {
        if self.downstream.profile(id).is_some() {
            self.drop_pending(id);
            self.flight.stop(id);
            self.downstream.finish(id);
        }
    }

    /// Forgets all commands of a client: nobody is to be answered.
    pub(crate) fn drop_pending(&mut self, id: SessionId) {
        for request in self.flight.take_pending(id) {
            let request_state = self.flight.remove(request).map(|request| request.state);
            if let Some(State::Own(_)) = request_state {
                self.events.push_back(Event::Dropped(request));
            }
        }
    }

    /// Reads nothing more from the client and closes it once it has all its replies.
    pub(crate) fn close_after_replies(&mut self, id: SessionId) {
        self.downstream.set_closing(id);
        self.flight.stop(id);
        if self.flight.is_idle(id) {
            self.downstream.close_answered(id, self.now);
        }
    }
}

/// Whether a command runs on connections that its client has to itself, which are of no use when it
/// is not waited for any more.
fn has_own_connection(request: &Request) -> bool {
    match &request.completion {
        Completion::Watch | Completion::Block(_) | Completion::StartTracking => true,
        Completion::Exec(exec) => exec.watched_by.is_some(),
        Completion::Deliver
        | Completion::Publish { .. }
        | Completion::Scan(_)
        | Completion::Claim => false,
    }
}
