//! Connections to nodes: gRPC streams of the router, HTTP requests of the tunnel.

use std::time::Duration;

use super::{Effect, Host, UpstreamId, length};
use crate::{
    abi::{Action, GrpcStatus},
    grpc::{FrameDecoder, encode_frame},
    headers::Headers,
    log::Level,
    state::{Context, Deferred, Direction, HttpContext, HttpSide, ROOT},
};

/// Envoy's side of one stream.
pub(super) struct Upstream {
    address: String,
    /// Its context in the tunnel's VM.
    context: u32,
    connection: Connection,
    decoder: FrameDecoder,
}

enum Connection {
    /// Frames that wait for the connection, joined, and whether they are the last.
    Connecting {
        due: Duration,
        frames: Vec<u8>,
        finished: bool,
    },
    Open,
}

impl Upstream {
    /// When the attempt to connect has failed.
    pub(super) fn due(&self) -> Option<Duration> {
        match self.connection {
            Connection::Connecting { due, .. } => Some(due),
            Connection::Open => None,
        }
    }
}

impl Host {
    /// A connection to a node was made.
    pub fn handle_upstream_connected(&mut self, upstream: UpstreamId) {
        let Some(&Upstream { context, .. }) = self.upstreams.get(&upstream) else { return };
        // The response headers are Envoy's own invention; the gRPC client takes them for the
        // server's initial metadata. What waits is sent only then.
        let headers = Headers::new(&[(":status", "200")]);
        let count = u32::try_from(headers.len()).unwrap_or(0);
        if let Some(side) = self.tunnel.http_side(context, Direction::Response) {
            side.headers = Some(headers.clone());
        }
        self.tunnel.enter(|exports| &exports.on_response_headers, context, (context, count, 0));
        if let Some(side) = self.tunnel.http_side(context, Direction::Response) {
            side.headers = None;
        }
        if self.tunnel.failed() {
            return self.fail_tunnel();
        }
        self.host_is_known(upstream);
        self.tell_initial_metadata(upstream, headers);

        let Some(Upstream { connection, .. }) = self.upstreams.get_mut(&upstream) else { return };
        let waiting = std::mem::replace(connection, Connection::Open);
        if let Connection::Connecting { frames, finished, .. } = waiting {
            if !frames.is_empty() {
                self.write_upstream(upstream, &frames);
            }
            if finished {
                self.finish_upstream(upstream);
            }
        }
        self.run_deferred();
    }

    /// A node sent `bytes`.
    pub fn handle_upstream_data(&mut self, upstream: UpstreamId, bytes: &[u8]) {
        let body = self.through_tunnel(upstream, Direction::Response, bytes, false);
        self.receive(upstream, &body);
    }

    /// A node closed its sending direction. Envoy gives up the whole stream then.
    pub fn handle_upstream_finished(&mut self, upstream: UpstreamId) {
        let body = self.through_tunnel(upstream, Direction::Response, &[], true);
        self.receive(upstream, &body);
        self.end_upstream(upstream, GrpcStatus::Unknown, "via_upstream");
    }

    /// A node refused, could not be reached, or reset the connection.
    pub fn handle_upstream_failed(&mut self, upstream: UpstreamId, why: &str) {
        let Some(Upstream { connection, .. }) = self.upstreams.get(&upstream) else { return };
        match connection {
            Connection::Connecting { .. } => {
                self.host_is_known(upstream);
                self.forget_upstream(upstream);
                // Envoy answers in the node's place, with headers only: to the gRPC client that is
                // initial metadata too, but with nothing in it.
                self.tell_initial_metadata(upstream, Headers::default());
                self.tell_stream_ended(upstream, GrpcStatus::Unavailable, why);
            }
            Connection::Open => self.end_upstream(upstream, GrpcStatus::Internal, why),
        }
    }

