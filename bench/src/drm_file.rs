//! An open file of a DRM device, on which the crate `drm` makes its ioctls: a program's own way to a
//! card, beside the library's.

use std::os::fd::{AsFd, BorrowedFd};

/// The file, or whatever has it.
#[derive(Debug)]
pub struct DrmFile<F>(pub F);

impl<F: AsFd> AsFd for DrmFile<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<F: AsFd> drm::Device for DrmFile<F> {}
impl<F: AsFd> drm::control::Device for DrmFile<F> {}
