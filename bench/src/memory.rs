//! What proxies weigh while they wait.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::contender::Contender;
use crate::generator::Generator;
use crate::load::{Load, Mix, Profile};
use crate::usage;

/// How many clients are connected.
pub(crate) const CLIENTS: usize = 500;

/// What `--only` selects it by.
pub(crate) const NAME: &str = "memory";

/// Bytes of one proxy's own memory.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Footprint {
    pub(crate) contender: String,
    /// Before it has had any client.
    pub(crate) idle: u64,
    /// While so many clients are connected, each of which has had replies.
    pub(crate) with_clients: u64,
}

/// Measures those whose process is known. The keys of [`load`] must be there.
pub(crate) fn measure(contenders: &[Contender], idle: &[Option<u64>]) -> Result<Vec<Footprint>> {
    let known = contenders.iter().zip(idle).filter_map(|(contender, idle)| {
        let (pid, idle) = (contender.pid?, (*idle)?);
        Some((contender, pid, idle))
    });
    let footprints = known.map(|(contender, pid, idle)| {
        let mut clients = Generator::connect(contender.addr, &load())?;
        clients.run(Duration::from_secs(1))?;
        let with_clients = usage::memory(pid)?;
        Ok(Footprint { contender: contender.name.clone(), idle, with_clients })
    });
    footprints.collect()
}

/// What each contender weighs now.
pub(crate) fn of_all(contenders: &[Contender]) -> Result<Vec<Option<u64>>> {
    contenders.iter().map(|contender| contender.pid.map(usage::memory).transpose()).collect()
}

/// What the clients do.
pub(crate) fn load() -> Load {
    Load {
        name: NAME,
        profile: Profile::Plain,
        mix: Mix::Get,
        clients: CLIENTS,
        pipeline: 1,
        value: 64,
        keys: 1000,
        beside_greedy: false,
        target: None,
    }
}