    pub(super) fn open_upstream(
        &mut self,
        upstream: UpstreamId,
        address: String,
        headers: Headers,
    ) {
        let count = u32::try_from(headers.len()).unwrap_or(u32::MAX);
        let request = HttpSide { headers: Some(headers), body: None };
        let http = HttpContext { request, response: HttpSide::default() };
        let context = self.tunnel.state_mut().contexts.create(Context::Http(http));
        self.tunnel.enter(|exports| &exports.on_context_create, context, (context, ROOT));
        self.tunnel.enter(|exports| &exports.on_request_headers, context, (context, count, 0));
        if let Some(side) = self.tunnel.http_side(context, Direction::Request) {
            side.headers = None;
        }
        let due = self.clock.elapsed() + self.config.connect_timeout;
        let connection = Connection::Connecting { due, frames: Vec::new(), finished: false };
        let decoder = FrameDecoder::default();
        let known = Upstream { address: address.clone(), context, connection, decoder };
        self.upstreams.insert(upstream, known);
        self.effects.push_back(Effect::Connect { upstream, address });
        if self.tunnel.failed() {
            self.fail_tunnel();
        }
    }

    pub(super) fn send(&mut self, upstream: UpstreamId, message: &[u8]) {
        let Some(Upstream { connection, .. }) = self.upstreams.get_mut(&upstream) else { return };
        if let Connection::Connecting { frames, .. } = connection {
            return encode_frame(message, frames);
        }
        let mut frame = Vec::new();
        encode_frame(message, &mut frame);
        self.write_upstream(upstream, &frame);
    }

    /// Frames go through the tunnel plugin, which takes their headers off.
    fn write_upstream(&mut self, upstream: UpstreamId, frames: &[u8]) {
        self.request_body(upstream, frames, false);
    }

    pub(super) fn finish(&mut self, upstream: UpstreamId) {
        let Some(Upstream { connection, .. }) = self.upstreams.get_mut(&upstream) else { return };
        match connection {
            Connection::Connecting { finished, .. } => *finished = true,
            Connection::Open => self.finish_upstream(upstream),
        }
    }

    fn finish_upstream(&mut self, upstream: UpstreamId) {
        self.request_body(upstream, &[], true);
        if self.upstreams.contains_key(&upstream) {
            self.effects.push_back(Effect::FinishUpstream { upstream });
        }
    }

    fn request_body(&mut self, upstream: UpstreamId, frames: &[u8], end_stream: bool) {
        let bytes = self.through_tunnel(upstream, Direction::Request, frames, end_stream);
        if !bytes.is_empty() {
            self.effects.push_back(Effect::WriteUpstream { upstream, bytes });
        }
    }

