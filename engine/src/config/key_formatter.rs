//! How a route writes keys anew: text, the key, and what is known of the client's connection.

/// What stands for the key.
const KEY_COMMAND: &str = "%KEY%";

/// What the host knows of a client's connection, and keys may be made of.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Attribute {
    /// The filter state of this name, as text.
    FilterState(String),
    /// The client's address, with its port.
    RemoteAddress,
    /// The address that the client connected to, with its port.
    LocalAddress,
}

/// A format for keys, read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KeyFormatter {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Text(String),
    Key,
    Attribute {
        /// Index into [`super::Config::attributes`].
        index: usize,
        view: View,
    },
}

/// How much of an attribute is put in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum View {
    /// All of it, or its first so many bytes.
    Whole(Option<usize>),
    /// An address without its port.
    Host,
    /// The port of an address.
    Port,
}

impl KeyFormatter {
    /// Reads Envoy's words. Attributes that they name are added to `attributes`.
    ///
    /// # Errors
    /// Says which command between percent signs is wrong, or not to be had.
    pub(crate) fn parse(text: &str, attributes: &mut Vec<Attribute>) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, command)) = rest.split_once('%') {
            push_text(&mut parts, before);
            let Some((command, after)) = command.split_once('%') else {
                return Err(format!(
                    "'%{command}' has a command that does not end: write {KEY_COMMAND}"
                ));
            };
            // `FILTER_STATE(name):10` ends in its length, and the percent sign follows that.
            match command {
                "" => push_text(&mut parts, "%"),
                "KEY" => parts.push(Part::Key),
                _ => {
                    let (attribute, view) = parse_command(command)?;
                    let known = attributes.iter().position(|known| *known == attribute);
                    let index = known.unwrap_or_else(|| {
                        attributes.push(attribute);
                        attributes.len() - 1
                    });
                    parts.push(Part::Attribute { index, view });
                }
            }
            rest = after;
        }
        push_text(&mut parts, rest);
        Ok(Self { parts })
    }

    /// Writes `key` as it is called from here on. `attributes` are the connection's, in the order
    /// of [`super::Config::attributes`]; what it lacks is left out. If nothing at all would be
    /// left, the key stays as it is, as with Envoy.
    pub(crate) fn write(&self, key: &[u8], attributes: &[Vec<u8>], out: &mut Vec<u8>) {
        let start = out.len();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Key => out.extend_from_slice(key),
                Part::Attribute { index, view } => {
                    let value = attributes.get(*index).map(Vec::as_slice).unwrap_or_default();
                    out.extend_from_slice(view.of(value));
                }
            }
        }
        if out.len() == start {
            out.extend_from_slice(key);
        }
    }
}

impl View {
    fn of(self, value: &[u8]) -> &[u8] {
        match self {
            Self::Whole(longest) => {
                let end = longest.map_or(value.len(), |longest| longest.min(value.len()));
                value.get(..end).unwrap_or(value)
            }
            Self::Host => {
                let host = split_port(value).0;
                host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host)
            }
            Self::Port => split_port(value).1,
        }
    }
}

