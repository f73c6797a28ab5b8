//! Keys are asked for one by one, even when they share a slot.

use anyhow::Result;

use super::counts;
use super::{Look, Sight};

const KEYS: usize = 90;

pub(super) fn probe(look: &Look<'_>) -> Result<Vec<Sight>> {
    let mut sights = Vec::new();
    let mut session = look.connect()?;
    for (command, stats) in [("MGET", ["mget", "get"]), ("DEL", ["del", "unlink"])] {
        let keys: Vec<String> = (0..KEYS).map(|number| format!("{{tag}}:{number}")).collect();
        counts::reset(look.cluster().nodes())?;
        session.ask(&format!("{command} {}", keys.join(" ")))?;
        let primaries = look.cluster().primaries()?;
        let counts = counts::of(primaries)?;
        let sent: u64 = stats.iter().filter_map(|name| counts.get(*name)).map(|c| c.calls).sum();
        let asked = format!("{command} of {KEYS} keys of one slot");
        sights.push(Sight::exactly(&asked, "commands sent: 1", format!("commands sent: {sent}")));
    }
    Ok(sights)
}
