//! How publish/subscribe looks on the wire.
//!
//! Connections to nodes speak RESP2 here, which every version of Redis does. A message for a client
//! of RESP3 differs from that in its first byte only: it is a push instead of an array.

use crate::command::TopicKind;
use crate::resp::{Protocol, Reply, encode};

/// What a node sends on a connection that is subscribed to something.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Incoming<'a> {
    /// Something was published, for all that are subscribed to this topic.
    Message(TopicKind, &'a [u8]),
    /// The connection is subscribed to the topic.
    Subscribed(TopicKind, &'a [u8]),
    /// The connection is not subscribed to the topic any more.
    Unsubscribed(TopicKind, &'a [u8]),
    /// Nothing about subscriptions: the reply to a command.
    Reply,
}

impl<'a> Incoming<'a> {
    /// Reads what a node has sent. Also reads what [`command`] has written, as the
    /// confirmation it asks for.
    pub(super) fn parse(frame: &'a [u8]) -> Self {
        let mut elements = Reply::new(frame).elements();
        let mut word = || elements.next().and_then(|element| Reply::new(element).bulk());
        let (Some(verb), Some(name)) = (word(), word()) else { return Self::Reply };
        let of = match verb {
            b"message" | b"pmessage" | b"smessage" => Self::Message,
            b"subscribe" | b"psubscribe" | b"ssubscribe" => Self::Subscribed,
            b"unsubscribe" | b"punsubscribe" | b"sunsubscribe" => Self::Unsubscribed,
            _ => return Self::Reply,
        };
        let kind = match verb.first() {
            Some(b'p') => TopicKind::Pattern,
            // "s" alone also begins "subscribe".
            Some(b's') if verb != b"subscribe" => TopicKind::ShardChannel,
            _ => TopicKind::Channel,
        };
        of(kind, name)
    }
}

/// Appends the command to a node that subscribes a connection to a topic, or ends that: `verb` is
/// [`TopicKind::subscribe`] or [`TopicKind::unsubscribe`].
pub(super) fn command(out: &mut Vec<u8>, verb: &[u8], name: &[u8]) {
    encode::command(out, &[verb, name]);
}

/// Appends a confirmation for a client: what happened, to which topic if any, and how many
/// subscriptions it has now.
pub(super) fn confirmation(
    out: &mut Vec<u8>,
    protocol: Protocol,
    verb: &[u8],
    name: Option<&[u8]>,
    count: usize,
) {
    encode::push_header(out, protocol, 3);
    encode::bulk(out, verb);
    match name {
        Some(name) => encode::bulk(out, name),
        None => encode::null(out, protocol),
    }
    encode::integer(out, i64::try_from(count).unwrap_or(i64::MAX));
}

/// Appends a message, as a node sent it, for a client of this protocol.
pub(super) fn message(out: &mut Vec<u8>, protocol: Protocol, frame: &[u8]) {
    out.push(match protocol {
        Protocol::Resp2 => b'*',
        Protocol::Resp3 => b'>',
    });
    out.extend_from_slice(frame.get(1..).unwrap_or_default());
}

/// Appends the reply to a PING of a RESP2 client that is subscribed to something.
pub(super) fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    encode::array_header(out, 2);
    encode::bulk(out, b"pong");
    encode::bulk(out, payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_sends_is_told_apart_by_its_first_word() {
        use TopicKind::{Channel, Pattern, ShardChannel};
        let cases: [(&[u8], Incoming<'_>); 8] = [
            (b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nx\r\n", Incoming::Message(Channel, b"c")),
            (
                b"*4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$1\r\nc\r\n$1\r\nx\r\n",
                Incoming::Message(Pattern, b"c*"),
            ),
            (
                b"*3\r\n$8\r\nsmessage\r\n$1\r\nc\r\n$1\r\nx\r\n",
                Incoming::Message(ShardChannel, b"c"),
            ),
            (b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n", Incoming::Subscribed(Channel, b"c")),
            (
                b"*3\r\n$10\r\nssubscribe\r\n$1\r\nc\r\n:1\r\n",
                Incoming::Subscribed(ShardChannel, b"c"),
            ),
            (
                b"*3\r\n$12\r\nsunsubscribe\r\n$1\r\nc\r\n:0\r\n",
                Incoming::Unsubscribed(ShardChannel, b"c"),
            ),
            (b"*2\r\n$4\r\npong\r\n$0\r\n\r\n", Incoming::Reply),
            (b"-MOVED 1 a:1\r\n", Incoming::Reply),
        ];
        for (frame, expected) in cases {
            assert_eq!(Incoming::parse(frame), expected, "{}", frame.escape_ascii());
        }
    }

    #[test]
    fn a_command_is_read_back_as_it_was_written() {
        for kind in [TopicKind::Channel, TopicKind::Pattern, TopicKind::ShardChannel] {
            let mut asked = Vec::new();
            command(&mut asked, kind.subscribe(), b"c");
            assert_eq!(Incoming::parse(&asked), Incoming::Subscribed(kind, b"c"));
            asked.clear();
            command(&mut asked, kind.unsubscribe(), b"c");
            assert_eq!(Incoming::parse(&asked), Incoming::Unsubscribed(kind, b"c"));
        }
    }
}
