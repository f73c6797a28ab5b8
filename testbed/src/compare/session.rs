//! A client whose replies are texts that are the same on every run.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::wire::RawClient;

/// A reply longer than this is cut.
const SHOWN: usize = 100;

/// One connection.
pub(super) struct Session(RawClient);

impl Session {
    pub(super) fn connect(addr: SocketAddr) -> Result<Self> {
        Ok(Self(RawClient::connect(addr).with_context(|| addr.to_string())?))
    }

    /// The reply to `words`, which stand between spaces, as [`show`] shows it.
    pub(super) fn ask(&mut self, words: &str) -> Result<String> {
        let words: Vec<&str> = words.split(' ').collect();
        self.call(&words)
    }

    /// The reply to a command whose words hold spaces themselves.
    pub(super) fn call(&mut self, words: &[&str]) -> Result<String> {
        let reply = self.0.call(words).with_context(|| format!("no reply to {words:?}"))?;
        Ok(show(&reply))
    }

    /// The first reply to these bytes.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<String> {
        self.0.send(bytes)?;
        let reply = self.0.read();
        Ok(show(&reply.with_context(|| format!("no reply to {}", bytes.escape_ascii()))?))
    }

    /// A reply's bytes.
    pub(super) fn bytes(&mut self, words: &str) -> Result<Vec<u8>> {
        let words: Vec<&str> = words.split(' ').collect();
        self.0.call(&words).with_context(|| format!("no reply to {words:?}"))
    }
}

/// A reply as on the wire, with a space for each line end and without the ports of this run.
pub(super) fn show(reply: &[u8]) -> String {
    let text = String::from_utf8_lossy(reply).replace("\r\n", " ");
    let mut shown = without_ports(text.trim_end());
    if let Some((end, _)) = shown.char_indices().nth(SHOWN) {
        shown.truncate(end);
        shown.push_str("...");
    }
    shown
}

fn without_ports(text: &str) -> String {
    const HOSTS: [&str; 2] = ["127.0.0.1:", "localhost:"];
    let mut out = text.to_owned();
    for host in HOSTS {
        let mut parts = out.split(host);
        let mut masked = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            masked.push_str(host);
            masked.push_str("port");
            masked.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
        }
        out = masked;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_one_line_without_ports() {
        assert_eq!(show(b"-MOVED 1 127.0.0.1:2184\r\n"), "-MOVED 1 127.0.0.1:port");
        assert_eq!(show(b"*2\r\n$1\r\na\r\n$-1\r\n"), "*2 $1 a $-1");
        assert_eq!(show("x".repeat(200).as_bytes()).len(), SHOWN + 3);
    }
}
