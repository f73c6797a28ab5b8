//! `proxy_register_shared_queue`, `proxy_enqueue_shared_queue`, `proxy_dequeue_shared_queue`.
//!
//! Envoy shares queues between VMs and threads. Here each VM has its own; the only one that
//! Slotmesh registers is one that nobody else can name.

use std::collections::VecDeque;

use wasmtime::{Caller, Linker};

use super::ENV;
use crate::{
    abi::{Failure, Guest, Status, answer},
    state::State,
};

/// A VM's queues; the id of one is its place, from 1.
#[derive(Default)]
pub(crate) struct Queues(Vec<Queue>);

#[derive(Default)]
struct Queue {
    name: Vec<u8>,
    items: VecDeque<Vec<u8>>,
}

impl Queues {
    fn register(&mut self, name: &[u8]) -> u32 {
        let place = self.0.iter().position(|queue| queue.name == name).unwrap_or_else(|| {
            self.0.push(Queue { name: name.to_vec(), ..Queue::default() });
            self.0.len() - 1
        });
        u32::try_from(place + 1).unwrap_or(u32::MAX)
    }

    fn items(&mut self, id: u32) -> Result<&mut VecDeque<Vec<u8>>, Status> {
        let place = usize::try_from(id).ok().and_then(|id| id.checked_sub(1));
        let queue = place.and_then(|place| self.0.get_mut(place));
        Ok(&mut queue.ok_or(Status::NotFound)?.items)
    }
}

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_register_shared_queue",
        |guest: Caller<'_, State>, name: u32, name_size: u32, id_at: u32| {
            answer(register(Guest(guest), name, name_size, id_at))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_enqueue_shared_queue",
        |guest: Caller<'_, State>, id: u32, data: u32, size: u32| {
            answer(enqueue(Guest(guest), id, data, size))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_dequeue_shared_queue",
        |guest: Caller<'_, State>, id: u32, address_at: u32, size_at: u32| {
            answer(dequeue(Guest(guest), id, address_at, size_at))
        },
    )?;
    Ok(())
}

fn register(mut guest: Guest<'_>, name: u32, size: u32, id_at: u32) -> Result<(), Failure> {
    let (name, state) = guest.bytes_and_state(name, size)?;
    let id = state.running_mut().queues.register(name);
    Ok(guest.write_u32(id_at, id)?)
}

/// Envoy calls back the plugin after the events that are at hand; here there is one at hand at a
/// time.
fn enqueue(mut guest: Guest<'_>, id: u32, data: u32, size: u32) -> Result<(), Failure> {
    let (data, state) = guest.bytes_and_state(data, size)?;
    state.running_mut().queues.items(id)?.push_back(data.to_vec());
    state.ready_queues.push_back((state.role(), id));
    Ok(())
}

fn dequeue(mut guest: Guest<'_>, id: u32, address_at: u32, size_at: u32) -> Result<(), Failure> {
    let item = guest.state().running_mut().queues.items(id)?.pop_front().ok_or(Status::Empty)?;
    guest.hand_over_bytes(&item, address_at, size_at)
}
