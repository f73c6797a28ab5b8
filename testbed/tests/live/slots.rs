//! Slots against a real redis-server.

use slotmesh_engine::Slot;
use slotmesh_testbed::{Port, RedisServer};

#[test]
fn keys_hash_to_the_slots_that_redis_says() {
    // By itself Redis takes its own port and 10,000, which some outgoing connection may have.
    let bus = Port::free().unwrap();
    let bus_port = bus.number().to_string();
    let options = ["--cluster-enabled", "yes", "--cluster-port", &bus_port];
    let server = RedisServer::start(&options).unwrap();
    let mut connection = server.connect().unwrap();
    let mut keys: Vec<Vec<u8>> = (0..2000).map(|number| format!("key:{number}").into()).collect();
    keys.extend((0..=255).map(|byte| vec![byte]));
    keys.extend((0..200).map(|length| vec![0xa5; length]));
    let tagged: [&[u8]; 12] = [
        b"{user1000}.following",
        b"foo{}{bar}",
        b"foo{{bar}}zap",
        b"foo{bar}{zap}",
        b"{}",
        b"{a",
        b"a}",
        b"}{",
        b"}{a}",
        b"{\0\xff\r\n}x",
        b"{a}{",
        b"{{}a}",
    ];
    keys.extend(tagged.map(<[u8]>::to_vec));
    let mut pipeline = redis::pipe();
    for key in &keys {
        pipeline.cmd("CLUSTER").arg("KEYSLOT").arg(key);
    }
    let slots: Vec<u16> = pipeline.query(&mut connection).unwrap();
    for (key, slot) in keys.iter().zip(slots) {
        assert_eq!(Slot::of(key).number(), slot, "{}", key.escape_ascii());
    }
}
