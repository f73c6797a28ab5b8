//! `proxy_get_property`, `proxy_set_property`.
//!
//! A path's segments are separated by zero bytes.

use wasmtime::{Caller, Linker};

use super::ENV;
use crate::{
    abi::{Failure, Guest, Status, answer},
    state::{Context, State},
};

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_property",
        |guest: Caller<'_, State>, path: u32, path_size: u32, address_at: u32, size_at: u32| {
            answer(get_property(Guest(guest), path, path_size, address_at, size_at))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_property",
        |guest: Caller<'_, State>, path: u32, path_size: u32, value: u32, value_size: u32| {
            answer(set_property(Guest(guest), path, path_size, value, value_size))
        },
    )?;
    Ok(())
}

fn get_property(
    mut guest: Guest<'_>,
    path: u32,
    path_size: u32,
    address_at: u32,
    size_at: u32,
) -> Result<(), Failure> {
    let (path, state) = guest.bytes_and_state(path, path_size)?;
    let value = property(state, path).ok_or(Status::NotFound)?;
    guest.hand_over_bytes(&value, address_at, size_at)
}

/// A property is kept with the client's connection; the root context has nowhere to keep one.
fn set_property(
    mut guest: Guest<'_>,
    path: u32,
    path_size: u32,
    value: u32,
    value_size: u32,
) -> Result<(), Failure> {
    let path = guest.bytes(path, path_size)?.to_vec();
    let (value, state) = guest.bytes_and_state(value, value_size)?;
    let Some(Context::Network(network)) = state.context_mut() else {
        return Err(Status::NotFound.into());
    };
    network.properties.insert(path, value.to_vec());
    Ok(())
}

fn property(state: &State, path: &[u8]) -> Option<Vec<u8>> {
    let root_id = state.role().root_id().as_bytes();
    match path.strip_suffix(b"\0").unwrap_or(path) {
        b"plugin_root_id" | b"plugin_name" | b"plugin_vm_id" => return Some(root_id.to_vec()),
        _ => {}
    }
    let Some(Context::Network(network)) = state.context() else { return None };
    match path {
        b"source\0address" => Some(network.source_address.clone().into_bytes()),
        b"connection\0id" | b"connection_id" => {
            Some(u64::from(state.context_id()).to_le_bytes().to_vec())
        }
        _ => network.properties.get(path).cloned(),
    }
}
