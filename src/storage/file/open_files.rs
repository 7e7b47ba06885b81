//! How many files a process may have open.
//!
//! A file to load from takes one descriptor for as long as its [`SourceFile`](super::SourceFile) lives,
//! and another while it is read past the page cache; only a few are read at a time. A model in 1,000
//! shards does not fit under the soft limit that a process usually begins with, 1024. Programs that do
//! not wait for descriptors by `select(2)` may have as many as the hard limit allows: [`raise_limit`]. The
//! `bufmap` command does so; the library leaves the limit to its program.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit on open files to the hard one, for this process and those that it starts.
///
/// # Errors
/// The kernel's answer.
pub fn raise_limit() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// What to do about an error that says that too many files are open.
pub(crate) fn remedy(error: &io::Error) -> Option<String> {
    match error.raw_os_error()? {
        libc::EMFILE => Some(match getrlimit(Resource::Nofile).current {
            Some(limit) => format!(
                "this process may have {limit} files open: raise that limit (`ulimit -n`), or load from \
                 fewer files at once"
            ),
            None => "close some of this process's files".into(),
        }),
        libc::ENFILE => Some(
            "the machine may have no more files open: raise its limit (sysctl fs.file-max)".into(),
        ),
        _ => None,
    }
}