/// An address and its port; all of a path, and no port, if it is that of a Unix socket.
fn split_port(address: &[u8]) -> (&[u8], &[u8]) {
    match address.iter().rposition(|byte| *byte == b':') {
        Some(colon) => {
            let (host, port) = address.split_at(colon);
            (host, port.get(1..).unwrap_or_default())
        }
        None => (address, b""),
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str) {
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(before)) => before.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

fn parse_command(command: &str) -> Result<(Attribute, View), String> {
    if let Some(argument) = command.strip_prefix("FILTER_STATE(") {
        return parse_filter_state(command, argument);
    }
    if command.starts_with("UPSTREAM_") {
        return Err(format!(
            "%{command}% is not there: a client's commands go to many nodes, and its keys must not \
             depend on which"
        ));
    }
    let address = |attribute, rest| match rest {
        "_ADDRESS" => Some((attribute, View::Whole(None))),
        "_ADDRESS_WITHOUT_PORT" => Some((attribute, View::Host)),
        "_PORT" => Some((attribute, View::Port)),
        _ => None,
    };
    let remote = command.strip_prefix("DOWNSTREAM_REMOTE");
    let remote = remote.and_then(|rest| address(Attribute::RemoteAddress, rest));
    let local = command.strip_prefix("DOWNSTREAM_LOCAL");
    let local = local.and_then(|rest| address(Attribute::LocalAddress, rest));
    remote.or(local).ok_or_else(|| {
        format!(
            "%{command}% is not implemented: there are {KEY_COMMAND}, %FILTER_STATE(name:PLAIN)%, \
             and DOWNSTREAM_REMOTE and DOWNSTREAM_LOCAL with _ADDRESS, _ADDRESS_WITHOUT_PORT or \
             _PORT"
        )
    })
}

/// `name)`, `name:PLAIN)` or `name:TYPED)`, and perhaps `:length` behind it.
fn parse_filter_state(command: &str, argument: &str) -> Result<(Attribute, View), String> {
    let wrong = || format!("%{command}% is not %FILTER_STATE(name:PLAIN):length%");
    let (argument, rest) = argument.split_once(')').ok_or_else(wrong)?;
    let longest = match rest.strip_prefix(':') {
        Some(length) => Some(length.parse().map_err(|_| wrong())?),
        None if rest.is_empty() => None,
        None => return Err(wrong()),
    };
    let name = match argument.split_once(':') {
        Some((name, "PLAIN" | "TYPED")) => name,
        Some((_, other)) => {
            return Err(format!("%{command}%: '{other}' is not implemented, only PLAIN is"));
        }
        None => argument,
    };
    if name.is_empty() {
        return Err(wrong());
    }
    Ok((Attribute::FilterState(name.to_owned()), View::Whole(longest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: &str, values: &[&str]) -> String {
        let mut attributes = Vec::new();
        let formatter = KeyFormatter::parse(format, &mut attributes).unwrap();
        assert_eq!(attributes.len(), values.len());
        let values: Vec<_> = values.iter().map(|value| value.as_bytes().to_vec()).collect();
        let mut out = b"before ".to_vec();
        formatter.write(b"key", &values, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn keys_are_made_of_text_the_key_and_what_is_known_of_the_connection() {
        assert_eq!(written("a:%KEY%|%KEY%", &[]), "before a:key|key");
        assert_eq!(written("100%% %KEY%", &[]), "before 100% key");
        assert_eq!(written("%FILTER_STATE(tenant:PLAIN)%:%KEY%", &["acme"]), "before acme:key");
        assert_eq!(written("%FILTER_STATE(tenant):2%:%KEY%", &["acme"]), "before ac:key");
        assert_eq!(written("%FILTER_STATE(tenant:TYPED):9%:%KEY%", &["acme"]), "before acme:key");
        let address = "10.0.0.1:4711";
        for (command, expected) in [
            ("DOWNSTREAM_REMOTE_ADDRESS", address),
            ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", "10.0.0.1"),
            ("DOWNSTREAM_REMOTE_PORT", "4711"),
            ("DOWNSTREAM_LOCAL_ADDRESS", address),
            ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", "10.0.0.1"),
            ("DOWNSTREAM_LOCAL_PORT", "4711"),
        ] {
            let format = format!("%{command}%-%KEY%");
            assert_eq!(written(&format, &[address]), format!("before {expected}-key"));
        }
        let six = ["[::1]:4711"];
        assert_eq!(written("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", &six), "before ::1");
    }

    #[test]
    fn what_the_connection_lacks_is_left_out_but_never_the_whole_key() {
        assert_eq!(written("%FILTER_STATE(tenant)%:%KEY%", &[""]), "before :key");
        assert_eq!(written("%FILTER_STATE(tenant)%", &[""]), "before key");
    }

    #[test]
    fn an_attribute_that_is_named_twice_is_asked_for_once() {
        let mut attributes = Vec::new();
        for format in [
            "%FILTER_STATE(a)%%FILTER_STATE(a:PLAIN):3%",
            "%DOWNSTREAM_LOCAL_PORT%%FILTER_STATE(a)%",
        ] {
            KeyFormatter::parse(format, &mut attributes).unwrap();
        }
        let expected = [Attribute::FilterState("a".to_owned()), Attribute::LocalAddress];
        assert_eq!(attributes, expected);
    }

    #[test]
    fn what_is_not_to_be_had_is_refused_by_name() {
        for (format, reason) in [
            ("%KEY", "'%KEY' has a command that does not end"),
            ("%UPSTREAM_HOST%", "%UPSTREAM_HOST% is not there: a client's commands go to many"),
            ("%START_TIME%", "%START_TIME% is not implemented: there are %KEY%"),
            ("%key%", "%key% is not implemented"),
            ("%DOWNSTREAM_REMOTE%", "%DOWNSTREAM_REMOTE% is not implemented"),
            ("%FILTER_STATE(a%", "%FILTER_STATE(a% is not %FILTER_STATE(name:PLAIN):length%"),
            ("%FILTER_STATE()%", "%FILTER_STATE()% is not"),
            ("%FILTER_STATE(a):x%", "%FILTER_STATE(a):x% is not"),
            ("%FILTER_STATE(a:FIELD:b)%", "'FIELD:b' is not implemented, only PLAIN is"),
        ] {
            let error = KeyFormatter::parse(format, &mut Vec::new()).unwrap_err();
            assert!(error.contains(reason), "{format}: {error}");
        }
    }
}
