//! Byte buffers that go round, so that steady traffic allocates nothing and idle clients hold
//! nothing.

/// Spare buffers kept at most; more are freed.
const SPARE: usize = 64;
/// A buffer that has grown beyond this many bytes is freed instead of kept.
const KEPT_CAPACITY: usize = 64 * 1024;

/// A pool of empty buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    spare: Vec<Vec<u8>>,
}

/// Gives back the room of a buffer that is kept, if more of it is empty than used. Budgets count
/// what is used.
pub(crate) fn fit(buffer: &mut Vec<u8>) {
    if buffer.capacity() / 2 > buffer.len() {
        buffer.shrink_to_fit();
    }
}

impl Buffers {
    /// An empty buffer, with room where a used one was at hand.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.spare.pop().unwrap_or_default()
    }

    /// Takes back a buffer that is no longer needed.
    #[inline]
    pub(crate) fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.spare.len() < SPARE && (1..=KEPT_CAPACITY).contains(&buffer.capacity()) {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}
