//! `proxy_get_current_time_nanoseconds`, `proxy_set_tick_period_milliseconds`.

use std::time::Duration;

use wasmtime::{Caller, Linker};

use super::ENV;
use crate::{
    abi::{Failure, Guest, Status, answer},
    clock::nanos_of,
    state::{State, Tick},
};

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_get_current_time_nanoseconds",
        |guest: Caller<'_, State>, time_at: u32| {
            answer(get_current_time_nanoseconds(Guest(guest), time_at))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_set_tick_period_milliseconds",
        |mut guest: Caller<'_, State>, period: u32| {
            set_tick_period_milliseconds(guest.data_mut(), period);
            Status::Ok as u32
        },
    )?;
    Ok(())
}

fn get_current_time_nanoseconds(mut guest: Guest<'_>, time_at: u32) -> Result<(), Failure> {
    let now = nanos_of(guest.state().clock.wall());
    Ok(guest.write_u64(time_at, now)?)
}

/// The timer is the root context's, whichever of its contexts sets it, and starts anew; 0 stops it.
fn set_tick_period_milliseconds(state: &mut State, period: u32) {
    let period = Duration::from_millis(period.into());
    let tick = Tick { period, due: state.clock.elapsed() + period };
    match period.is_zero() {
        true => state.ticks.remove(&state.role()),
        false => state.ticks.insert(state.role(), tick),
    };
}
