//! Which commands are copied to a mirror.

use crate::config::Mirror;
use crate::rng::Rng;

impl Mirror {
    /// Whether a command is copied. Unless each command is to be drawn by itself, its first key
    /// decides: then a mirror has all of a key's writes or none, and is consistent in itself.
    pub(crate) fn wants(&self, read_only: bool, first_key: Option<&[u8]>, rng: &mut Rng) -> bool {
        if read_only && self.exclude_read_commands {
            return false;
        }
        let draw = match first_key {
            Some(key) if !self.draw_per_command => fingerprint(key),
            // What names no key concerns them all, so every sample has it.
            None if !self.draw_per_command => 0,
            _ => rng.next(),
        };
        self.fraction.contains(draw)
    }
}

/// A number that depends on nothing but the key: FNV-1a, its bits mixed once more.
fn fingerprint(key: &[u8]) -> u64 {
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Fraction;
    use crate::ids::ClusterId;

    fn half(draw_per_command: bool) -> Mirror {
        let fraction = Fraction { numerator: 50, denominator: 100 };
        Mirror {
            cluster: ClusterId::default(),
            exclude_read_commands: true,
            fraction,
            draw_per_command,
        }
    }

    #[test]
    fn reads_are_copied_unless_they_are_excluded() {
        let mut rng = Rng::new(1);
        let mirror = Mirror { fraction: Fraction::ALL, ..half(false) };
        assert!(!mirror.wants(true, Some(b"a"), &mut rng));
        assert!(mirror.wants(false, Some(b"a"), &mut rng));
        let mirror = Mirror { exclude_read_commands: false, ..mirror };
        assert!(mirror.wants(true, Some(b"a"), &mut rng));
    }

    #[test]
    fn a_sample_is_of_keys_and_the_same_on_every_run() {
        let mirror = half(false);
        let sample = |seed| -> Vec<bool> {
            let mut rng = Rng::new(seed);
            let keys = (0..1000).map(|number| format!("key:{number}"));
            keys.map(|key| mirror.wants(false, Some(key.as_bytes()), &mut rng)).collect()
        };
        assert_eq!(sample(1), sample(2));
        let copied = sample(1).iter().filter(|copied| **copied).count();
        assert!((450..550).contains(&copied), "{copied} of 1000");
        assert!(mirror.wants(false, None, &mut Rng::new(3)), "FLUSHALL concerns every sample");
    }

    #[test]
    fn each_command_may_be_drawn_by_itself() {
        let mut rng = Rng::new(1);
        let copied = (0..1000).filter(|_| half(true).wants(false, Some(b"a"), &mut rng)).count();
        assert!((450..550).contains(&copied), "{copied} of 1000");
    }
}
