//! Consumers that read drives.
//!
//! [`mod@file`] reads through the kernel: any file on any file system.

pub mod file;
