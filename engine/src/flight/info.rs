//! The text of INFO, as one server with all keys would give it.

use std::io::Write;

/// The keys of one database.
#[derive(Clone, Copy, Debug, Default)]
struct Keyspace {
    keys: u64,
    expires: u64,
    /// Milliseconds left of all keys that expire together.
    total_ttl: u128,
}

/// Appends the first of `texts`, one of each primary, with the keys of all of them, and with the
/// words of a server that is no cluster.
pub(crate) fn merge(texts: &[&[u8]], out: &mut Vec<u8>) {
    let mut keyspace = Keyspace::default();
    for line in texts.iter().flat_map(|text| lines(text)) {
        keyspace.add(line);
    }
    for line in texts.first().into_iter().flat_map(|text| lines(text)) {
        match line {
            b"redis_mode:cluster" => out.extend_from_slice(b"redis_mode:standalone"),
            b"cluster_enabled:1" => out.extend_from_slice(b"cluster_enabled:0"),
            _ if line.starts_with(b"db0:") => continue,
            _ => out.extend_from_slice(line),
        }
        out.extend_from_slice(b"\r\n");
        if line == b"# Keyspace" && keyspace.keys > 0 {
            keyspace.write(out);
        }
    }
}

/// The lines of a text that ends with a line's end.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let empty = text.is_empty();
    let lines = text.split(|byte| *byte == b'\n').skip(usize::from(empty));
    lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}

impl Keyspace {
    /// Adds what `db0:keys=1,expires=0,avg_ttl=0` says; other lines say nothing.
    fn add(&mut self, line: &[u8]) {
        let Some(fields) = line.strip_prefix(b"db0:") else { return };
        let field = |name: &[u8]| -> Option<u64> {
            let mut fields = fields.split(|byte| *byte == b',');
            let value = fields.find_map(|field| field.strip_prefix(name)?.strip_prefix(b"="))?;
            std::str::from_utf8(value).ok()?.parse().ok()
        };
        let expires = field(b"expires").unwrap_or(0);
        let ttl = u128::from(field(b"avg_ttl").unwrap_or(0));
        self.keys = self.keys.saturating_add(field(b"keys").unwrap_or(0));
        self.expires = self.expires.saturating_add(expires);
        self.total_ttl = self.total_ttl.saturating_add(ttl.saturating_mul(expires.into()));
    }

    fn write(self, out: &mut Vec<u8>) {
        let Self { keys, expires, total_ttl } = self;
        let avg_ttl = total_ttl.checked_div(expires.into()).unwrap_or(0);
        let _ = write!(out, "db0:keys={keys},expires={expires},avg_ttl={avg_ttl}\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(texts: &[&str]) -> String {
        let texts: Vec<_> = texts.iter().map(|text| text.as_bytes()).collect();
        let mut out = Vec::new();
        merge(&texts, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn it_speaks_of_one_server() {
        let text =
            "# Server\r\nredis_mode:cluster\r\nos:x\r\n\r\n# Cluster\r\ncluster_enabled:1\r\n";
        assert_eq!(
            merged(&[text, "# Server\r\nos:y\r\n"]),
            "# Server\r\nredis_mode:standalone\r\nos:x\r\n\r\n# Cluster\r\ncluster_enabled:0\r\n"
        );
        assert_eq!(merged(&["", ""]), "", "a section that is not there");
    }

    #[test]
    fn keys_are_those_of_all_primaries() {
        let text = |keys| format!("# Keyspace\r\n{keys}");
        let some = text("db0:keys=3,expires=1,avg_ttl=1000\r\n");
        let more = text("db0:keys=2,expires=3,avg_ttl=3000\r\n");
        let none = text("");
        assert_eq!(
            merged(&[&none, &some, &more]),
            "# Keyspace\r\ndb0:keys=5,expires=4,avg_ttl=2500\r\n"
        );
        assert_eq!(merged(&[&none, &none]), "# Keyspace\r\n");
    }
}
