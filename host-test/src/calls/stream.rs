//! `proxy_continue_stream`, `proxy_close_stream`, `proxy_set_effective_context`, `proxy_done`.

use wasmtime::{Caller, Linker};

use super::ENV;
use crate::{
    abi::{Failure, Guest, Status, StreamType, answer},
    state::{Context, Deferred, Direction, State},
};

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(ENV, "proxy_continue_stream", |guest: Caller<'_, State>, stream: u32| {
        answer(continue_stream(Guest(guest), stream))
    })?;
    linker.func_wrap(ENV, "proxy_close_stream", |guest: Caller<'_, State>, stream: u32| {
        answer(close_stream(Guest(guest), stream))
    })?;
    linker.func_wrap(ENV, "proxy_set_effective_context", |guest: Caller<'_, State>, id: u32| {
        answer(set_effective_context(Guest(guest), id))
    })?;
    linker.func_wrap(ENV, "proxy_done", |_: Caller<'_, State>| {
        // Nothing waits for a context that asked for more time in `proxy_on_done`.
        Status::NotFound as u32
    })?;
    Ok(())
}

/// Of a stream the context does not have, there is nothing to continue: Envoy answers Ok.
fn continue_stream(mut guest: Guest<'_>, stream: u32) -> Result<(), Failure> {
    let stream = StreamType::try_from(stream)?;
    let state = guest.state();
    let context = state.context_id();
    let deferred = match (stream, state.context()) {
        (StreamType::Upstream, _) => return Err(Status::Unimplemented.into()),
        (StreamType::Downstream, Some(Context::Network(_))) => {
            Deferred::ContinueDownstream { context }
        }
        (StreamType::HttpRequest, Some(Context::Http(_))) => {
            Deferred::ContinueHttp { context, direction: Direction::Request }
        }
        (StreamType::HttpResponse, Some(Context::Http(_))) => {
            Deferred::ContinueHttp { context, direction: Direction::Response }
        }
        _ => return Ok(()),
    };
    state.running_mut().deferred.push_back(deferred);
    Ok(())
}

fn close_stream(mut guest: Guest<'_>, stream: u32) -> Result<(), Failure> {
    let stream = StreamType::try_from(stream)?;
    let state = guest.state();
    let context = state.context_id();
    if stream == StreamType::Downstream
        && let Some(Context::Network(_)) = state.context()
    {
        state.running_mut().deferred.push_back(Deferred::CloseDownstream { context });
    }
    Ok(())
}

/// From here to the end of the callback, host calls act on context `id`; 0 ends that early.
fn set_effective_context(mut guest: Guest<'_>, id: u32) -> Result<(), Failure> {
    match guest.state().set_effective_context(id) {
        true => Ok(()),
        false => Err(Status::BadArgument.into()),
    }
}
