//! Values that must never be seen.

use std::fmt;

/// A password or user name: written out nowhere, not even in a debug print.
#[derive(Clone, Eq, PartialEq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Keeps `value` to itself from now on.
    pub fn new(value: impl Into<Box<[u8]>>) -> Self {
        Self(value.into())
    }

    /// The value, for the one place that has to send or compare it.
    pub fn reveal(&self) -> &[u8] {
        &self.0
    }

    /// Whether `guess` is the value; how long that takes tells nothing but the lengths.
    pub fn is(&self, guess: &[u8]) -> bool {
        let differences =
            self.0.iter().zip(guess).fold(0, |all, (left, right)| all | (left ^ right));
        self.0.len() == guess.len() && std::hint::black_box(differences) == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_tells_only_whether_a_guess_is_right() {
        let secret = Secret::new(*b"hunter2");
        assert!(secret.is(b"hunter2"));
        for guess in [&b"hunter3"[..], b"hunter", b"hunter22", b""] {
            assert!(!secret.is(guess));
        }
        assert_eq!(format!("{secret:?}"), "[secret]");
    }
}
