//! Consumers that read drives.
//!
//! [`mod@file`] reads through the kernel: any file on any file system. [`nvme`] is a driver in user
//! space for a drive that the kernel has let go of. [`stack`] is what lies between a file and its
//! drive, and [`work`] what their engines are given to do.

pub mod file;
pub mod nvme;
pub mod stack;
pub mod work;
