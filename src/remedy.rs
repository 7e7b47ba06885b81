//! What to do about the kernel's answers.
//!
//! One table for all that a load asks of the kernel, so that each error ends in words that help. What an
//! answer means depends on what was asked: too little memory is the limit on locked memory to an
//! io_uring and the machine's to a read.

use std::borrow::Cow;
use std::io;

use crate::storage::file::open_files;

/// What the kernel was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// To open a file, or to tell of it.
    Open,
    /// To read a file.
    Read,
    /// To open a file that is there, to be written in place.
    OpenToWrite,
    /// To make a file, or to give it the name of another.
    Create,
    /// To write a file, to lengthen it, or to put what was written in the drive.
    Write,
    /// To set up an io_uring.
    Ring,
    /// To keep memory pinned for an io_uring.
    Register,
    /// To start a thread.
    Thread,
}

/// What to do about an error of the kernel's, as the end of a sentence.
///
/// ```
/// use std::io;
/// use bufmap::remedy::{Call, remedy};
///
/// let too_many_files = io::Error::from_raw_os_error(24);
/// assert!(remedy(Call::Open, &too_many_files).contains("ulimit -n"));
/// ```
pub fn remedy(call: Call, error: &io::Error) -> Cow<'static, str> {
    match open_files::remedy(error) {
        Some(limit) => limit.into(),
        None => of_call(call, error).into(),
    }
}

fn of_call(call: Call, error: &io::Error) -> &'static str {
    let Some(code) = error.raw_os_error() else { return without_number(call, error.kind()) };
    let for_call = match call {
        Call::Open => open(code),
        Call::Read => read(code),
        Call::OpenToWrite => open_to_write(code).or_else(|| open(code)),
        Call::Create => create(code).or_else(|| write(code)),
        Call::Write => write(code),
        Call::Ring => ring(code),
        Call::Register => register(code),
        Call::Thread => Some(THREADS),
    };
    for_call.or_else(|| anywhere(code)).unwrap_or(UNKNOWN)
}

const UNKNOWN: &str = "the kernel's log (dmesg) may say more";

const THREADS: &str = "raise the user's limit on processes (`ulimit -u`), the container's (pids.max) or \
                       the machine's (sysctl kernel.threads-max)";

const NO_FILE: &str = "name a regular file or a block device";

/// Errors that this program or the standard library made.
fn without_number(call: Call, kind: io::ErrorKind) -> &'static str {
    match (call, kind) {
        (_, io::ErrorKind::NotFound) => "check the path",
        (_, io::ErrorKind::IsADirectory) => "name a file in it",
        (Call::Open, io::ErrorKind::InvalidInput) => NO_FILE,
        (Call::Read, io::ErrorKind::UnexpectedEof) => {
            "something shrank the file: load it again once it is whole"
        }
        _ => UNKNOWN,
    }
}

fn open(code: i32) -> Option<&'static str> {
    Some(match code {
        libc::ENOENT => "check the path",
        libc::ENOTDIR => "check the path: a part of it is no directory",
        libc::ELOOP => "check the path: its symbolic links lead to each other",
        libc::ENAMETOOLONG => "give a shorter path, such as one from a nearer directory",
        libc::EISDIR => "name a file in it",
        libc::EINVAL => NO_FILE,
        libc::EPERM => {
            "a security module, a container or an attribute of the file forbids it: see the audit log"
        }
        libc::EAGAIN => "another program has a lease on it: load it again when that is done",
        libc::EBUSY | libc::ETXTBSY => "another program has it to itself: end that first",
        libc::EOPNOTSUPP => "the file system cannot open it so: copy the file elsewhere",
        _ => return None,
    })
}

fn read(code: i32) -> Option<&'static str> {
    Some(match code {
        libc::EAGAIN => {
            "the file system put each try off: see whether its server or its drive is overloaded, and load it again"
        }
        libc::EINTR => "the file system broke each try off: see whether it still works",
        libc::EINVAL => {
            "the file system does not take a read of this place and length: load it through the page cache (--require buffered)"
        }
        libc::EFAULT => {
            "the kernel cannot write to the buffer's memory: load into memory of the system's"
        }
        libc::EBADF | libc::EPERM => "a sandbox forbids it: see the audit log",
        libc::ECANCELED => {
            "the kernel could not start a thread for the io_uring: raise `ulimit -u` or pids.max"
        }
        libc::EISDIR => "name a file in it",
        libc::EBUSY => "another program has the drive to itself: load it again when that is done",
        libc::EOPNOTSUPP => {
            "the file system cannot read it so: load it through the page cache (--require buffered)"
        }
        _ => return None,
    })
}

fn open_to_write(code: i32) -> Option<&'static str> {
    Some(match code {
        libc::ENOENT => "in place, a file must be there already: check the path",
        libc::EACCES => "ask its owner for the right to write it",
        libc::EBUSY => "it is mounted, or part of a volume: end that first",
        libc::EROFS => READ_ONLY,
        _ => return None,
    })
}

