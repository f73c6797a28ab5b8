//! The traffic itself, against the reference: a standalone redis-server.

use crate::support::{Client, Exchange, Workload, exchange};
use slotmesh_testbed::RedisServer;

#[test]
fn a_standalone_redis_gives_every_reply_the_workload_expects() {
    let server = RedisServer::start(&[]).unwrap();
    let mut client = Client::connect(server.addr());
    let mut workload = Workload::new(0);
    let exchanges: Vec<Exchange> = (0..40).flat_map(|_| workload.round()).collect();
    assert!(exchanges.len() > 4000, "{}", exchanges.len());
    exchange(&mut client, &exchanges);
}
