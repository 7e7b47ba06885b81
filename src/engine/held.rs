//! What the kernel is given for a read: a file, and memory to put its bytes.
//!
//! # Safety
//!
//! The law of this module: a [`Held`] keeps the memory that it lent, be it a buffer or a slot. It goes to the ring
//! with the read, which keeps it until the kernel has completed the read (law 1 of
//! [`ring`](crate::storage::file::ring)). Nobody else uses a map that was lent.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use iomap::{BufMap, MapError};

use super::order::Payload;
use super::slots::Slot;
use crate::transfer::DataPath;

/// What a read keeps until it is completed.
#[derive(Clone, Debug)]
pub(super) struct Held {
    payload: Arc<Payload>,
    path: DataPath,
    /// The slot, for a read that lands in one.
    _slot: Option<Arc<Slot>>,
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.payload.file.descriptor(self.path)
    }
}

/// Lends `len` bytes of a buffer, from `at` on, for a read.
pub(super) fn lend_buffer(
    payload: &Arc<Payload>,
    path: DataPath,
    (at, len): (u64, u64),
) -> Result<(Held, BufMap<'static>), MapError> {
    let map = payload.buffer.map().subrange(at as usize..(at + len) as usize)?;
    // SAFETY: the buffer is in the payload, which the `Held` has.
    let lent = unsafe { outlive(&map) };
    Ok((Held { payload: Arc::clone(payload), path, _slot: None }, lent))
}

/// Lends `len` bytes of a slot, from `at` on, for a read.
pub(super) fn lend_slot(
    payload: &Arc<Payload>,
    path: DataPath,
    slot: &Arc<Slot>,
    (at, len): (u64, u64),
) -> Result<(Held, BufMap<'static>), MapError> {
    let map = slot.map();
    let map = map.subrange(at as usize..(at + len) as usize)?;
    // SAFETY: the slot is in the `Held`, which has its memory until it is handed in by its last user.
    let lent = unsafe { outlive(&map) };
    let payload = Arc::clone(payload);
    Ok((Held { payload, path, _slot: Some(Arc::clone(slot)) }, lent))
}

/// The same map, for as long as somebody sees to it.
///
/// # Safety
/// Who uses the map keeps the memory behind it (the law of this module).
unsafe fn outlive(map: &BufMap<'_>) -> BufMap<'static> {
    let (start, len) = (map.as_ptr(), map.len());
    // SAFETY: the map is valid for as long as its memory is kept, which the caller sees to.
    unsafe { BufMap::from_raw(start, len, map.location(), map.caching(), map.access()) }
}
