//! What the nodes of a path answer: always the same.

/// Bytes of every value.
pub(crate) const VALUE: usize = 64;

/// Tags of keys on the first, second and third shard (slots 3300, 7365 and 15495).
pub(crate) const TAGS: [&str; 3] = ["b", "c", "a"];

/// Keys with numbers that follow each other lie on shards in turn.
pub(crate) fn key(number: usize) -> String {
    let tag = TAGS.get(number % TAGS.len()).copied().unwrap_or_default();
    format!("{{{tag}}}:{number:08}")
}

/// The replies to all of these commands, which the proxy has sent to one node.
pub(crate) fn replies(sent: &[u8]) -> Vec<u8> {
    commands(sent).iter().map(|words| reply(words)).collect::<String>().into_bytes()
}

fn reply(words: &[String]) -> String {
    let value = || bulk(&"x".repeat(VALUE));
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["HELLO", "3"] => "%0\r\n".to_owned(),
        ["HELLO", "2"] => "*0\r\n".to_owned(),
        ["PING"] => "+PONG\r\n".to_owned(),
        ["CLUSTER", "INFO"] => bulk("cluster_current_epoch:1"),
        ["CLUSTER", "SLOTS"] => topology(),
        ["GET", _] => value(),
        ["MGET", ref keys @ ..] => format!("*{}\r\n{}", keys.len(), value().repeat(keys.len())),
        _ => "+OK\r\n".to_owned(),
    }
}

/// Three shards, each with a replica.
fn topology() -> String {
    let node = |port: usize| format!("*2\r\n$4\r\nnode\r\n:{port}\r\n");
    let shards = [(0, 5460), (5461, 10922), (10923, 16383)];
    let shards = shards.iter().enumerate().map(|(number, (first, last))| {
        let nodes = node(1 + number) + &node(4 + number);
        format!("*4\r\n:{first}\r\n:{last}\r\n{nodes}")
    });
    format!("*3\r\n{}", shards.collect::<String>())
}

/// Splits arrays of bulk strings, which hold no line ends, into words.
fn commands(sent: &[u8]) -> Vec<Vec<String>> {
    let text = String::from_utf8_lossy(sent);
    let mut commands = Vec::new();
    let mut lines = text.split_terminator("\r\n");
    while let Some(header) = lines.next() {
        let count: usize = header.trim_start_matches('*').parse().unwrap_or_default();
        let mut words = Vec::new();
        for _ in 0..count {
            lines.next(); // The word's length.
            words.push(lines.next().unwrap_or_default().to_owned());
        }
        commands.push(words);
    }
    commands
}

/// A command as a client sends it.
pub(crate) fn command<S: AsRef<str>>(words: &[S]) -> Vec<u8> {
    let bulks: String = words.iter().map(|word| bulk(word.as_ref())).collect();
    format!("*{}\r\n{bulks}", words.len()).into_bytes()
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_gets_its_reply() {
        let sent = [command(&["MGET", "a", "b"]), command(&["SET", "a", "b"])].concat();
        let replies = String::from_utf8(replies(&sent)).unwrap();
        let value = "x".repeat(VALUE);
        assert_eq!(replies, format!("*2\r\n$64\r\n{value}\r\n$64\r\n{value}\r\n+OK\r\n"));
    }
}
