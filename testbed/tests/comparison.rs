//! What docs/comparison.md says of Slotmesh, and that its probes see what is wrong with
//! redis_proxy.

use slotmesh_testbed::compare::{Contender, DEFECTS, Ground};

#[test]
fn slotmesh_has_none_of_the_defects_it_says_it_has_not_and_redis_proxy_has_each() {
    let ground = Ground::start().unwrap();
    let fast = || DEFECTS.iter().filter(|defect| !defect.slow);
    for (defect, sights) in ground.look(Contender::Slotmesh, fast()).unwrap() {
        for sight in &sights {
            assert!(sight.sound, "{}: {sight:?}", defect.title);
        }
    }
    // Probes that find nothing there would prove nothing here.
    for (defect, sights) in ground.look(Contender::RedisProxy, fast()).unwrap() {
        assert!(sights.iter().any(|sight| !sight.sound), "{}: {sights:?}", defect.title);
    }
}
