//! `proxy_get_buffer_bytes`, `proxy_set_buffer_bytes`.

use wasmtime::{Caller, Linker};

use super::ENV;
use crate::{
    abi::{BufferType, Failure, Guest, Status, answer},
    state::State,
};

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_buffer_bytes",
        |guest: Caller<'_, State>,
         buffer: u32,
         start: u32,
         most: u32,
         address_at: u32,
         size_at: u32| {
            answer(get_buffer_bytes(Guest(guest), buffer, start, most, address_at, size_at))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_buffer_bytes",
        |guest: Caller<'_, State>, buffer: u32, start: u32, length: u32, data: u32, size: u32| {
            answer(set_buffer_bytes(Guest(guest), buffer, start, length, data, size))
        },
    )?;
    Ok(())
}

/// Hands over at most `most` bytes from `start` on. If there are none, nothing is written where the
/// guest asked for address and size: that too is Envoy's way.
fn get_buffer_bytes(
    mut guest: Guest<'_>,
    buffer: u32,
    start: u32,
    most: u32,
    address_at: u32,
    size_at: u32,
) -> Result<(), Failure> {
    let buffer = BufferType::try_from(buffer)?;
    let size = guest.state().buffer(buffer)?.len();
    let end = start.checked_add(most).ok_or(Status::BadArgument)?;
    let start = (start as usize).min(size);
    let end = (end as usize).min(size);
    if start == end {
        return Ok(());
    }
    guest.hand_over(end - start, address_at, size_at, |state| {
        state.buffer(buffer).ok()?.get(start..end)
    })
}

/// Envoy's buffers are edited at their ends only: from the start, `length` bytes are replaced
/// (none: prepended to); at or past the end, `data` is appended. Anything else is refused.
fn set_buffer_bytes(
    mut guest: Guest<'_>,
    buffer: u32,
    start: u32,
    length: u32,
    data: u32,
    size: u32,
) -> Result<(), Failure> {
    let buffer = BufferType::try_from(buffer)?;
    let (data, state) = guest.bytes_and_state(data, size)?;
    let bytes = state.buffer_mut(buffer)?;
    let (start, length) = (start as usize, length as usize);
    if start == 0 {
        let replaced = length.min(bytes.len());
        drop(bytes.splice(..replaced, data.iter().copied()));
        return Ok(());
    }
    if start < bytes.len() {
        return Err(Status::BadArgument.into());
    }
    bytes.extend_from_slice(data);
    Ok(())
}
