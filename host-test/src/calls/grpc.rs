//! `proxy_grpc_stream`, `proxy_grpc_send`, `proxy_grpc_close`, `proxy_grpc_cancel`,
//! `proxy_get_status`.
//!
//! A stream belongs to the root context of the router, whichever of its contexts opened it: its
//! events go there. The tunnel that it meets on its way is entered from within these calls.

use wasmtime::{Caller, Linker};

use super::ENV;
use crate::{
    abi::{Failure, GrpcStatus, Guest, Status, answer},
    config::{HostSelection, Reentrancy, Role},
    grpc::Target,
    headers::Headers,
    host::UpstreamId,
    state::{Deferred, State, StreamState},
};

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_grpc_stream",
        |guest: Caller<'_, State>,
         target: u32,
         target_size: u32,
         service: u32,
         service_size: u32,
         method: u32,
         method_size: u32,
         metadata: u32,
         metadata_size: u32,
         token_at: u32| {
            let strings = [
                (target, target_size),
                (service, service_size),
                (method, method_size),
                (metadata, metadata_size),
            ];
            answer(grpc_stream(Guest(guest), strings, token_at))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_grpc_send",
        |guest: Caller<'_, State>, token: u32, message: u32, size: u32, end_stream: u32| {
            answer(grpc_send(Guest(guest), token, message, size, end_stream))
        },
    )?;
    linker.func_wrap(ENV, "proxy_grpc_close", |guest: Caller<'_, State>, token: u32| {
        answer(grpc_close(Guest(guest), token))
    })?;
    linker.func_wrap(ENV, "proxy_grpc_cancel", |guest: Caller<'_, State>, token: u32| {
        answer(grpc_cancel(Guest(guest), token))
    })?;
    linker.func_wrap(
        ENV,
        "proxy_get_status",
        |guest: Caller<'_, State>, code_at: u32, address_at: u32, size_at: u32| {
            answer(get_status(Guest(guest), code_at, address_at, size_at))
        },
    )?;
    Ok(())
}

