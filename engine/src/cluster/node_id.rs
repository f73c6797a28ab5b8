//! What a node calls itself: it keeps the same id under every address.

use std::fmt;

/// Redis uses 40 hexadecimal digits. Others may use something else, but not more than this.
const LONGEST: usize = 64;

/// The id of a node in its cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NodeId(Box<str>);

impl NodeId {
    /// Reads an id; `None` if it cannot be one.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let is_id = (1..=LONGEST).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        let text = std::str::from_utf8(text).ok().filter(|_| is_id)?;
        Some(Self(text.into()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_short_word() {
        let id = "4ffea04e65cb6cba9dbb1d3c6a1b1b3a3b5a2a11";
        assert_eq!(NodeId::parse(id.as_bytes()).unwrap().to_string(), id);
        assert_eq!(NodeId::parse(b""), None);
        assert_eq!(NodeId::parse(b"two words"), None);
        assert_eq!(NodeId::parse(&[b'a'; LONGEST + 1]), None);
    }
}
