//! `proxy_get_header_map_pairs`, `proxy_get_header_map_value`: read-only, all this plugin needs.

use wasmtime::{Caller, Linker};

use super::ENV;
use crate::{
    abi::{Failure, Guest, MapType, Status, answer},
    headers::Headers,
    state::State,
};

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_header_map_pairs",
        |guest: Caller<'_, State>, map: u32, address_at: u32, size_at: u32| {
            answer(get_header_map_pairs(Guest(guest), map, address_at, size_at))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_get_header_map_value",
        |guest: Caller<'_, State>,
         map: u32,
         key: u32,
         key_size: u32,
         address_at: u32,
         size_at: u32| {
            answer(get_header_map_value(Guest(guest), map, key, key_size, address_at, size_at))
        },
    )?;
    Ok(())
}

/// A map that is not there now is empty.
fn get_header_map_pairs(
    mut guest: Guest<'_>,
    map: u32,
    address_at: u32,
    size_at: u32,
) -> Result<(), Failure> {
    let map = MapType::try_from(map)?;
    let pairs = guest.state().headers(map).filter(|headers| headers.len() > 0);
    let pairs = pairs.map(Headers::to_bytes).unwrap_or_default();
    guest.hand_over_bytes(&pairs, address_at, size_at)
}

fn get_header_map_value(
    mut guest: Guest<'_>,
    map: u32,
    key: u32,
    key_size: u32,
    address_at: u32,
    size_at: u32,
) -> Result<(), Failure> {
    let map = MapType::try_from(map)?;
    let (key, state) = guest.bytes_and_state(key, key_size)?;
    let headers = state.headers(map).ok_or(Status::BadArgument)?;
    let value = headers.value(key).ok_or(Status::NotFound)?.to_vec();
    guest.hand_over_bytes(&value, address_at, size_at)
}
