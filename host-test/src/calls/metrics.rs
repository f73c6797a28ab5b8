//! `proxy_define_metric`, `proxy_increment_metric`, `proxy_record_metric`, `proxy_get_metric`.

use std::collections::BTreeMap;

use wasmtime::{Caller, Linker};

use super::ENV;
use crate::{
    abi::{Failure, Guest, Status, answer},
    state::State,
};

pub(super) fn link(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap(
        ENV,
        "proxy_define_metric",
        |guest: Caller<'_, State>, kind: u32, name: u32, name_size: u32, id_at: u32| {
            answer(define_metric(Guest(guest), kind, name, name_size, id_at))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_increment_metric",
        |mut guest: Caller<'_, State>, id: u32, offset: i64| {
            answer(
                guest.data_mut().running_mut().metrics.increment(id, offset).map_err(Failure::from),
            )
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_record_metric",
        |mut guest: Caller<'_, State>, id: u32, value: u64| {
            answer(guest.data_mut().running_mut().metrics.record(id, value).map_err(Failure::from))
        },
    )?;
    linker.func_wrap(
        ENV,
        "proxy_get_metric",
        |guest: Caller<'_, State>, id: u32, value_at: u32| {
            answer(get_metric(Guest(guest), id, value_at))
        },
    )?;
    Ok(())
}

/// A plugin's metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Metric {
    /// Only grows.
    Counter(u64),
    /// Goes up and down.
    Gauge(u64),
    /// Values recorded: how many, and their sum.
    Histogram {
        /// How many.
        count: u64,
        /// Of all of them.
        sum: u64,
    },
}

/// The metrics of one VM by name. A metric may be defined again: it has two ids then.
#[derive(Default)]
pub(crate) struct Metrics {
    by_name: BTreeMap<String, Metric>,
    names: Vec<(u32, String)>,
}

impl Metrics {
    pub(crate) fn all(&self) -> &BTreeMap<String, Metric> {
        &self.by_name
    }

    fn define(&mut self, kind: u32, name: &str) -> Result<u32, Status> {
        let fresh = match kind {
            0 => Metric::Counter(0),
            1 => Metric::Gauge(0),
            2 => Metric::Histogram { count: 0, sum: 0 },
            _ => return Err(Status::BadArgument),
        };
        let index = u32::try_from(self.names.len()).map_err(|_| Status::InternalFailure)?;
        self.by_name.entry(name.into()).or_insert(fresh);
        self.names.push((kind, name.into()));
        // As in Envoy the low two bits of an id say the kind.
        Ok(index << 2 | kind)
    }

    fn increment(&mut self, id: u32, offset: i64) -> Result<(), Status> {
        match self.find(id)? {
            Metric::Counter(value) if offset > 0 => *value += offset.unsigned_abs(),
            Metric::Gauge(value) => *value = value.saturating_add_signed(offset),
            Metric::Counter(_) | Metric::Histogram { .. } => return Err(Status::BadArgument),
        }
        Ok(())
    }

    fn record(&mut self, id: u32, value: u64) -> Result<(), Status> {
        match self.find(id)? {
            Metric::Counter(counter) => *counter += value,
            Metric::Gauge(gauge) => *gauge = value,
            Metric::Histogram { count, sum } => {
                *count += 1;
                *sum = sum.wrapping_add(value);
            }
        }
        Ok(())
    }

    fn value(&mut self, id: u32) -> Result<u64, Status> {
        match self.find(id)? {
            Metric::Counter(value) | Metric::Gauge(value) => Ok(*value),
            Metric::Histogram { .. } => Err(Status::BadArgument),
        }
    }

    fn find(&mut self, id: u32) -> Result<&mut Metric, Status> {
        let index = usize::try_from(id >> 2).map_err(|_| Status::NotFound)?;
        let (kind, name) = self.names.get(index).ok_or(Status::NotFound)?;
        if *kind != id & 3 {
            return Err(Status::NotFound);
        }
        self.by_name.get_mut(name).ok_or(Status::NotFound)
    }
}

fn define_metric(
    mut guest: Guest<'_>,
    kind: u32,
    name: u32,
    name_size: u32,
    id_at: u32,
) -> Result<(), Failure> {
    let (name, state) = guest.bytes_and_state(name, name_size)?;
    let id = state.running_mut().metrics.define(kind, &String::from_utf8_lossy(name))?;
    Ok(guest.write_u32(id_at, id)?)
}

fn get_metric(mut guest: Guest<'_>, id: u32, value_at: u32) -> Result<(), Failure> {
    let value = guest.state().running_mut().metrics.value(id)?;
    Ok(guest.write_u64(value_at, value)?)
}
