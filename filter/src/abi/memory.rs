//! The memory that the host hands bytes over in.

use std::cell::{Cell, RefCell};

thread_local! {
    /// A buffer for the next thing that the host wants to hand over.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Capacity of the buffer that the host is filling, or has filled last.
    static LENT_CAPACITY: Cell<usize> = const { Cell::new(0) };
}

/// A spare buffer that has grown beyond this is freed.
const KEPT_CAPACITY: usize = 1024 * 1024;

/// Bytes that the host handed over; their memory is used again for the next.
pub(crate) struct HostBytes(Vec<u8>);

impl HostBytes {
    /// Their memory, which may be exchanged for another piece.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }

    fn empty() -> Self {
        Self(Vec::new())
    }

    /// Takes over what the host has put into memory of ours.
    pub(super) fn adopt(data: *mut u8, size: usize) -> Self {
        let capacity = LENT_CAPACITY.replace(0);
        if data.is_null() || size > capacity {
            return Self::empty();
        }
        // SAFETY: in every call that returns memory the host asks `proxy_on_memory_allocate` for it
        // once, fills it and returns it; `data` is what that function returned last, the pointer of
        // a leaked `Vec<u8>` of `capacity` bytes, the first `size` of which the host has written.
        Self(unsafe { Vec::from_raw_parts(data, size, capacity) })
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
    if buffer.capacity() < size {
        // To grow it would copy what is in it, which nobody wants any more.
        drop(std::mem::take(&mut buffer));
    }
    buffer.clear();
    buffer.reserve_exact(size);
    LENT_CAPACITY.set(buffer.capacity());
    std::mem::ManuallyDrop::new(buffer).as_mut_ptr()
}
