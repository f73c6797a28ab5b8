//! Redis' protocol on the wire, for clients that must see every byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than any proxy's op_timeout here, so that its own answer comes first.
const TIMEOUT: Duration = Duration::from_secs(30);

/// What [`RawClient::read`] says when the connection ends in the middle of a reply.
pub const CUT: &str = "the connection ended in the middle of a reply";

/// A connection whose bytes nothing touches on their way.
#[derive(Debug)]
pub struct RawClient {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl RawClient {
    /// Connects to `addr`.
    ///
    /// # Errors
    /// Nobody accepts there.
    pub fn connect(addr: SocketAddr) -> io::Result<Self> {
        let writer = TcpStream::connect_timeout(&addr, TIMEOUT)?;
        writer.set_read_timeout(Some(TIMEOUT))?;
        writer.set_write_timeout(Some(TIMEOUT))?;
        writer.set_nodelay(true)?;
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Self { writer, reader })
    }

    /// Sends one command and returns its reply's bytes.
    ///
    /// # Errors
    /// The connection ends first, or nothing comes for half a minute.
    pub fn call<S: AsRef<str>>(&mut self, args: &[S]) -> io::Result<Vec<u8>> {
        self.send(&command(args))?;
        read_reply(&mut self.reader)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer.write_all(bytes)
    }

    /// The next reply's bytes.
    ///
    /// # Errors
    /// The connection ends first, or nothing comes for half a minute.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        read_reply(&mut self.reader)
    }

    /// Whether something has come that was not read yet, or the end.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn has_input(&mut self) -> io::Result<bool> {
        if !self.reader.buffer().is_empty() {
            return Ok(true);
        }
        self.writer.set_nonblocking(true)?;
        let peeked = self.writer.peek(&mut [0]);
        self.writer.set_nonblocking(false)?;
        match peeked {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Both halves, for a client that writes and reads at the same time.
    pub fn halves(&mut self) -> (&mut impl Write, &mut impl BufRead) {
        (&mut self.writer, &mut self.reader)
    }
}

/// A command as clients send it: an array of bulk strings.
pub fn command<S: AsRef<str>>(args: &[S]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        bytes.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
    }
    bytes
}

/// Reads the bytes of one reply, to its end and no further.
///
/// # Errors
/// The input ends before the reply does, or is none.
pub fn read_reply(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    let mut missing = 1;
    while missing > 0 {
        missing -= 1;
        let start = reply.len();
        if reader.read_until(b'\n', &mut reply)? == 0 {
            return Err(match start {
                0 => io::ErrorKind::UnexpectedEof.into(),
                _ => io::Error::new(io::ErrorKind::UnexpectedEof, CUT),
            });
        }
        let line = std::str::from_utf8(&reply[start..]).map_err(invalid)?;
        let Some(rest) = line.strip_suffix("\r\n") else { return Err(invalid(line)) };
        let (kind, rest) = rest.split_at_checked(1).ok_or_else(|| invalid(rest))?;
        match kind {
            "+" | "-" | ":" | "_" | "," | "#" | "(" => {}
            "$" | "=" | "!" | "*" | "~" | ">" | "%" => {
                match (kind, rest.parse::<i64>().map_err(invalid)?) {
                    (_, -1) => {}
                    ("$" | "=" | "!", length) => {
                        let length = u64::try_from(length).map_err(invalid)? + 2;
                        if reader.take(length).read_to_end(&mut reply)? as u64 != length {
                            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, CUT));
                        }
                    }
                    ("%", pairs) => missing += 2 * u64::try_from(pairs).map_err(invalid)?,
                    (_, count) => missing += u64::try_from(count).map_err(invalid)?,
                }
            }
            _ => return Err(invalid(line)),
        }
    }
    Ok(reply)
}

fn invalid(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a reply: {:?}", what.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_to_its_end_and_no_further() {
        let replies = [
            "*3\r\n$2\r\n\r\n\r\n*-1\r\n*1\r\n:1\r\n",
            "+OK\r\n",
            "%1\r\n$1\r\na\r\n_\r\n",
            "$-1\r\n",
            "-ERR x\r\n",
        ];
        let wire = replies.concat();
        let mut reader = wire.as_bytes();
        for expected in replies {
            assert_eq!(read_reply(&mut reader).unwrap(), expected.as_bytes());
        }
        assert!(read_reply(&mut reader).is_err());
    }
}
