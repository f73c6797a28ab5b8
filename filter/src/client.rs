//! A client as the host has it, and the bytes in its buffer.
//!
//! All here applies to the context that host calls apply to: it must be this client's.

use crate::abi::HostBytes;
use crate::host::{self, Buffer, HostError};

/// Read bytes are left in the host's buffer only as long as they are not more than this: Envoy
/// stops reading when its buffer is full.
const MOST_STALE: usize = 4096;

/// What the host knows a session by.
#[derive(Clone, Copy, Default)]
pub(crate) struct Client {
    pub(crate) context: u32,
    /// So many bytes at the start of the host's buffer have been read. They stay until replies take
    /// their place, which saves a call of the host.
    stale: usize,
    /// Its bytes are left in the host's buffer.
    paused: bool,
    /// It has sent bytes since, and they are still there.
    unread: bool,
    /// It has sent bytes before, and the engine knows what it wants to know of it.
    known: bool,
}

impl Client {
    pub(crate) fn new(context: u32) -> Self {
        Self { context, ..Self::default() }
    }

    /// Whether this is the first time that it is asked.
    pub(crate) fn is_new(&mut self) -> bool {
        !std::mem::replace(&mut self.known, true)
    }

    /// From now on its bytes are left in the host's buffer.
    pub(crate) fn pause(&mut self) {
        self.paused = true;
    }

    /// Its bytes are read again. Says whether there are some that [`Self::take_unread`] has to
    /// take.
    pub(crate) fn resume(&mut self) -> bool {
        self.paused = false;
        self.unread
    }

    /// How many of the bytes in its buffer, `size` in all, have not been read before; `None` while
    /// it is paused.
    pub(crate) fn unread(&mut self, size: usize) -> Option<usize> {
        if self.paused {
            self.unread = true;
            return None;
        }
        Some(size.saturating_sub(self.stale))
    }

    /// Reads what is [unread](Self::unread), behind what has come `before` of an unfinished command.
    pub(crate) fn read(
        &mut self,
        size: usize,
        before: Option<Vec<u8>>,
    ) -> Result<HostBytes, HostError> {
        let (start, unread) = (self.stale, size.saturating_sub(self.stale));
        let bytes = match before {
            None => host::read(Buffer::Downstream, start, unread)?,
            Some(before) => host::read_behind(before, Buffer::Downstream, start, unread)?,
        };
        self.stale = size;
        if size > MOST_STALE {
            self.drop_stale()?;
        }
        Ok(bytes)
    }

    /// Has the next filter, echo, write `bytes` to the client.
    ///
    /// Echo takes all that is in the buffer, and only after this callback, perhaps after further
    /// ones. So replies go behind those that it has not taken yet, and whatever the client has sent
    /// is taken out before; it is returned.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, HostError> {
        let unread = self.take_unread()?;
        match std::mem::take(&mut self.stale) {
            0 => host::append(Buffer::Downstream, bytes)?,
            stale => host::replace_start(Buffer::Downstream, stale, bytes)?,
        }
        host::resume_downstream()?;
        Ok(unread)
    }

    /// Takes what it has sent while it was paused out of the host's buffer.
    pub(crate) fn take_unread(&mut self) -> Result<Option<Vec<u8>>, HostError> {
        if !std::mem::take(&mut self.unread) {
            return Ok(None);
        }
        self.drop_stale()?;
        let unread = host::read(Buffer::Downstream, 0, usize::MAX >> 1)?;
        host::replace_start(Buffer::Downstream, unread.len(), b"")?;
        Ok(Some(unread.to_vec()))
    }

    /// Takes what has been read out of the host's buffer.
    fn drop_stale(&mut self) -> Result<(), HostError> {
        match std::mem::take(&mut self.stale) {
            0 => Ok(()),
            stale => host::replace_start(Buffer::Downstream, stale, b""),
        }
    }
}
