//! Connections to nodes: gRPC streams of the router, HTTP requests of the tunnel.

use std::time::Duration;

use super::{Envoy, length};
use crate::{
    abi::{Action, GrpcStatus},
    config::Role,
    grpc::{FrameDecoder, encode_frame},
    headers::Headers,
    host::{Effect, UpstreamId},
    log::Level,
    state::{Context, Direction, HttpContext, HttpSide},
};

/// Envoy's side of one stream.
pub(crate) struct Upstream {
    address: String,
    tunnel: Tunnel,
    connection: Connection,
    decoder: FrameDecoder,
}

/// How far a stream has come with the filter before its connection.
enum Tunnel {
    /// Not there yet, because the host is still being looked up: with the headers to be shown.
    Unseen(Headers),
    /// Its context in the tunnel's VM.
    Seen(u32),
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
    pub(crate) fn due(&self) -> Option<Duration> {
        match self.connection {
            Connection::Connecting { due, .. } => Some(due),
            Connection::Open => None,
        }
    }
}

impl Envoy<'_> {
    pub(crate) fn upstream_connected(&mut self, upstream: UpstreamId) {
        self.host_is_known(upstream);
        self.show_to_tunnel(upstream);
        let Some(context) = self.context_of(upstream) else { return };
        // The response headers are Envoy's own invention; the gRPC client takes them for the
        // server's initial metadata. What waits is sent only then.
        let headers = Headers::new(&[(":status", "200")]);
        let count = u32::try_from(headers.len()).unwrap_or(0);
        if let Some(side) = self.http_side(context, Direction::Response) {
            side.headers = Some(headers.clone());
        }
        let params = (context, count, 0);
        self.enter(Role::Tunnel, |exports| &exports.on_response_headers, context, params);
        if let Some(side) = self.http_side(context, Direction::Response) {
            side.headers = None;
        }
        if self.has_failed(Role::Tunnel) {
            return;
        }
        self.tell_initial_metadata(upstream, headers);

        let Some(Upstream { connection, .. }) = self.upstream(upstream) else { return };
        let waiting = std::mem::replace(connection, Connection::Open);
        if let Connection::Connecting { frames, finished, .. } = waiting {
            if !frames.is_empty() {
                self.request_body(upstream, &frames, false);
            }
            if finished {
                self.finish_upstream(upstream);
            }
        }
    }

    pub(crate) fn upstream_data(&mut self, upstream: UpstreamId, bytes: &[u8]) {
        let body = self.through_tunnel(upstream, Direction::Response, bytes, false);
        self.receive(upstream, &body);
    }

    /// A node closed its sending direction. Envoy gives up the whole stream then.
    pub(crate) fn upstream_finished(&mut self, upstream: UpstreamId) {
        let body = self.through_tunnel(upstream, Direction::Response, &[], true);
        self.receive(upstream, &body);
        self.end_upstream(upstream, GrpcStatus::Unknown, "via_upstream");
    }

    pub(crate) fn upstream_failed(&mut self, upstream: UpstreamId, why: &str) {
        let Some(Upstream { connection, .. }) = self.upstream(upstream) else { return };
        match connection {
            Connection::Connecting { .. } => {
                self.host_is_known(upstream);
                self.refuse_upstream(upstream, why);
            }
            Connection::Open => self.end_upstream(upstream, GrpcStatus::Internal, why),
        }
    }

    /// Envoy answers in the node's place, with headers only: to the gRPC client that is initial
    /// metadata too, but with nothing in it.
    pub(crate) fn refuse_upstream(&mut self, upstream: UpstreamId, why: &str) {
        self.forget_upstream(upstream);
        self.tell_initial_metadata(upstream, Headers::default());
        self.tell_stream_ended(upstream, GrpcStatus::Unavailable, why);
    }

    pub(crate) fn open_upstream(
        &mut self,
        upstream: UpstreamId,
        address: String,
        headers: Headers,
    ) {
        let state = self.state();
        let due = state.clock.elapsed() + state.config.connect_timeout;
        let awaits_host = state.streams.awaiting_host.contains(&upstream.0);
        let opened = Upstream {
            address: address.clone(),
            tunnel: Tunnel::Unseen(headers),
            connection: Connection::Connecting { due, frames: Vec::new(), finished: false },
            decoder: FrameDecoder::default(),
        };
        state.upstreams.insert(upstream, opened);
        if !awaits_host {
            self.show_to_tunnel(upstream);
        }
        self.state().effects.push_back(Effect::Connect { upstream, address });
    }

    /// The stream's headers reach the tunnel: the only time that Envoy shows them.
    fn show_to_tunnel(&mut self, upstream: UpstreamId) {
        let Some(Upstream { tunnel: Tunnel::Unseen(headers), .. }) = self.upstream(upstream) else {
            return;
        };
        let headers = std::mem::take(headers);
        let count = u32::try_from(headers.len()).unwrap_or(u32::MAX);
        let request = HttpSide { headers: Some(headers), ..HttpSide::default() };
        let http = HttpContext { request, response: HttpSide::default() };
        let root = self.state().root(Role::Tunnel);
        let context = self.state().vm_mut(Role::Tunnel).contexts.create(Context::Http(http));
        if let Some(Upstream { tunnel, .. }) = self.upstream(upstream) {
            *tunnel = Tunnel::Seen(context);
        }
        self.enter(Role::Tunnel, |exports| &exports.on_context_create, context, (context, root));
        let params = (context, count, 0);
        self.enter(Role::Tunnel, |exports| &exports.on_request_headers, context, params);
        if let Some(side) = self.http_side(context, Direction::Request) {
            side.headers = None;
        }
    }

    pub(crate) fn send(&mut self, upstream: UpstreamId, message: &[u8]) {
        let Some(Upstream { connection, .. }) = self.upstream(upstream) else { return };
        if let Connection::Connecting { frames, .. } = connection {
            return encode_frame(message, frames);
        }
        let mut frame = Vec::new();
        encode_frame(message, &mut frame);
        self.request_body(upstream, &frame, false);
    }

    pub(crate) fn finish(&mut self, upstream: UpstreamId) {
        let Some(Upstream { connection, .. }) = self.upstream(upstream) else { return };
        match connection {
            Connection::Connecting { finished, .. } => *finished = true,
            Connection::Open => self.finish_upstream(upstream),
        }
    }

    fn finish_upstream(&mut self, upstream: UpstreamId) {
        self.request_body(upstream, &[], true);
        if self.state().upstreams.contains_key(&upstream) {
            self.state().effects.push_back(Effect::FinishUpstream { upstream });
        }
    }

    /// Frames go through the tunnel, which takes their headers off.
    fn request_body(&mut self, upstream: UpstreamId, frames: &[u8], end_stream: bool) {
        let bytes = self.through_tunnel(upstream, Direction::Request, frames, end_stream);
        if !bytes.is_empty() {
            self.state().effects.push_back(Effect::WriteUpstream { upstream, bytes });
        }
    }

    /// Passes a part of a body through the tunnel. Nothing comes out if the plugin holds the body
    /// back, or fails, or the stream is gone.
    fn through_tunnel(
        &mut self,
        upstream: UpstreamId,
        direction: Direction,
        bytes: &[u8],
        end_stream: bool,
    ) -> Vec<u8> {
        let Some(context) = self.context_of(upstream) else { return Vec::new() };
        let Some(side) = self.http_side(context, direction) else { return Vec::new() };
        side.continued = false;
        let body = side.body.get_or_insert_default();
        body.extend_from_slice(bytes);
        let params = (context, length(body), u32::from(end_stream));
        let action =
            self.enter(Role::Tunnel, |exports| exports.on_body(direction), context, params);
        let continues = action.map_or(Action::Continue, Action::from) == Action::Continue;
        if self.has_failed(Role::Tunnel) {
            return Vec::new();
        }
        match self.http_side(context, direction) {
            Some(side) if continues || side.continued => side.body.take().unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// What the tunnel made of a node's bytes is gRPC; each message is one event of the router.
    fn receive(&mut self, upstream: UpstreamId, body: &[u8]) {
        let Some(Upstream { decoder, .. }) = self.upstream(upstream) else { return };
        let Ok(messages) = decoder.decode(body) else {
            return self.end_upstream(upstream, GrpcStatus::Internal, "not a gRPC frame");
        };
        for message in messages {
            // A message may make the router cancel the stream.
            if self.upstream(upstream).is_none() {
                return;
            }
            let root = self.state().root(Role::Router);
            let params = (root, upstream.0, length(&message));
            self.state().grpc_messages += 1;
            self.state().grpc_message = Some(message);
            self.enter(Role::Router, |exports| &exports.on_grpc_receive, root, params);
            self.state().grpc_message = None;
        }
    }

    /// A stream ends by itself: the connection goes, the router is told.
    fn end_upstream(&mut self, upstream: UpstreamId, status: GrpcStatus, why: &str) {
        if self.upstream(upstream).is_some() {
            self.forget_upstream(upstream);
            self.tell_stream_ended(upstream, status, why);
        }
    }

    pub(crate) fn tell_initial_metadata(&mut self, upstream: UpstreamId, headers: Headers) {
        let root = self.state().root(Role::Router);
        let params = (root, upstream.0, u32::try_from(headers.len()).unwrap_or(u32::MAX));
        self.state().initial_metadata = Some(headers);
        self.enter(Role::Router, |exports| &exports.on_grpc_receive_initial_metadata, root, params);
        self.state().initial_metadata = None;
    }

    fn tell_stream_ended(&mut self, upstream: UpstreamId, status: GrpcStatus, why: &str) {
        let token = upstream.0;
        if self.state().streams.known.contains_key(&token) {
            self.tell_trailing_metadata(token);
            self.tell_stream_closed(token, status, why.into());
        }
    }

    pub(crate) fn tell_trailing_metadata(&mut self, token: u32) {
        let root = self.state().root(Role::Router);
        let params = (root, token, 0);
        self.enter(
            Role::Router,
            |exports| &exports.on_grpc_receive_trailing_metadata,
            root,
            params,
        );
    }

    /// The last that the router hears of a stream.
    pub(crate) fn tell_stream_closed(&mut self, token: u32, status: GrpcStatus, why: String) {
        let state = self.state();
        if state.streams.known.remove(&token).is_none() {
            return;
        }
        state.streams.ended.insert(token);
        state.grpc_status = (status as u32, why);
        let root = state.root(Role::Router);
        let params = (root, token, status as u32);
        self.enter(Role::Router, |exports| &exports.on_grpc_close, root, params);
        self.state().grpc_status.1.clear();
    }

    /// Envoy has looked up the host of a stream.
    fn host_is_known(&mut self, upstream: UpstreamId) {
        let state = self.state();
        let Some(Upstream { address, .. }) = state.upstreams.get(&upstream) else { return };
        state.streams.awaiting_host.remove(&upstream.0);
        state.streams.known_hosts.insert(address.clone());
    }

    pub(crate) fn forget_upstream(&mut self, upstream: UpstreamId) {
        let state = self.state();
        let Some(Upstream { tunnel, .. }) = state.upstreams.remove(&upstream) else { return };
        state.streams.awaiting_host.remove(&upstream.0);
        state.effects.push_back(Effect::DropUpstream { upstream });
        if let Tunnel::Seen(context) = tunnel {
            self.enter(Role::Tunnel, |exports| &exports.on_done, context, context);
            self.enter(Role::Tunnel, |exports| &exports.on_delete, context, context);
            self.state().vm_mut(Role::Tunnel).contexts.remove(context);
        }
    }

    /// The tunnel trapped: Envoy ends every stream itself, and goes on so.
    pub(super) fn end_all_upstreams(&mut self) {
        let upstreams: Vec<_> = self.state().upstreams.keys().copied().collect();
        if upstreams.is_empty() {
            return;
        }
        let text = format!("the tunnel failed: {} streams are closed", upstreams.len());
        self.state().config.log.write(Level::Error, "host", text);
        for upstream in upstreams {
            self.upstream_failed(upstream, "wasm_fail_stream");
        }
    }

    fn upstream(&mut self, upstream: UpstreamId) -> Option<&mut Upstream> {
        self.state().upstreams.get_mut(&upstream)
    }

    /// The context of a stream that the tunnel has seen.
    fn context_of(&mut self, upstream: UpstreamId) -> Option<u32> {
        match self.upstream(upstream)?.tunnel {
            Tunnel::Seen(context) => Some(context),
            Tunnel::Unseen(_) => None,
        }
    }

    fn http_side(&mut self, context: u32, direction: Direction) -> Option<&mut HttpSide> {
        self.state().vm_mut(Role::Tunnel).contexts.http_side(context, direction)
    }
}
