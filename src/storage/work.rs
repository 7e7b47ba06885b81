//! What an engine is given to do: reads and writes, asked for one by one, as long as there are any.
//!
//! Three engines do it: [`ring`](super::file::ring) and [`pread`](super::file::pread) through the
//! kernel, and the queues of a drive that this process drives ([`nvme`](super::nvme)), which only read.
//! What a file is to an engine (a descriptor, or extents on a drive) is the work's [`File`](Work::File).

use std::io;

use iomap::BufMap;

/// A read for an engine to do.
#[derive(Debug)]
pub struct Read<'m, F> {
    /// The file to read.
    pub file: F,
    /// Where in it, in bytes.
    pub offset: u64,
    /// Where to put the bytes; its length is how many are asked for, at most `u32::MAX`.
    pub into: BufMap<'m>,
    /// What [`Work::completed`] gets back.
    pub tag: usize,
}

/// A write for an engine to do.
#[derive(Debug)]
pub struct Write<'m, F> {
    /// The file to write to.
    pub file: F,
    /// Where in it, in bytes.
    pub offset: u64,
    /// Where to take the bytes; its length is how many are written, at most `u32::MAX`.
    pub from: BufMap<'m>,
    /// What [`Work::completed`] gets back.
    pub tag: usize,
}

/// What a piece of work wants next.
#[derive(Debug)]
pub enum Next<'m, F> {
    /// Do this read.
    Read(Read<'m, F>),
    /// Do this write.
    Write(Write<'m, F>),
    /// Nothing before what is in flight completes, or the engine is [woken](super::file::wake::WakeFd).
    Wait,
    /// Nothing more.
    Done,
}

/// A source of reads and writes, and the place where their completions go.
pub trait Work<'m> {
    /// What names a file to the engine.
    type File;

    /// The next of them. Asked whenever the engine has room; [`Next::Wait`] is answered only while
    /// something is in flight, or where somebody will wake the engine.
    fn next(&mut self) -> Next<'m, Self::File>;

    /// A read or a write was completed: the number of bytes that were moved, or the error.
    fn completed(&mut self, tag: usize, result: io::Result<usize>);

    /// All that is completed at the moment has been handed back.
    fn settled(&mut self) {}
}

/// Why a read or a write failed.
#[derive(Debug)]
pub enum Failure {
    /// The kernel's or the drive's error.
    Io {
        /// Where in the file, in bytes.
        offset: u64,
        /// The answer.
        source: io::Error,
    },
    /// The file ends before the end of what was asked for.
    Ended {
        /// Where it ends, in bytes.
        at: u64,
    },
}
