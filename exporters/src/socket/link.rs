//! One connection: whole messages with their file descriptors, each waited for no longer than so long.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::{FileType, Mode};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use super::error::SocketError;
use super::peer::Peer;
use super::wire::{MAX_FDS, MAX_LEN, Text};
use crate::apart::Apart;
use crate::ready::ready;

/// What came: the words, and the file descriptors that they speak of, which can be of any file.
pub(super) type Received = (Text, Apart<Vec<OwnedFd>>);

/// A connected socket, over which frames are given or taken.
///
/// It is closed by a thread of its own: files may be under way in it that are closed with it.
#[derive(Debug)]
pub struct Link(Apart<OwnedFd>);

impl Link {
    /// Takes a connected socket of the kind `SOCK_SEQPACKET`, such as one of a pair that a parent and
    /// its child share.
    pub fn new(socket: OwnedFd) -> Self {
        Self(Apart::new(socket))
    }

    /// Connects to a [`Listener`] of another process of this user, and waits until there is one.
    ///
    /// # Errors
    /// [`SocketError::NoListener`] if there is none within `limit`; [`SocketError::Path`] if it is not to
    /// be reached; [`SocketError::Stranger`] if another user's process listens there.
    pub fn connect(path: impl AsRef<Path>, limit: Duration) -> Result<Self, SocketError> {
        Self::connect_to(path, Peer::SameUser, limit)
    }

    /// As [`connect`](Self::connect), to a process of the users that `peer` says. Whose process it is that
    /// called `listen` the kernel tells (`SO_PEERCRED`); nothing is sent before that.
    ///
    /// # Errors
    /// As [`connect`](Self::connect).
    pub fn connect_to(
        path: impl AsRef<Path>,
        peer: Peer,
        limit: Duration,
    ) -> Result<Self, SocketError> {
        let path = path.as_ref();
        let begun = Instant::now();
        loop {
            let errno = match connect(path) {
                Ok(socket) => {
                    peer.check(path, &socket)?;
                    return Ok(Self::new(socket));
                }
                Err(errno) => errno,
            };
            if !matches!(errno, Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN) {
                let fix = "name the exporter's socket, and be the user that it runs as";
                return Err(failed(path, "connect", fix)(errno));
            }
            if begun.elapsed() >= limit {
                return Err(SocketError::NoListener { path: path.to_owned(), limit });
            }
            std::thread::sleep(Duration::from_millis(10).min(limit));
        }
    }