    /// Passes a part of a body through the tunnel plugin. Nothing comes out if the plugin holds the
    /// body back, or fails, or the stream is gone.
    fn through_tunnel(
        &mut self,
        upstream: UpstreamId,
        direction: Direction,
        bytes: &[u8],
        end_stream: bool,
    ) -> Vec<u8> {
        let Some(&Upstream { context, .. }) = self.upstreams.get(&upstream) else {
            return Vec::new();
        };
        let Some(side) = self.tunnel.http_side(context, direction) else { return Vec::new() };
        let body = side.body.get_or_insert_default();
        body.extend_from_slice(bytes);
        let params = (context, length(body), u32::from(end_stream));
        let entered = self.tunnel.enter(|exports| exports.on_body(direction), context, params);
        if self.tunnel.failed() {
            self.fail_tunnel();
            return Vec::new();
        }
        let mut action = entered.map_or(Action::Continue, Action::from);
        for deferred in std::mem::take(&mut self.tunnel.state_mut().deferred) {
            if let Deferred::ContinueHttp { direction: continued, .. } = deferred
                && continued == direction
            {
                action = Action::Continue;
            }
        }
        match (action, self.tunnel.http_side(context, direction)) {
            (Action::Continue, Some(side)) => side.body.take().unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// What the tunnel made of a node's bytes is gRPC; each message is one event of the router.
    fn receive(&mut self, upstream: UpstreamId, body: &[u8]) {
        let Some(Upstream { decoder, .. }) = self.upstreams.get_mut(&upstream) else { return };
        let Ok(messages) = decoder.decode(body) else {
            return self.end_upstream(upstream, GrpcStatus::Internal, "not a gRPC frame");
        };
        for message in messages {
            // A message may make the router cancel the stream.
            if !self.upstreams.contains_key(&upstream) {
                return;
            }
            let size = length(&message);
            self.router.state_mut().grpc_message = Some(message);
            let params = (ROOT, upstream.0, size);
            self.enter_router(|exports| &exports.on_grpc_receive, ROOT, params);
            self.router.state_mut().grpc_message = None;
            self.run_deferred();
        }
    }

    /// A stream ends by itself: the connection goes, the router is told.
    fn end_upstream(&mut self, upstream: UpstreamId, status: GrpcStatus, why: &str) {
        if self.upstreams.contains_key(&upstream) {
            self.forget_upstream(upstream);
            self.tell_stream_ended(upstream, status, why);
        }
    }

    fn tell_initial_metadata(&mut self, upstream: UpstreamId, headers: Headers) {
        let params = (ROOT, upstream.0, u32::try_from(headers.len()).unwrap_or(u32::MAX));
        self.router.state_mut().initial_metadata = Some(headers);
        self.enter_router(|exports| &exports.on_grpc_receive_initial_metadata, ROOT, params);
        self.router.state_mut().initial_metadata = None;
        self.run_deferred();
    }

    fn tell_stream_ended(&mut self, upstream: UpstreamId, status: GrpcStatus, why: &str) {
        let token = upstream.0;
        if self.router.state().streams.known.contains_key(&token) {
            let params = (ROOT, token, 0);
            self.router(|exports| &exports.on_grpc_receive_trailing_metadata, ROOT, params);
            self.tell_stream_closed(token, status, why.into());
        }
    }

    /// The last that the router hears of a stream.
    pub(super) fn tell_stream_closed(&mut self, token: u32, status: GrpcStatus, why: String) {
        let state = self.router.state_mut();
        if state.streams.known.remove(&token).is_none() {
            return;
        }
        state.streams.ended.insert(token);
        state.grpc_status = (status as u32, why);
        self.enter_router(|exports| &exports.on_grpc_close, ROOT, (ROOT, token, status as u32));
        self.router.state_mut().grpc_status.1.clear();
        self.run_deferred();
    }

    /// Envoy has looked up the host of a stream.
    fn host_is_known(&mut self, upstream: UpstreamId) {
        let Some(Upstream { address, .. }) = self.upstreams.get(&upstream) else { return };
        let streams = &mut self.router.state_mut().streams;
        streams.awaiting_host.remove(&upstream.0);
        streams.known_hosts.insert(address.clone());
    }

    pub(super) fn forget_upstream(&mut self, upstream: UpstreamId) {
        let Some(Upstream { context, .. }) = self.upstreams.remove(&upstream) else { return };
        self.router.state_mut().streams.awaiting_host.remove(&upstream.0);
        self.effects.push_back(Effect::DropUpstream { upstream });
        self.tunnel.enter(|exports| &exports.on_done, context, context);
        self.tunnel.enter(|exports| &exports.on_delete, context, context);
        self.tunnel.state_mut().contexts.remove(context);
    }

    /// The tunnel trapped: Envoy ends every stream itself, and goes on so.
    pub(super) fn fail_tunnel(&mut self) {
        if self.upstreams.is_empty() {
            return;
        }
        let text = format!("the tunnel failed: {} streams are closed", self.upstreams.len());
        self.log().write(Level::Error, "host", text);
        for upstream in self.upstreams.keys().copied().collect::<Vec<_>>() {
            self.handle_upstream_failed(upstream, "wasm_fail_stream");
        }
    }
}