fn create(code: i32) -> Option<&'static str> {
    Some(match code {
        libc::ENOENT => "make its directory first",
        libc::ENOTDIR => "check the path: a part of it is no directory",
        libc::ELOOP => "check the path: its symbolic links lead to each other",
        libc::ENAMETOOLONG => "give a shorter name",
        libc::EACCES | libc::EPERM => {
            "it takes the right to write to its directory, and to a file that is replaced"
        }
        _ => return None,
    })
}

const READ_ONLY: &str =
    "its file system is read-only: mount it anew (mount -o remount,rw), or name another place";

fn write(code: i32) -> Option<&'static str> {
    Some(match code {
        libc::EAGAIN => {
            "the file system put each try off: see whether its server or its drive is overloaded, and save again"
        }
        libc::EINTR => "the file system broke each try off: see whether it still works",
        libc::ENOSPC => "its file system is full: delete something on it, or name another place",
        libc::EDQUOT => "this user's quota is used up: delete something",
        libc::EFBIG => {
            "it is longer than its file system can have it, or than this process may write: raise that limit (`ulimit -f`)"
        }
        libc::EROFS => READ_ONLY,
        libc::EFAULT => {
            "the kernel cannot read the buffer's memory: save it by way of the CPU (--require bounce)"
        }
        libc::EBADF | libc::EPERM => {
            "a sandbox or an attribute of the file (chattr) forbids it: see the audit log"
        }
        libc::ECANCELED => {
            "the kernel could not start a thread for the io_uring: raise `ulimit -u` or pids.max"
        }
        libc::EBUSY => "another program has the drive to itself: save again when that is done",
        libc::EOPNOTSUPP | libc::EINVAL => {
            "the file system cannot write it so: save it through the page cache (--require buffered)"
        }
        libc::ENODATA | libc::EILSEQ | libc::EREMOTEIO => {
            "the drive cannot write these blocks: look at its health (smartctl)"
        }
        _ => return None,
    })
}

fn ring(code: i32) -> Option<&'static str> {
    Some(match code {
        libc::EPERM | libc::EACCES => {
            "see the sysctl kernel.io_uring_disabled and the container's seccomp profile"
        }
        libc::ENOSYS | libc::EOPNOTSUPP => {
            "it is there since Linux 5.1 (CONFIG_IO_URING), and some sandboxes hide it"
        }
        libc::ENOMEM | libc::EAGAIN => {
            "raise the limit on locked memory (`ulimit -l`) or the container's on memory, or have fewer reads in flight"
        }
        libc::EINVAL => "have fewer reads in flight: at most 32768 fit in a ring",
        _ => return None,
    })
}

fn register(code: i32) -> Option<&'static str> {
    Some(match code {
        libc::ENOMEM | libc::EAGAIN => {
            "raise the limit on locked memory, RLIMIT_MEMLOCK (`ulimit -l`)"
        }
        libc::EINVAL => "it is there since Linux 5.19",
        libc::EFAULT | libc::EOPNOTSUPP => "this memory cannot be pinned",
        libc::EPERM | libc::EACCES => "see the container's seccomp profile",
        libc::EBUSY => "the ring has registered buffers already",
        _ => return None,
    })
}