    /// Sends a message.
    pub(super) fn send(
        &self,
        text: &Text,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(), SocketError> {
        let bytes = text.encode();
        let begun = Instant::now();
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(fds));
            }
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            let sent = rustix::net::sendmsg(self, &[IoSlice::new(&bytes)], &mut control, flags);
            match sent {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.wait(PollFlags::OUT, "sending", limit, begun)?;
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(self.last_words()),
                Err(e) => return Err(SocketError::Kernel { step: "sendmsg", source: e.into() }),
            }
        }
    }

    /// What a peer said that is gone: it may have told why.
    fn last_words(&self) -> SocketError {
        loop {
            match self.receive_now() {
                Ok((Text::Goodbye(farewell), _)) => return SocketError::Left { farewell },
                Ok(_) => {}
                Err(_) => return SocketError::Gone,
            }
        }
    }

    /// Receives a message with as many file descriptors as it says. Those of a message that is refused
    /// are closed, by a thread of their own.
    pub(super) fn receive(
        &self,
        what: &'static str,
        limit: Duration,
    ) -> Result<Received, SocketError> {
        let begun = Instant::now();
        loop {
            match self.receive_now() {
                Err(SocketError::Kernel { source, .. })
                    if source.kind() == std::io::ErrorKind::WouldBlock =>
                {
                    self.wait(PollFlags::IN, what, limit, begun)?;
                }
                answer => return answer,
            }
        }
    }

    fn receive_now(&self) -> Result<Received, SocketError> {
        // One byte and one descriptor more than the most, so that too many are seen to be.
        let mut bytes = [0; MAX_LEN + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let came = loop {
            let mut into = [IoSliceMut::new(&mut bytes)];
            match rustix::net::recvmsg(self, &mut into, &mut control, flags) {
                Ok(came) => break came,
                // The second says, once, that the peer went away before it had read all that was sent
                // to it. What it sent itself is still there.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                Err(e) => return Err(SocketError::Kernel { step: "recvmsg", source: e.into() }),
            }
        };
        // From here on the descriptors have an owner, which closes them whatever is found.
        let mut fds = Apart::new(Vec::new());
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(more) = message {
                fds.extend(more);
            }
        }
        if came.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
            return Err(SocketError::TooManyFds { most: MAX_FDS });
        }
        if came.flags.contains(ReturnFlags::TRUNC) || came.bytes > MAX_LEN {
            return Err(SocketError::TooLong { most: MAX_LEN });
        }
        // A message of no bytes is how a socket tells its end.
        if came.bytes == 0 {
            return Err(SocketError::Gone);
        }
        let text = Text::parse(&bytes[..came.bytes])?;
        match (text.fds(), fds.len()) {
            (told, found) if told == found => Ok((text, fds)),
            (told, found) => Err(SocketError::FdCount { told, found }),
        }
    }

    fn wait(
        &self,
        flags: PollFlags,
        what: &'static str,
        limit: Duration,
        begun: Instant,
    ) -> Result<(), SocketError> {
        let left = limit.saturating_sub(begun.elapsed());
        match ready(self.as_fd(), flags, left) {
            Ok(true) => Ok(()),
            Ok(false) => Err(SocketError::TimedOut { what, limit }),
            Err(e) => Err(SocketError::Kernel { step: "poll", source: e.into() }),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A socket with a name in the file system, for other processes of this user to connect to. The file is
/// removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    /// The file's device and inode: another that has its name by then stays.
    file: (u64, u64),
}

impl Listener {
    /// Makes the socket and its file, which this user alone (and root) may connect to. A file that a dead process
    /// left behind is replaced.
    ///
    /// # Errors
    /// [`SocketError::Path`] if another process listens there, something else has this name, or the
    /// name has more than 107 bytes.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, SocketError> {
        let path = path.as_ref();
        let taken = "take another path, or end the program that listens there";
        let failed = |step| failed(path, step, taken);
        let name = SocketAddrUnix::new(path).map_err(failed("name of a socket"))?;
        let socket = socket(SocketType::SEQPACKET).map_err(failed("socket"))?;
        if is_dead(path) {
            rustix::fs::unlink(path).map_err(failed("unlink"))?;
        }
        // The file gets the mode of the socket (`net/unix/af_unix.c`, `unix_bind_bsd`): it never has another.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(failed("fchmod"))?;
        rustix::net::bind(&socket, &name).map_err(failed("bind"))?;
        let stat = rustix::fs::stat(path).map_err(failed("stat"))?;
        let listener = Self { socket, path: path.to_owned(), file: (stat.st_dev, stat.st_ino) };
        rustix::net::listen(&listener.socket, 8).map_err(failed("listen"))?;
        Ok(listener)
    }

    /// Waits for a process that connects.
    ///
    /// # Errors
    /// [`SocketError::TimedOut`] after `limit`.
    pub fn accept(&self, limit: Duration) -> Result<Link, SocketError> {
        let begun = Instant::now();
        loop {
            match rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC) {
                Ok(socket) => return Ok(Link::new(socket)),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => {
                    let left = limit.saturating_sub(begun.elapsed());
                    let there = ready(self.socket.as_fd(), PollFlags::IN, left);
                    if !there.map_err(failed(&self.path, "poll", "try again"))? {
                        let what = "waiting for a process to connect";
                        return Err(SocketError::TimedOut { what, limit });
                    }
                }
                Err(e) => return Err(failed(&self.path, "accept", "close other programs")(e)),
            }
        }
    }

    /// The socket's file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let file = rustix::fs::stat(&self.path).map(|stat| (stat.st_dev, stat.st_ino));
        if file == Ok(self.file) {
            // One that cannot be removed is replaced by the next that binds.
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

fn socket(kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
}

/// Whether a socket's file is there, and nobody behind it. It is asked by a socket of another kind, which
/// a listener refuses without noticing.
fn is_dead(path: &Path) -> bool {
    let is_socket = rustix::fs::lstat(path)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Socket);
    let answer = || {
        let other = socket(SocketType::DGRAM)?;
        rustix::net::connect(other, &SocketAddrUnix::new(path)?)
    };
    is_socket && answer() == Err(Errno::CONNREFUSED)
}

fn connect(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = socket(SocketType::SEQPACKET)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// What makes an answer of the kernel's an error that names the file.
fn failed(path: &Path, step: &'static str, fix: &'static str) -> impl FnOnce(Errno) -> SocketError {
    let path = path.to_owned();
    move |errno| SocketError::Path { path, step, source: errno.into(), fix }
}
