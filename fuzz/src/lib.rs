//! The engine under bytes that nobody would send: what libFuzzer makes up, and the seeds it begins
//! with.
//!
//! Every target takes any bytes, panics when a promise is broken, and needs no more than the
//! engine: it is a state machine, so a script of events is all there is to it.

mod script;
mod targets;

/// A target by its name.
pub type Target = fn(&[u8]);

/// All targets; each has its seeds in `fuzz/seeds/<name>/`.
pub const TARGETS: [(&str, Target); 6] = [
    ("requests", targets::requests),
    ("replies", targets::replies),
    ("keys", targets::keys),
    ("configuration", targets::configuration),
    ("nodes", script::nodes),
    ("events", script::events),
];

/// The target of this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(own, _)| *own == name).map(|(_, target)| *target)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_target_survives_its_seeds_and_what_is_left_when_they_are_cut() {
        for (name, target) in super::TARGETS {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(name);
            let seeds: Vec<_> = fs::read_dir(&dir).expect(name).map(Result::unwrap).collect();
            assert!(!seeds.is_empty(), "{name} has no seeds");
            for seed in seeds {
                let bytes = fs::read(seed.path()).unwrap();
                for end in 0..=bytes.len() {
                    target(&bytes[..end]);
                }
            }
        }
    }
}
