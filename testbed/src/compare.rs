//! Defects that were measured in Envoy's redis_proxy, looked for in it and in Slotmesh: on the same
//! Envoy binary, before the same Redis Cluster, told the same words.
//!
//! A probe does what a user would do and says what it saw and what was wanted. It knows nothing of
//! the proxy before it.

mod contender;
mod counts;
mod document;
mod errors;
mod failover;
mod keys;
mod protocol;
mod redirection;
mod replies;
mod scan;
mod scripts;
mod session;
mod slots;
mod slow;
mod splitting;
mod topology;
mod watch;
mod writes;

use std::net::SocketAddr;

use anyhow::{Context, Result};

pub use contender::Contender;
use contender::{Proxy, Setup, usual};
pub use document::document;
use session::Session;

use crate::{ClusterOptions, RedisCluster, RedisServer};

/// One defect and the way to look for it.
#[derive(Debug)]
pub struct Defect {
    /// Its number in the list of what was measured.
    pub number: u8,
    /// What is wrong.
    pub title: &'static str,
    /// Whether looking takes many seconds.
    pub slow: bool,
    probe: fn(&Look<'_>) -> Result<Vec<Sight>>,
}

/// What was seen of one proxy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sight {
    /// What the client did.
    pub asked: String,
    /// What it should have seen.
    pub wanted: String,
    /// What it saw; the same on every run.
    pub seen: String,
    /// Whether that is what was wanted.
    pub sound: bool,
}

/// What stands behind the proxies: six nodes in one cluster, and a Redis alone that says how it is
/// meant.
#[derive(Debug)]
pub struct Ground {
    cluster: RedisCluster,
    single: RedisServer,
}

/// One proxy, to be looked at.
struct Look<'a> {
    ground: &'a Ground,
    contender: Contender,
    /// The proxy as most users configure it.
    usual: &'a Proxy,
}

/// All of them, in their order.
pub const DEFECTS: [Defect; 14] = [
    Defect { number: 1, title: "WATCH watches nothing", slow: false, probe: watch::probe },
    Defect { number: 2, title: "Writes are taken for reads", slow: false, probe: writes::probe },
    Defect { number: 3, title: "SCAN cannot be iterated", slow: false, probe: scan::probe },
    Defect {
        number: 4,
        title: "One slow command fails its neighbours",
        slow: true,
        probe: slow::probe,
    },
    Defect { number: 5, title: "A failover is felt", slow: true, probe: failover::probe },
    Defect {
        number: 6,
        title: "RESP2 and RESP3 exclude each other",
        slow: false,
        probe: protocol::probe,
    },
    Defect { number: 7, title: "What is no key is hashed as one", slow: false, probe: keys::probe },
    Defect { number: 8, title: "Scripts are refused", slow: false, probe: scripts::probe },
    Defect {
        number: 9,
        title: "Keys are asked for one by one",
        slow: false,
        probe: splitting::probe,
    },
    Defect {
        number: 10,
        title: "Redirections reach the client",
        slow: false,
        probe: redirection::probe,
    },
    Defect {
        number: 11,
        title: "The real topology shows through",
        slow: false,
        probe: topology::probe,
    },
    Defect {
        number: 12,
        title: "Replies differ from those of Redis",
        slow: false,
        probe: replies::probe,
    },
    Defect { number: 13, title: "Errors lack their code", slow: false, probe: errors::probe },
    Defect {
        number: 14,
        title: "MULTI over several slots shows redirections",
        slow: false,
        probe: slots::probe,
    },
];

impl Ground {
    /// Starts the servers.
    ///
    /// # Errors
    /// One of them does not start.
    pub fn start() -> Result<Self> {
        let cluster = RedisCluster::start(ClusterOptions::default())?;
        Ok(Self { cluster, single: RedisServer::start(&[])? })
    }

    /// Which Redis it is.
    ///
    /// # Errors
    /// It does not answer.
    pub fn version(&self) -> Result<String> {
        let info = self.single.cli(&["INFO", "server"])?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"));
        Ok(format!("Redis {}", version.context("a Redis without a version")?.trim()))
    }

    /// Looks for `defects` in one proxy.
    ///
    /// # Errors
    /// The proxy does not start, or gives no reply where even an error would do.
    pub fn look<'d>(
        &self,
        contender: Contender,
        defects: impl IntoIterator<Item = &'d Defect>,
    ) -> Result<Vec<(&'d Defect, Vec<Sight>)>> {
        let usual = contender.start(&Setup::new(usual(), &self.cluster))?;
        let look = Look { ground: self, contender, usual: &usual };
        let defects = defects.into_iter();
        defects
            .map(|defect| {
                self.cluster.flush()?;
                self.single.cli(&["FLUSHALL"])?;
                let sights = (defect.probe)(&look);
                Ok((defect, sights.with_context(|| format!("{contender:?}: {}", defect.title))?))
            })
            .collect()
    }
}

impl Look<'_> {
    fn cluster(&self) -> &RedisCluster {
        &self.ground.cluster
    }

    fn start(&self, setup: &Setup) -> Result<Proxy> {
        self.contender.start(setup)
    }

    fn connect(&self) -> Result<Session> {
        self.usual.connect()
    }

    fn tags(&self) -> Result<Vec<String>> {
        tags(self.cluster())
    }

    /// A scenario that comes out as it does before a Redis alone.
    fn like_redis(
        &self,
        asked: &str,
        scenario: impl Fn(SocketAddr) -> Result<String>,
    ) -> Result<Sight> {
        let wanted = scenario(self.ground.single.addr()).context("a Redis alone")?;
        let seen = scenario(self.usual.addr())?;
        Ok(Sight { asked: asked.to_owned(), sound: seen == wanted, wanted, seen })
    }

    /// Single commands, each answered as a Redis alone does.
    fn answered_like_redis(&self, commands: &[&str]) -> Result<Vec<Sight>> {
        let sights = commands.iter().map(|words| {
            self.like_redis(words, |addr| Ok(format!("`{}`", Session::connect(addr)?.ask(words)?)))
        });
        sights.collect()
    }
}

impl Sight {
    fn new(asked: &str, wanted: &str, seen: impl Into<String>, sound: bool) -> Self {
        let (asked, wanted) = (asked.to_owned(), wanted.to_owned());
        Self { asked, wanted, seen: seen.into(), sound }
    }

    /// What is wanted is exactly this.
    fn exactly(asked: &str, wanted: &str, seen: impl Into<String>) -> Self {
        let seen = seen.into();
        let sound = seen == wanted;
        Self::new(asked, wanted, seen, sound)
    }
}

/// A hash tag for each shard, in the order of their slots; the same on every run, as long as slots
/// are spread evenly.
fn tags(cluster: &RedisCluster) -> Result<Vec<String>> {
    let node = cluster.nodes().first().context("no node")?;
    let mut tags = Vec::new();
    for primary in cluster.primaries()? {
        let addr = primary.addr().to_string();
        let members = cluster.members()?;
        let member = members.iter().find(|member| member.addr == addr).context("no such member")?;
        for number in 0.. {
            let tag = format!("t{number}");
            let slot = node.cli(&["CLUSTER", "KEYSLOT", &tag])?;
            if member.owns(slot.trim().parse()?) {
                tags.push(tag);
                break;
            }
        }
    }
    Ok(tags)
}
