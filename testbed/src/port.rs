//! Free TCP ports on loopback, and who holds one that is not free.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Below Linux' range for outgoing connections, which would otherwise take a port between the
/// moment it was found free and the moment a server binds it, or while a server restarts.
const RANGE: Range<u16> = 20_000..32_000;

/// A TCP port on 127.0.0.1 that was free when picked and that no other user of this type on the
/// machine is given until this value is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// An abstract socket whose name says the port: it serves as a lock between processes, and the
    /// kernel releases it however this process ends.
    _reservation: UnixListener,
}

impl Port {
    /// Picks a free port.
    ///
    /// # Errors
    /// None of the 12 000 ports tried is free.
    pub fn free() -> Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let span = RANGE.end - RANGE.start;
        // Processes start at different places, so they seldom try the same ports.
        let first = (std::process::id() % u32::from(span)) as u16;
        (0..span)
            .find_map(|_| {
                let step = NEXT.fetch_add(1, Ordering::Relaxed) % span;
                Self::reserve(RANGE.start + (first + step) % span)
            })
            .with_context(|| format!("no free port in {RANGE:?}"))
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The port on 127.0.0.1.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }

    fn reserve(number: u16) -> Option<Self> {
        let name = UnixAddr::from_abstract_name(format!("slotmesh-port-{number}")).ok()?;
        let reservation = UnixListener::bind_addr(&name).ok()?;
        let port = Self { number, _reservation: reservation };
        (!is_listened_on(port.addr())).then_some(port)
    }
}

/// Where to listen: `given` if nobody else does, or a free port that is kept in `ports`.
pub(crate) fn given_or_free(
    given: Option<SocketAddr>,
    ports: &mut Vec<Port>,
) -> Result<SocketAddr> {
    if let Some(addr) = given {
        return ensure_free(addr).map(|()| addr);
    }
    let port = Port::free()?;
    let addr = port.addr();
    ports.push(port);
    Ok(addr)
}

/// Refuses an address on which somebody listens, and says who.
fn ensure_free(addr: SocketAddr) -> Result<()> {
    let Err(error) = TcpListener::bind(addr) else { return Ok(()) };
    match holder(addr.port()) {
        Some(holder) => bail!("{addr} is taken by {holder}"),
        None => Err(error).context(format!("cannot listen on {addr}")),
    }
}

/// Found out without binding: a process that another thread starts at that moment inherits the
/// socket, and holds the port until it has become another program.
fn is_listened_on(addr: SocketAddr) -> bool {
    // A listener whose queue is full does not answer.
    let answer = TcpStream::connect_timeout(&addr, Duration::from_millis(200));
    !answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// The process that listens on TCP port `port` of this machine, as `name (pid n)`.
///
/// `None` when nobody does, or when the process belongs to somebody else and Linux does not say.
pub fn holder(port: u16) -> Option<String> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| listening_inodes(&table, port))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(process.path().join("fd")).ok()?.flatten().any(|fd| {
            fs::read_link(fd.path())
                .is_ok_and(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str()))
        });
        let name = fs::read_to_string(process.path().join("comm")).ok()?;
        holds.then(|| format!("{} (pid {pid})", name.trim_end()))
    })
}

/// The inodes of the sockets that listen on `port`, from the text of /proc/net/tcp (proc(5)).
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
            let (_, local_port) = local.rsplit_once(':')?;
            let listens = *state == LISTEN && u16::from_str_radix(local_port, 16).ok()? == port;
            listens.then(|| (*inode).to_owned())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::*;

    #[test]
    fn a_reserved_port_is_given_once_and_can_be_bound() {
        let ports: Vec<Port> = (0..50).map(|_| Port::free().unwrap()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ports.len());
        for port in &ports {
            assert!(Port::reserve(port.number()).is_none());
            TcpListener::bind(port.addr()).unwrap();
        }
    }

    #[test]
    fn a_reserved_port_can_be_bound_while_other_threads_start_processes() {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    Command::new("true").status().unwrap();
                }
            });
            let bound = (0..2000).try_for_each(|_| {
                let port = Port::free().unwrap();
                TcpListener::bind(port.addr()).map(drop)
            });
            done.store(true, Ordering::Relaxed);
            bound.unwrap();
        });
    }

    #[test]
    fn the_holder_of_a_taken_port_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let found = holder(listener.local_addr().unwrap().port()).unwrap();
        assert!(found.ends_with(&format!("(pid {})", std::process::id())), "{found}");
    }

    #[test]
    fn a_taken_port_is_refused_with_the_name_of_its_holder() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let error = ensure_free(listener.local_addr().unwrap()).unwrap_err().to_string();
        assert!(error.contains("is taken by"), "{error}");
    }

    #[test]
    fn a_free_port_has_no_holder() {
        assert_eq!(holder(Port::free().unwrap().number()), None);
    }
}
