//! The few functions of `wasi_snapshot_preview1` that Envoy offers and a plugin needs.

use wasmtime::{Caller, Linker, bail};

use crate::{
    abi::{Guest, Status},
    clock::nanos_of,
    log::Level,
    state::State,
};

const WASI: &str = "wasi_snapshot_preview1";

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        WASI,
        "clock_time_get",
        |guest: Caller<'_, State>, clock: u32, _precision: u64, time_at: u32| {
            errno(clock_time_get(Guest(guest), clock, time_at))
        },
    )?;
    linker.func_wrap(WASI, "random_get", |guest: Caller<'_, State>, at: u32, size: u32| {
        errno(random_get(Guest(guest), at, size))
    })?;
    linker.func_wrap(
        WASI,
        "environ_sizes_get",
        |guest: Caller<'_, State>, count_at: u32, size_at: u32| {
            errno(environ_sizes_get(Guest(guest), count_at, size_at))
        },
    )?;
    linker.func_wrap(
        WASI,
        "environ_get",
        |guest: Caller<'_, State>, pointers_at: u32, strings_at: u32| {
            errno(environ_get(Guest(guest), pointers_at, strings_at))
        },
    )?;
    linker.func_wrap(
        WASI,
        "fd_write",
        |guest: Caller<'_, State>, fd: u32, slices: u32, count: u32, written_at: u32| {
            errno(fd_write(Guest(guest), fd, slices, count, written_at))
        },
    )?;
    linker.func_wrap(
        WASI,
        "proc_exit",
        |_: Caller<'_, State>, code: u32| -> wasmtime::Result<()> {
            bail!("the plugin called proc_exit({code})")
        },
    )?;
    Ok(())
}

/// WASI's error numbers.
#[derive(Clone, Copy)]
enum Errno {
    BadFileDescriptor = 8,
    Fault = 21,
    NotSupported = 58,
}

impl From<Status> for Errno {
    fn from(_: Status) -> Self {
        Self::Fault
    }
}

fn errno(result: Result<(), Errno>) -> u32 {
    result.map_or_else(|errno| errno as u32, |()| 0)
}

fn clock_time_get(mut guest: Guest<'_>, clock: u32, time_at: u32) -> Result<(), Errno> {
    const REALTIME: u32 = 0;
    const MONOTONIC: u32 = 1;
    let time = match clock {
        REALTIME => guest.state().clock.wall(),
        MONOTONIC => guest.state().clock.elapsed(),
        _ => return Err(Errno::NotSupported),
    };
    Ok(guest.write_u64(time_at, nanos_of(time))?)
}

fn random_get(mut guest: Guest<'_>, mut at: u32, size: u32) -> Result<(), Errno> {
    guest.bytes(at, size)?;
    let mut block = [0; 256];
    let mut left = size as usize;
    while left > 0 {
        let length = left.min(block.len());
        let (chunk, _) = block.split_at_mut(length);
        guest.state().running_mut().random.fill(chunk);
        guest.write(at, chunk)?;
        left -= length;
        at = at.saturating_add(u32::try_from(length).unwrap_or(u32::MAX));
    }
    Ok(())
}

fn environ_sizes_get(mut guest: Guest<'_>, count_at: u32, size_at: u32) -> Result<(), Errno> {
    let environment = environment(&mut guest);
    let size: usize = environment.iter().map(Vec::len).sum();
    guest.write_u32(count_at, u32::try_from(environment.len()).map_err(|_| Errno::Fault)?)?;
    Ok(guest.write_u32(size_at, u32::try_from(size).map_err(|_| Errno::Fault)?)?)
}

fn environ_get(mut guest: Guest<'_>, pointers_at: u32, strings_at: u32) -> Result<(), Errno> {
    let (mut pointer_at, mut string_at) = (pointers_at, strings_at);
    for variable in environment(&mut guest) {
        guest.write_u32(pointer_at, string_at)?;
        guest.write(string_at, &variable)?;
        let size = u32::try_from(variable.len()).map_err(|_| Errno::Fault)?;
        string_at = string_at.checked_add(size).ok_or(Errno::Fault)?;
        pointer_at = pointer_at.checked_add(4).ok_or(Errno::Fault)?;
    }
    Ok(())
}

/// `NAME=value` with its zero byte, each.
fn environment(guest: &mut Guest<'_>) -> Vec<Vec<u8>> {
    let environment = guest.state().config.environment.iter();
    environment.map(|(name, value)| format!("{name}={value}\0").into_bytes()).collect()
}

/// Standard output and error become log lines, as in Envoy.
fn fd_write(
    mut guest: Guest<'_>,
    fd: u32,
    slices: u32,
    count: u32,
    written_at: u32,
) -> Result<(), Errno> {
    let level = match fd {
        1 => Level::Info,
        2 => Level::Error,
        _ => return Err(Errno::BadFileDescriptor),
    };
    let table = guest.bytes(slices, count.checked_mul(8).ok_or(Errno::Fault)?)?;
    let mut text = Vec::new();
    for slice in table.chunks_exact(8) {
        let (pointer, size) = slice.split_at(4);
        let word = |bytes: &[u8]| bytes.try_into().map(u32::from_le_bytes);
        let (Ok(pointer), Ok(size)) = (word(pointer), word(size)) else {
            return Err(Errno::Fault);
        };
        text.extend_from_slice(guest.bytes(pointer, size)?);
    }
    let written = u32::try_from(text.len()).map_err(|_| Errno::Fault)?;
    if !text.is_empty() {
        let text = String::from_utf8_lossy(&text);
        guest.state().log(level, text.strip_suffix('\n').unwrap_or(&text));
    }
    Ok(guest.write_u32(written_at, written)?)
}
