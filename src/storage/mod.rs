//! Consumers that read drives.
//!
//! [`mod@file`] reads through the kernel: any file on any file system. [`nvme`] describes memory to
//! drives.

pub mod file;
pub mod nvme;
