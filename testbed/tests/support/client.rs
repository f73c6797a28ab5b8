//! A client of raw bytes: nothing between the test and the wire.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

/// Longer than the proxy's op_timeout, so that its own answer comes first.
const TIMEOUT: Duration = Duration::from_secs(30);

/// One RESP2 connection.
pub(crate) struct Client {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let writer = TcpStream::connect_timeout(&addr, TIMEOUT).expect("the proxy accepts");
        writer.set_read_timeout(Some(TIMEOUT)).unwrap();
        writer.set_write_timeout(Some(TIMEOUT)).unwrap();
        writer.set_nodelay(true).unwrap();
        let reader = BufReader::new(writer.try_clone().unwrap());
        Self { writer, reader }
    }

    /// Sends all commands without waiting for any reply, and hands each reply, as its bytes, to
    /// `check` with the number of its command.
    ///
    /// Writing and reading go on at the same time, as in any client that pipelines without end: a
    /// proxy may stop reading from a client that does not read.
    pub(crate) fn pipeline(&mut self, commands: &[Vec<u8>], mut check: impl FnMut(usize, Vec<u8>)) {
        let Self { writer, reader } = self;
        thread::scope(|scope| {
            scope.spawn(|| writer.write_all(&commands.concat()).expect("the proxy reads"));
            for number in 0..commands.len() {
                match read_reply(reader) {
                    Ok(reply) => check(number, reply),
                    Err(error) => panic!(
                        "no reply to {} (command {number} of {}): {error}",
                        commands[number].escape_ascii(),
                        commands.len()
                    ),
                }
            }
        });
    }

    /// Sends one command and returns its reply's bytes.
    pub(crate) fn call(&mut self, args: &[&str]) -> Vec<u8> {
        let mut reply = Vec::new();
        self.pipeline(&[command(args)], |_, bytes| reply = bytes);
        reply
    }
}

/// A command as clients send it: an array of bulk strings.
pub(crate) fn command<S: AsRef<str>>(args: &[S]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        let arg = arg.as_ref();
        bytes.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
    }
    bytes
}

/// Reads the bytes of one RESP2 reply.
fn read_reply(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut reply = Vec::new();
    let mut missing = 1;
    while missing > 0 {
        missing -= 1;
        let start = reply.len();
        if reader.read_until(b'\n', &mut reply)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = std::str::from_utf8(&reply[start..]).map_err(invalid)?;
        let Some(rest) = line.strip_suffix("\r\n") else { return Err(invalid(line)) };
        let (kind, rest) = rest.split_at_checked(1).ok_or_else(|| invalid(rest))?;
        match kind {
            "+" | "-" | ":" => {}
            "$" | "*" => match (kind, rest.parse::<i64>().map_err(invalid)?) {
                (_, -1) => {}
                ("$", length) => {
                    let length = u64::try_from(length).map_err(invalid)? + 2;
                    if reader.take(length).read_to_end(&mut reply)? as u64 != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                (_, count) => missing += u64::try_from(count).map_err(invalid)?,
            },
            _ => return Err(invalid(line)),
        }
    }
    Ok(reply)
}

fn invalid(what: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a reply: {:?}", what.to_string()))
}

#[test]
fn a_reply_is_read_to_its_end_and_no_further() {
    let wire = b"*3\r\n$2\r\n\r\n\r\n*-1\r\n*1\r\n:1\r\n+OK\r\n$-1\r\n-ERR x\r\n";
    let mut reader = &wire[..];
    for expected in ["*3\r\n$2\r\n\r\n\r\n*-1\r\n*1\r\n:1\r\n", "+OK\r\n", "$-1\r\n", "-ERR x\r\n"]
    {
        assert_eq!(read_reply(&mut reader).unwrap(), expected.as_bytes());
    }
    assert!(read_reply(&mut reader).is_err());
}
