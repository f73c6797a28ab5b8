//! What can be said before the proxy starts.

use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use slotmesh_testbed::holder;

/// Time for a seed to answer; a dead one must not delay the start for long.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Refuses a taken address, and says what to change.
pub(crate) fn is_free(setting: &str, addr: SocketAddr) -> Result<()> {
    let Err(error) = TcpListener::bind(addr) else { return Ok(()) };
    let another = format!("choose another with {setting}=n");
    match holder(addr.port()) {
        Some(holder) => bail!("{addr} is taken by {holder}; {another}"),
        None => bail!("cannot listen on {addr}: {error}; {another}"),
    }
}

/// Refuses seeds that are not `host:port`.
pub(crate) fn seeds_are_well_formed(seeds: &[String]) -> Result<()> {
    for seed in seeds {
        let parts = seed.rsplit_once(':');
        let well_formed = parts.is_some_and(|(host, port)| {
            !host.is_empty() && port.parse::<u16>().is_ok_and(|n| n > 0)
        });
        ensure!(well_formed, "SEEDS: {seed:?} is not host:port");
    }
    Ok(())
}

/// Says which seeds do not answer as a cluster node, and why.
pub(crate) fn warn_of_unreachable(seeds: &[String]) {
    let mut unreachable = 0;
    for seed in seeds {
        match check_seed(seed) {
            Ok(()) => eprintln!("seed {seed}: ok"),
            Err(error) => {
                eprintln!("warning: seed {seed}: {error:#}");
                unreachable += 1;
            }
        }
    }
    if unreachable == seeds.len() {
        eprintln!("WARNING: no seed is reachable. Clients will get errors until one is.");
    }
}

fn check_seed(seed: &str) -> Result<()> {
    let mut last = anyhow!("resolves to no address");
    for addr in seed.to_socket_addrs().context("cannot be resolved")? {
        match check_node(addr) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn check_node(addr: SocketAddr) -> Result<()> {
    // By hand first: its error is the operating system's own word.
    drop(TcpStream::connect_timeout(&addr, TIMEOUT)?);
    let client = redis::Client::open(format!("redis://{addr}/"))?;
    let mut connection = client.get_connection_with_timeout(TIMEOUT)?;
    connection.set_read_timeout(Some(TIMEOUT))?;
    let info: redis::RedisResult<String> = redis::cmd("CLUSTER").arg("INFO").query(&mut connection);
    // Its text, not the chain of causes, which repeats it.
    let info = info.map_err(|error| anyhow!("answers {error}"))?;
    ensure!(info.contains("cluster_state:ok"), "reports a cluster that is not ok");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotmesh_testbed::{Port, RedisServer};

    #[test]
    fn seeds_without_host_or_port_are_refused() {
        for seed in ["localhost", ":6379", "localhost:", "localhost:0", "localhost:70000"] {
            assert!(seeds_are_well_formed(&[seed.to_owned()]).is_err(), "{seed}");
        }
        assert!(seeds_are_well_formed(&["redis.example:6379".to_owned()]).is_ok());
    }

    #[test]
    fn a_seed_that_nobody_serves_is_refused() {
        let port = Port::free().unwrap();
        let error = check_seed(&port.addr().to_string()).unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[test]
    fn a_redis_outside_a_cluster_is_named_as_such() {
        let server = RedisServer::start(&[]).unwrap();
        let error = check_seed(&server.addr().to_string()).unwrap_err();
        assert!(error.to_string().contains("cluster support disabled"), "{error}");
    }
}