/// What means the same wherever it comes from.
fn anywhere(code: i32) -> Option<&'static str> {
    Some(match code {
        libc::EACCES => "ask its owner for the right to read it, and to search its directories",
        libc::ENOMEM => "close other programs, or raise the container's limit on memory",
        libc::ENOBUFS => "close other programs: the kernel is short of memory",
        libc::ENOSYS => "this kernel or sandbox does not have the system call",
        libc::EIO => "the drive or its file system failed, the kernel's log (dmesg) says more",
        libc::ENODEV | libc::ENXIO | libc::ESHUTDOWN => {
            "the drive is gone: plug it in again, the kernel's log (dmesg) may say why"
        }
        libc::ENOMEDIUM | libc::EMEDIUMTYPE => "put the right medium into the drive",
        libc::ENODATA | libc::EILSEQ | libc::EREMOTEIO => {
            "the drive cannot read these blocks: look at its health (smartctl), and fetch the file again"
        }
        libc::EBADMSG | libc::EUCLEAN => {
            "the file system is damaged: unmount and check it (fsck), and fetch the file again"
        }
        libc::ENOSPC | libc::EDQUOT => {
            "what the file is kept on is full (a thin volume, a cache, a quota): make room there"
        }
        libc::ESTALE => {
            "the server has another file in its place: name the file anew, or mount again"
        }
        libc::ENOTCONN | libc::ECONNABORTED => {
            "the program behind the file system ended: unmount, and mount it again"
        }
        libc::ETIMEDOUT
        | libc::ETIME
        | libc::EHOSTDOWN
        | libc::EHOSTUNREACH
        | libc::ENETDOWN
        | libc::ENETUNREACH
        | libc::ECONNREFUSED
        | libc::ECONNRESET
        | libc::ENOLINK
        | libc::EPIPE
        | libc::EPROTO => "the file's server does not answer: see that it runs and can be reached",
        libc::ENOKEY | libc::EKEYEXPIRED | libc::EKEYREVOKED | libc::EKEYREJECTED => {
            "the file is encrypted: unlock its directory first"
        }
        libc::EOVERFLOW | libc::EFBIG => "the file is longer than its file system can read here",
        libc::EINTR => "a signal came in between: try again",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(call: Call, code: i32) -> Cow<'static, str> {
        remedy(call, &io::Error::from_raw_os_error(code))
    }

    #[test]
    fn limits_are_named_by_the_command_that_raises_them() {
        for (call, code, command) in [
            (Call::Open, libc::EMFILE, "ulimit -n"),
            (Call::Open, libc::ENFILE, "fs.file-max"),
            (Call::Ring, libc::EMFILE, "ulimit -n"),
            (Call::Ring, libc::ENFILE, "fs.file-max"),
            (Call::Ring, libc::ENOMEM, "ulimit -l"),
            (Call::Ring, libc::EPERM, "kernel.io_uring_disabled"),
            (Call::Ring, libc::ENOSYS, "Linux 5.1"),
            (Call::Register, libc::ENOMEM, "ulimit -l"),
            (Call::Thread, libc::EAGAIN, "ulimit -u"),
            (Call::Thread, libc::ENOMEM, "pids.max"),
            (Call::Read, libc::ENOMEM, "container's limit on memory"),
            (Call::Read, libc::EIO, "dmesg"),
            (Call::Read, libc::ENODEV, "plug it in"),
            (Call::Read, libc::ENOTCONN, "mount it again"),
        ] {
            let said = words(call, code);
            assert!(said.contains(command), "{call:?} {code}: {said}");
        }
    }

    /// What open(2), statx(2), read(2), write(2), fallocate(2), linkat(2), rename(2), io_uring_setup(2), io_uring_register(2) and pthread_create(3) list,
    /// and what block devices and network file systems add.
    #[test]
    fn what_the_manual_pages_list_has_an_answer_of_its_own() {
        let files = [
            libc::EACCES,
            libc::EBUSY,
            libc::EINTR,
            libc::EINVAL,
            libc::EIO,
            libc::EISDIR,
            libc::EMFILE,
            libc::ENFILE,
            libc::ENODEV,
            libc::ENOMEM,
            libc::ENXIO,
            libc::EOPNOTSUPP,
            libc::EOVERFLOW,
            libc::EPERM,
            libc::EAGAIN,
            libc::ENODATA,
            libc::EILSEQ,
            libc::ENOSPC,
            libc::EDQUOT,
            libc::ESTALE,
            libc::ENOTCONN,
            libc::ECONNABORTED,
            libc::ETIMEDOUT,
            libc::EHOSTDOWN,
            libc::EHOSTUNREACH,
            libc::EBADMSG,
            libc::EUCLEAN,
            libc::EREMOTEIO,
            libc::ENOMEDIUM,
            libc::ENOKEY,
            libc::ENOLINK,
            libc::ENOBUFS,
            libc::ENOSYS,
        ];
        let opening = [libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::ENAMETOOLONG, libc::ETXTBSY];
        let writing = [
            libc::EAGAIN,
            libc::EBADF,
            libc::EDQUOT,
            libc::EFAULT,
            libc::EFBIG,
            libc::EINTR,
            libc::EINVAL,
            libc::EIO,
            libc::ENODEV,
            libc::ENOSPC,
            libc::EOPNOTSUPP,
            libc::EPERM,
            libc::EROFS,
            libc::ECANCELED,
        ];
        let creating = [libc::ENOENT, libc::ENOTDIR, libc::ELOOP, libc::ENAMETOOLONG, libc::EACCES];
        let reading = [libc::EFAULT, libc::ECANCELED, libc::EBADF];
        let ring = [
            libc::EPERM,
            libc::EACCES,
            libc::ENOSYS,
            libc::ENOMEM,
            libc::EMFILE,
            libc::ENFILE,
            libc::EINVAL,
            libc::EAGAIN,
        ];
        let register = [libc::ENOMEM, libc::EINVAL, libc::EFAULT, libc::EBUSY, libc::EPERM];
        let thread = [libc::EAGAIN, libc::ENOMEM, libc::EPERM, libc::EINVAL];
        for (call, codes) in [
            (Call::Open, &files[..]),
            (Call::Open, &opening),
            (Call::Read, &files),
            (Call::Read, &reading),
            (Call::Write, &writing),
            (Call::OpenToWrite, &opening),
            (Call::OpenToWrite, &files),
            (Call::Create, &writing),
            (Call::Create, &creating),
            (Call::Ring, &ring),
            (Call::Register, &register),
            (Call::Thread, &thread),
        ] {
            for &code in codes {
                let error = io::Error::from_raw_os_error(code);
                assert_ne!(remedy(call, &error), UNKNOWN, "{call:?}: {error}");
            }
        }
    }

    #[test]
    fn an_error_nobody_foresaw_points_at_the_log() {
        assert_eq!(words(Call::Read, libc::EDOM), UNKNOWN);
        assert_eq!(remedy(Call::Read, &io::Error::other("odd")), UNKNOWN);
    }
}
