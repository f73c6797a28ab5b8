//! A command's bytes, and where each argument stands in them.

use memchr::memchr;

/// The payload of one argument, relative to the first byte of its frame.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ArgRange {
    /// Offset of the payload's first byte.
    pub start: u32,
    /// Length of the payload in bytes.
    pub len: u32,
}

impl ArgRange {
    /// The range of `len` bytes from `start`, and where the CRLF after it ends.
    ///
    /// `None` if that end is over 4 GiB: no frame is that long.
    pub(in crate::resp) fn with_end(start: usize, len: usize) -> Option<(Self, usize)> {
        let end = start.checked_add(len)?.checked_add(2)?;
        // Neither the start nor the length is greater.
        u32::try_from(end).ok()?;
        Some((Self { start: start as u32, len: len as u32 }, end))
    }

    /// Where the payload ends and its CRLF begins.
    pub(in crate::resp) fn end(self) -> usize {
        self.start as usize + self.len as usize
    }
}

/// One complete command as the client sent it: an array of bulk strings.
///
/// An inline command is seen as the array that it stands for.
#[derive(Clone, Copy, Debug)]
pub struct RequestFrame<'a> {
    bytes: &'a [u8],
    args: &'a [ArgRange],
}

#[expect(clippy::len_without_is_empty, reason = "a command is never empty: it has a name")]
impl<'a> RequestFrame<'a> {
    /// A view on `bytes`, whose arguments stand at `args`; every range lies in `bytes`.
    pub fn new(bytes: &'a [u8], args: &'a [ArgRange]) -> Self {
        Self { bytes, args }
    }

    /// The frame's bytes, as they go to Redis.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many arguments there are, the command's name included; never 0.
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// The payload of argument `index`; 0 is the command's name.
    pub fn arg(&self, index: usize) -> Option<&'a [u8]> {
        let range = self.args.get(index)?;
        self.bytes.get(range.start as usize..)?.get(..range.len as usize)
    }

    /// Argument `index` with its header and its CRLF, to be put into another command as it is.
    pub fn raw(&self, index: usize) -> Option<&'a [u8]> {
        let range = self.args.get(index)?;
        let start = match index.checked_sub(1) {
            Some(previous) => self.args.get(previous)?.end() + 2,
            None => memchr(b'\r', self.bytes)? + 2,
        };
        self.bytes.get(start..range.end() + 2)
    }

    /// All payloads in order, the command's name first.
    pub fn args(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let Self { bytes, args } = *self;
        args.iter()
            .filter_map(move |range| bytes.get(range.start as usize..)?.get(..range.len as usize))
    }
}
