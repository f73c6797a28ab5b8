//! `proxy_grpc_stream`, `proxy_grpc_send`, `proxy_grpc_close`, `proxy_grpc_cancel`,
//! `proxy_get_status`.
//!
//! A stream belongs to the root context, whichever context opened it: its events go there.

use wasmtime::{Caller, Linker};

use super::ENV;
use crate::{
    abi::{Failure, GrpcStatus, Guest, Status, answer},
    config::{HostSelection, Reentrancy},
    grpc::Target,
    headers::Headers,
    state::{Deferred, ROOT, State, StreamState},
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
    let host_selection = guest.state().config.host_selection;
    let streams = &mut guest.state().streams;
    let token = streams.next_token();
    streams.known.insert(token, StreamState::Open);
    if host_selection == HostSelection::Asynchronous && !streams.known_hosts.contains(&address) {
        streams.awaiting_host.insert(token);
    }
    guest.state().deferred.push_back(Deferred::OpenStream { token, address, metadata: headers });
    guest.write_u32(token_at, token)?;
    Ok(())
}

/// A stream that cannot even be started. As in Envoy the guest gets a status but no token, and
/// still an end of the stream that has the token it was not told.
fn refuse(mut guest: Guest<'_>, why: String) -> Result<(), Failure> {
    let token = guest.state().streams.next_token();
    fail_to_start(guest, token, why)
}

/// One that Envoy starts and finds no host for: it answers in the node's place, and the headers of that
/// are initial metadata, with nothing in it, which come before the call returns.
fn refuse_with_headers(mut guest: Guest<'_>, target: &Target) -> Result<(), Failure> {
    let token = guest.state().streams.next_token();
    guest.state().initial_metadata = Some(Headers::default());
    reenter(&mut guest, "proxy_on_grpc_receive_initial_metadata", token, 0)?;
    guest.state().initial_metadata = None;
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
        state.deferred.push_back(Deferred::CancelStream { token });
        // Envoy defers the end of the stream, but not this.
        reenter(&mut guest, "proxy_on_grpc_receive_trailing_metadata", token, 0)?;
        return end_stream(guest, token, GrpcStatus::Internal, why.into());
    }
    state.deferred.push_back(Deferred::SendMessage { token, message });
    if finish != 0 {
        state.streams.known.insert(token, StreamState::Finished);
        state.deferred.push_back(Deferred::FinishStream { token });
    }
    Ok(())
}

/// Half-closes: the guest still gets what the peer sends, and the end.
fn grpc_close(mut guest: Guest<'_>, token: u32) -> Result<(), Failure> {
    let state = guest.state();
    if stream(state, token, "proxy_grpc_close")? == StreamState::Open {
        state.streams.known.insert(token, StreamState::Finished);
        state.deferred.push_back(Deferred::FinishStream { token });
    }
    Ok(())
}

/// Resets: no event of this stream follows.
fn grpc_cancel(mut guest: Guest<'_>, token: u32) -> Result<(), Failure> {
    let state = guest.state();
    stream(state, token, "proxy_grpc_cancel")?;
    state.streams.known.remove(&token);
    state.deferred.push_back(Deferred::CancelStream { token });
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
        state.deferred.push_back(Deferred::StreamClosed { token, status, why });
        return Ok(());
    }
    state.streams.known.remove(&token);
    state.streams.ended.insert(token);
    state.grpc_status = (status as u32, why);
    reenter(&mut guest, "proxy_on_grpc_close", token, status as u32)
}

/// Calls an export of the guest that is calling the host, if it has it.
///
/// When such a call returns, Envoy does what waits for the end of a callback, until nothing waits. The end of
/// a stream is put off again as long as an outer callback runs: Envoy 1.40 never comes out of that loop
/// (`doAfterVmCallActions` and `Context::onGrpcCloseWrapper`).
fn reenter(guest: &mut Guest<'_>, export: &str, token: u32, value: u32) -> Result<(), Failure> {
    let Some(function) = guest.0.get_export(export).and_then(|export| export.into_func()) else {
        return Ok(());
    };
    let function = function.typed::<(u32, u32, u32), ()>(&guest.0)?;
    let contexts = &mut guest.state().contexts;
    let outer = (contexts.current, contexts.effective);
    (contexts.current, contexts.effective) = (ROOT, 0);
    let outcome = function.call(&mut guest.0, (ROOT, token, value));
    let contexts = &mut guest.state().contexts;
    (contexts.current, contexts.effective) = outer;
    outcome?;
    let waiting = guest.state().deferred.iter().find_map(|deferred| match deferred {
        Deferred::StreamClosed { token, .. } => Some(*token),
        _ => None,
    });
    if let Some(waiting) = waiting {
        guest.state().misuse(format!(
            "{export} for stream {token} inside a callback after stream {waiting} has ended in it: \
             Envoy would put off that end for ever"
        ));
    }
    Ok(())
}
