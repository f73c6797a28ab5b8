//! What docs/comparison.md says of Slotmesh, and that its probes see what is wrong with redis_proxy.

use slotmesh_testbed::compare::{Contender, DEFECTS, Defect, Ground, Sight};

/// Beginnings of what was done, of probes that wait for features that are still to come.
const TO_COME: [(u8, &str); 15] = [
    (1, ""),
    (2, "a mirror"),
    (3, ""),
    (8, "EVAL return(1) 0"),
    (8, "EVALSHA "),
    (8, "FUNCTION"),
    (8, "MULTI"),
    (11, "CLUSTER SLOTS"),
    (11, "CLUSTER SHARDS"),
    (11, "CLUSTER NODES"),
    (11, "CLUSTER MYID"),
    (12, "ROLE"),
    (12, "CONFIG GET"),
    (12, "INFO"),
    (14, ""),
];

fn is_to_come(defect: &Defect, sight: &Sight) -> bool {
    defect.number == 14
        || TO_COME
            .iter()
            .any(|(number, asked)| defect.number == *number && sight.asked.starts_with(asked))
}

#[test]
fn slotmesh_has_none_of_the_defects_it_says_it_has_not_and_redis_proxy_has_each() {
    let ground = Ground::start().unwrap();
    let fast = || DEFECTS.iter().filter(|defect| !defect.slow);
    for (defect, sights) in ground.look(Contender::Slotmesh, fast()).unwrap() {
        for sight in sights.iter().filter(|sight| !is_to_come(defect, sight)) {
            assert!(sight.sound, "{}: {sight:?}", defect.title);
        }
    }
    // Probes that find nothing there would prove nothing here.
    for (defect, sights) in ground.look(Contender::RedisProxy, fast()).unwrap() {
        assert!(sights.iter().any(|sight| !sight.sound), "{}: {sights:?}", defect.title);
    }
}
