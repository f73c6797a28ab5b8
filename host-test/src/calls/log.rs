//! `proxy_log`, `proxy_get_log_level`.

use wasmtime::{Caller, Linker};

use super::ENV;
use crate::{
    abi::{Failure, Guest, Status, answer},
    log::Level,
    state::State,
};

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_log",
        |guest: Caller<'_, State>, level: u32, message: u32, size: u32| {
            answer(log(Guest(guest), level, message, size))
        },
    )?;
    linker.func_wrap(ENV, "proxy_get_log_level", |guest: Caller<'_, State>, level_at: u32| {
        answer(get_log_level(Guest(guest), level_at))
    })?;
    Ok(())
}

fn log(guest: Guest<'_>, level: u32, message: u32, size: u32) -> Result<(), Failure> {
    let level = Level::try_from(level).map_err(|_| Status::BadArgument)?;
    let message = guest.bytes(message, size)?;
    guest.0.data().log(level, String::from_utf8_lossy(message));
    Ok(())
}

fn get_log_level(mut guest: Guest<'_>, level_at: u32) -> Result<(), Failure> {
    let level = guest.state().log_sink().level();
    Ok(guest.write_u32(level_at, level as u32)?)
}
