//! The error replies of the proxy's own, in one table: each with its code, its text, and where
//! Redis has the same words. Errors about the number of arguments and about unknown commands are in
//! [`crate::command::CommandError`]; those of commands that are not supported in
//! [`crate::command::Reason`].

use std::borrow::Cow;
use std::fmt;

/// The text of an error reply: its code first, without the leading `-` and the line's end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ErrorText(Cow<'static, str>);

impl ErrorText {
    /// The text as the bytes of a reply.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<&'static str> for ErrorText {
    fn from(text: &'static str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

impl From<String> for ErrorText {
    fn from(text: String) -> Self {
        Self(Cow::Owned(text))
    }
}

impl fmt::Display for ErrorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Declares errors that always have the same text.
macro_rules! errors {
    ($all:ident: $($(#[$doc:meta])* $name:ident = $text:expr;)*) => {
        $($(#[$doc])* pub(crate) const $name: &str = $text;)*

        /// All of them, for the tests of the table.
        #[cfg(test)]
        const $all: &[(&str, &str)] = &[$((stringify!($name), $name)),*];
    };
}

// Redis' own words.
errors! { OF_REDIS:
    /// redis `server.c`, `shared.noautherr`
    NOAUTH = "NOAUTH Authentication required.";
    /// redis `networking.c`, `helloCommand`
    HELLO_NOAUTH = "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
                    HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
                    select the RESP protocol version at the same time";
    /// redis `networking.c`, `helloCommand`
    NOPROTO = "NOPROTO unsupported protocol version";
    /// redis `networking.c`, `helloCommand`
    NO_PROTOCOL_VERSION = "ERR Protocol version is not an integer or out of range";
    /// redis `acl.c`, `addAuthErrReply`
    WRONGPASS = "WRONGPASS invalid username-password pair or user is disabled.";
    /// redis `acl.c`, `authCommand`
    NO_PASSWORD = "ERR AUTH <password> called without any password configured for the default user. Are \
                   you sure your configuration is correct?";
    /// redis `cluster.c`, `clusterRedirectClient`
    CROSSSLOT = "CROSSSLOT Keys in request don't hash to the same slot";
    /// redis `cluster.c`, `clusterRedirectClient`
    SLOT_NOT_SERVED = "CLUSTERDOWN Hash slot not served";
    /// redis `cluster.c`, `clusterRedirectClient`
    MULTIPLE_KEYS_MOVE = "TRYAGAIN Multiple keys request during rehashing of slot";
    /// redis `cluster.c`, `clusterCommand`
    CLUSTER_DISABLED = "ERR This instance has cluster support disabled";
    /// redis `cluster.c`, `clusterCommand`
    INVALID_SLOT = "ERR Invalid slot";
    /// redis `cluster.c`, `clusterCommand`
    INVALID_SLOT_OR_COUNT = "ERR Invalid slot or number of keys";
    /// redis `server.c`, `shared.syntaxerr`
    SYNTAX = "ERR syntax error";
    /// redis `object.c`, `getLongLongFromObjectOrReply`
    NOT_AN_INTEGER = "ERR value is not an integer or out of range";
    /// redis `db.c`, `parseScanCursorOrReply`
    INVALID_CURSOR = "ERR invalid cursor";
    /// redis `networking.c`, `clientCommand`
    INVALID_CLIENT_ID = "ERR Invalid client ID";
    /// redis `networking.c`, `clientCommand`
    CLIENT_ID_TOO_LOW = "ERR client-id should be greater than 0";
    /// redis `networking.c`, `clientCommand`
    NO_SUCH_CLIENT = "ERR No such client";
    /// redis `networking.c`, `clientSetName`
    INVALID_CLIENT_NAME = "ERR Client names cannot contain spaces, newlines or special characters.";
    /// redis `networking.c`, `clientCommand`
    UNBLOCK_REASON = "ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR";
    /// redis `networking.c`, `clientCommand`
    CACHING_WITHOUT_TRACKING = "ERR CLIENT CACHING can be called only when the client is in tracking \
                                mode with OPTIN or OPTOUT mode enabled";
    /// redis `server.c`, `pingCommand`
    PING_ARITY = "ERR wrong number of arguments for 'ping' command";
    /// redis `multi.c`, `multiCommand`
    NESTED_MULTI = "ERR MULTI calls can not be nested";
    /// redis `multi.c`, `watchCommand`
    WATCH_IN_MULTI = "ERR WATCH inside MULTI is not allowed";
    /// redis `multi.c`, `execCommand`
    EXEC_WITHOUT_MULTI = "ERR EXEC without MULTI";
    /// redis `multi.c`, `discardCommand`
    DISCARD_WITHOUT_MULTI = "ERR DISCARD without MULTI";
    /// redis `server.c`, `shared.execaborterr`
    EXECABORT = "EXECABORT Transaction discarded because of previous errors.";
    /// redis `server.c`, `processCommand`
    NOT_IN_MULTI = "ERR Command not allowed inside a transaction";
}

// What only this proxy says.
errors! { OF_PROXY:
    /// The configuration has no catch-all route and no prefix that fits.
    NO_ROUTE = "ERR no route takes this key or command";
    /// Envoy's words for an injected error, behind the code that clients expect.
    INJECTED = "ERR Fault Injected: Error";
    /// `limits.held_bytes`
    HELD_OVERFLOW = "CLUSTERDOWN too many commands wait for a node that can serve them";
    /// `limits.input_bytes`
    INPUT_OVERFLOW = "ERR too many bytes of unfinished or unanswered commands wait in this proxy";
    /// `limits.subscription_bytes`
    SUBSCRIPTION_OVERFLOW = "ERR this proxy's clients have too many subscriptions already";
    /// `limits.identities`
    IDENTITY_OVERFLOW = "ERR this proxy has connections of as many users as it may already";
    /// `limits.tracking_clients`
    TRACKING_OVERFLOW = "ERR too many clients of this proxy use client-side caching";
    /// A later command of the client for the same slot has been executed.
    OVERTAKEN = "TRYAGAIN a command behind this one has been executed already";
    /// Replies of different shapes.
    UNMERGEABLE = "ERR nodes answered the parts of a split command with replies that do not fit together";
    /// SCAN's cursor has 41 bits for the node's own.
    CURSOR_OVERFLOW = "ERR the node's cursor is too great to be told from those of other nodes";
    /// `auth_passthrough`: one subscription serves clients of several users.
    SUBSCRIBE_PASSTHROUGH = "ERR subscriptions cannot be used through this proxy: it passes users through \
                             (auth_passthrough)";
    /// `prefixes` of CLIENT TRACKING
    LONG_PREFIXES = "ERR the prefixes are too long for this proxy";
    /// Nodes would name other keys than the client knows.
    TRACKING_REWRITTEN = "ERR client-side caching cannot be used through this proxy: one of its routes \
                          rewrites keys (remove_prefix or key_formatter), so nodes call them by other names";
    /// Copies of several databases would meet in one.
    SELECT_MIRRORED = "ERR SELECT is not possible through this proxy: one of its routes has mirrors, and \
                       they would mix what is in different databases";
    /// Redis allows it, and its replies cannot be told from messages then.
    SUBSCRIBE_IN_MULTI = "ERR this proxy does not change subscriptions inside a transaction: do it before \
                          or after";
    /// The database belongs to the connection to the node.
    SELECT_IN_MULTI = "ERR this proxy does not change the database inside a transaction: do it before or \
                       after";
    /// A transaction is executed by one node.
    MANY_NODES_IN_MULTI = "CROSSSLOT the command concerns all nodes of the cluster: they cannot take part \
                           in one transaction";
    /// `limits.held_bytes`
    TRANSACTION_TOO_LARGE = "ERR the transaction is too large for this proxy";
    /// The host does not tell where the client has connected to.
    UNKNOWN_ADDRESS = "ERR the proxy does not know this connection's address";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_one_line_that_begins_with_a_code() {
        for (name, text) in OF_REDIS.iter().chain(OF_PROXY) {
            let (code, words) = text.split_once(' ').unwrap();
            assert!(code.bytes().all(|byte| byte.is_ascii_uppercase()), "{name}: {text}");
            assert!(!words.contains(['\r', '\n']) && !words.contains("  "), "{name}: {text}");
        }
    }
}
