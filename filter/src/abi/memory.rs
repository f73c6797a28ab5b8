//! The memory that the host hands bytes over in.

use std::cell::{Cell, RefCell};

thread_local! {
    /// A buffer for the next thing that the host wants to hand over.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// The buffer that the host is filling, or has filled last.
    static LENT: Cell<Lent> = const { Cell::new(Lent { len: 0, capacity: 0 }) };
}

/// A spare buffer that has grown beyond this is freed.
const KEPT_CAPACITY: usize = 1024 * 1024;

/// What there is of a buffer besides the bytes that the host puts into it.
#[derive(Clone, Copy, Default)]
struct Lent {
    /// Bytes before them.
    len: usize,
    capacity: usize,
}

/// Bytes that the host handed over; their memory is used again for the next.
pub(crate) struct HostBytes(Vec<u8>);

impl HostBytes {
    /// Their memory, which may be exchanged for another piece.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    /// The next bytes that the host hands over go behind these. [`Self::adopt`] returns both.
    pub(super) fn put_before(bytes: Vec<u8>) {
        SPARE.set(bytes);
    }

    /// The host has handed over nothing.
    pub(super) fn forget_before() {
        SPARE.with_borrow_mut(Vec::clear);
    }

    /// Takes over what the host has put into memory of ours.
    pub(super) fn adopt(data: *mut u8, size: usize) -> Self {
        let Lent { len, capacity } = LENT.take();
        if data.is_null() {
            // It has put nothing there, and not asked for memory.
            return Self(SPARE.take());
        }
        if size > capacity.saturating_sub(len) {
            return Self(Vec::new());
        }
        // SAFETY: in every call that returns memory the host asks `proxy_on_memory_allocate` for it
        // once, fills it and returns it; `data` is what that function returned last, a pointer into
        // a leaked `Vec<u8>` of `capacity` bytes, before which `len` bytes were in it already, and
        // behind which the host has written `size`.
        Self(unsafe { Vec::from_raw_parts(data.sub(len), len + size, capacity) })
    }
}

impl std::ops::Deref for HostBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        let mut spent = std::mem::take(&mut self.0);
        if spent.capacity() <= KEPT_CAPACITY {
            spent.clear();
            SPARE.with_borrow_mut(|spare| {
                if spare.capacity() < spent.capacity() {
                    *spare = spent;
                }
            });
        }
    }
}

/// Gives the host memory for what a call of ours returns; see [`HostBytes::adopt`].
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    let mut buffer = SPARE.take();
    if buffer.is_empty() && buffer.capacity() < size {
        // To let it grow may copy what is no longer needed.
        buffer = Vec::with_capacity(size);
    } else {
        buffer.reserve_exact(size);
    }
    let mut buffer = std::mem::ManuallyDrop::new(buffer);
    let len = buffer.len();
    LENT.set(Lent { len, capacity: buffer.capacity() });
    // SAFETY: `len` is not above the buffer's capacity.
    unsafe { buffer.as_mut_ptr().add(len) }
}