fn grpc_stream(
    mut guest: Guest<'_>,
    strings: [(u32, u32); 4],
    token_at: u32,
) -> Result<(), Failure> {
    let [target, service, method, metadata] = strings;
    let target = Target::read(guest.bytes(target.0, target.1)?).ok_or(Status::BadArgument)?;
    let path = [service, method].map(|(pointer, size)| {
        guest.bytes(pointer, size).map(|name| String::from_utf8_lossy(name).into_owned())
    });
    let [service, method] = path;
    let (service, method) = (service?, method?);
    let metadata = Headers::read(guest.bytes(metadata.0, metadata.1)?);
    // A bad pointer must not leave a stream behind that nobody knows.
    guest.write_u32(token_at, 0)?;

    let known = guest.state().config.envoy_clusters.as_ref();
    if known.is_some_and(|clusters| !clusters.contains(&target.cluster)) {
        if target.authority.is_none() {
            return Err(Status::ParseFailure.into());
        }
        return refuse(guest, format!("Cluster {} not available", target.cluster));
    }
    let original_dst = metadata.value(b"x-envoy-original-dst-host");
    let original_dst = original_dst.map(|host| String::from_utf8_lossy(host).into_owned());
    let Some(address) = target.authority.clone().or(original_dst) else {
        return refuse_with_headers(guest, &target);
    };
    let endpoints = guest.state().config.endpoints.as_ref();
    if endpoints.is_some_and(|endpoints| !endpoints.contains(&address)) {
        return refuse_with_headers(guest, &target);
    }

    let mut headers = Headers::new(&[
        (":method", "POST"),
        (":path", &format!("/{service}/{method}")),
        (":authority", target.authority.as_deref().unwrap_or(&target.cluster)),
        (":scheme", "http"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]);
    headers.extend(metadata);
    for (name, value) in &guest.state().config.stream_headers {
        headers.set(name, value);
    }
    let host_selection = guest.state().config.host_selection;
    let streams = &mut guest.state().streams;
    let token = streams.next_token();
    streams.known.insert(token, StreamState::Open);
    if host_selection == HostSelection::Asynchronous && !streams.known_hosts.contains(&address) {
        streams.awaiting_host.insert(token);
    }
    guest.envoy().open_upstream(UpstreamId(token), address, headers);
    Ok(guest.write_u32(token_at, token)?)
}

/// A stream that cannot even be started. As in Envoy the guest gets a status but no token, and
/// still an end of the stream that has the token it was not told.
fn refuse(mut guest: Guest<'_>, why: String) -> Result<(), Failure> {
    let token = guest.state().streams.next_token();
    fail_to_start(guest, token, why)
}

/// One that Envoy starts and finds no host for: it answers in the node's place, and the headers of
/// that are initial metadata, with nothing in it, which come before the call returns.
fn refuse_with_headers(mut guest: Guest<'_>, target: &Target) -> Result<(), Failure> {
    let token = guest.state().streams.next_token();
    guest.envoy().tell_initial_metadata(UpstreamId(token), Headers::default());
    fail_to_start(guest, token, format!("no healthy upstream in {}", target.cluster))
}

fn fail_to_start(mut guest: Guest<'_>, token: u32, why: String) -> Result<(), Failure> {
    guest.state().streams.known.insert(token, StreamState::Finished);
    end_stream(guest, token, GrpcStatus::Unavailable, why)?;
    Err(Status::InternalFailure.into())
}

fn grpc_send(
    mut guest: Guest<'_>,
    token: u32,
    message: u32,
    size: u32,
    finish: u32,
) -> Result<(), Failure> {
    let message = guest.bytes(message, size)?.to_vec();
    let state = guest.state();
    match stream(state, token, "proxy_grpc_send")? {
        StreamState::Open => {}
        StreamState::Finished => {
            state.misuse(format!("proxy_grpc_send on stream {token} after proxy_grpc_close"));
            return Ok(());
        }
        StreamState::Ending => return Ok(()),
    }
    let reset = match std::mem::take(&mut state.streams.reset_next_send) {
        true => Some("connection reset"),
        // The buffer for what is sent while the host is looked up has no room at all.
        false => state.streams.awaiting_host.contains(&token).then_some(""),
    };
    if let Some(why) = reset {
        let mut envoy = guest.envoy();
        envoy.forget_upstream(UpstreamId(token));
        // Envoy defers the end of the stream, but not this.
        envoy.tell_trailing_metadata(token);
        return end_stream(guest, token, GrpcStatus::Internal, why.into());
    }
    if finish != 0 {
        state.streams.known.insert(token, StreamState::Finished);
    }
    let mut envoy = guest.envoy();
    envoy.send(UpstreamId(token), &message);
    if finish != 0 {
        envoy.finish(UpstreamId(token));
    }
    Ok(())
}

/// Half-closes: the guest still gets what the peer sends, and the end.
fn grpc_close(mut guest: Guest<'_>, token: u32) -> Result<(), Failure> {
    let state = guest.state();
    if stream(state, token, "proxy_grpc_close")? == StreamState::Open {
        state.streams.known.insert(token, StreamState::Finished);
        guest.envoy().finish(UpstreamId(token));
    }
    Ok(())
}

/// Resets: no event of this stream follows.
fn grpc_cancel(mut guest: Guest<'_>, token: u32) -> Result<(), Failure> {
    let state = guest.state();
    stream(state, token, "proxy_grpc_cancel")?;
    state.streams.known.remove(&token);
    guest.envoy().forget_upstream(UpstreamId(token));
    Ok(())
}

/// The last gRPC status and its message, while `proxy_on_grpc_close` runs.
fn get_status(
    mut guest: Guest<'_>,
    code_at: u32,
    address_at: u32,
    size_at: u32,
) -> Result<(), Failure> {
    let (code, message) = guest.state().grpc_status.clone();
    guest.write_u32(code_at, code)?;
    guest.hand_over_bytes(message.as_bytes(), address_at, size_at)
}

/// The stream a token names.
fn stream(state: &mut State, token: u32, call: &str) -> Result<StreamState, Status> {
    const KIND_OF_TOKEN: u32 = 3;
    const STREAM: u32 = 2;
    if token & KIND_OF_TOKEN != STREAM {
        return Err(Status::BadArgument);
    }
    if state.role() != Role::Router {
        return Err(Status::NotFound);
    }
    if let Some(stream) = state.streams.known.get(&token) {
        return Ok(*stream);
    }
    if state.streams.ended.contains(&token) {
        state.misuse(format!("{call} on stream {token}, whose end the plugin was told"));
    }
    Err(Status::NotFound)
}

/// Ends a stream from inside a host call: see [`Reentrancy`].
fn end_stream(
    mut guest: Guest<'_>,
    token: u32,
    status: GrpcStatus,
    why: String,
) -> Result<(), Failure> {
    let state = guest.state();
    if state.config.reentrancy == Reentrancy::Deferred {
        state.streams.known.insert(token, StreamState::Ending);
        state.vm_mut(Role::Router).deferred.push_back(Deferred::StreamClosed {
            token,
            status,
            why,
        });
        return Ok(());
    }
    guest.envoy().tell_stream_closed(token, status, why);
    Ok(())
}
