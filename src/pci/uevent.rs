//! What the kernel tells of devices that come, go and change their drivers: uevents.
//!
//! They come by a netlink socket of the family `NETLINK_KOBJECT_UEVENT`, to whoever listens, without privileges and without
//! a daemon. The format is the kernel's own (`lib/kobject_uevent.c`): `ACTION@DEVPATH`, and then `KEY=VALUE` for each thing
//! that is known, each ended by a zero byte.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};

/// The kernel's own group. What udev passes on comes by another.
const KERNEL: u32 = 1;

/// More than the kernel sends, in bytes: its `UEVENT_BUFFER_SIZE` is 2 KiB, and a path at most 4.
const LONGEST: usize = 8192;

/// Something that the kernel tells of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Uevent {
    /// What became of it: `add`, `remove`, `change`, `move`, `online`, `offline`, `bind`, `unbind`.
    pub action: String,
    /// Where it is or was below `/sys`: `/devices/pci0000:00/0000:00:03.0`.
    pub path: String,
    /// What kind of thing it is: `pci`, `block`, `nvme`.
    pub subsystem: String,
}

impl Uevent {
    /// Reads a message of the kernel's. `None` for anything else, such as what udev sends.
    ///
    /// ```
    /// use bufmap::pci::Uevent;
    ///
    /// let message = b"unbind@/devices/pci0000:00/0000:00:03.0\0ACTION=unbind\0\
    ///     DEVPATH=/devices/pci0000:00/0000:00:03.0\0SUBSYSTEM=pci\0SEQNUM=7\0";
    /// let event = Uevent::parse(message).expect("what the kernel sends");
    /// assert_eq!((&*event.action, &*event.subsystem), ("unbind", "pci"));
    /// ```
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut lines = message.split(|&byte| byte == 0).map(String::from_utf8_lossy);
        let head = lines.next()?;
        let (action, path) = head.split_once('@')?;
        let subsystem =
            lines.find_map(|line| line.strip_prefix("SUBSYSTEM=").map(str::to_owned))?;
        Some(Self { action: action.to_owned(), path: path.to_owned(), subsystem })
    }
}

/// A socket to which the kernel sends uevents from now on.
///
/// ```no_run
/// use bufmap::pci::Uevents;
///
/// let events = Uevents::listen()?;
/// while let Some(event) = events.next()? {
///     println!("{} {} {}", event.subsystem, event.action, event.path);
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Begins to listen.
    ///
    /// In a container with a user namespace of its own the kernel sends nothing.
    ///
    /// # Errors
    /// The kernel's answer: `EAFNOSUPPORT` or `EPERM` where a sandbox allows no netlink, `EMFILE`.
    pub fn listen() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let protocol = Some(KOBJECT_UEVENT);
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL))?;
        Ok(Self(socket))
    }

    /// The next event, if one has come. What others than the kernel send is passed over.
    ///
    /// # Errors
    /// `ENOBUFS`, once, if events came faster than they were taken, and some are lost.
    pub fn next(&self) -> io::Result<Option<Uevent>> {
        let mut message = [0; LONGEST];
        loop {
            let (len, from) = match recvfrom(&self.0, &mut message, RecvFlags::empty()) {
                Ok((_, len, from)) => (len, from),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
            if from.is_none_or(|from| from.pid() != 0) {
                continue;
            }
            if let Some(event) = message.get(..len).and_then(Uevent::parse) {
                return Ok(Some(event));
            }
        }
    }
}

impl AsFd for Uevents {
    /// Readable while there are events.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_uevent_is_none() {
        let udev = b"libudev\0\xfe\xed\xca\xfe\0SUBSYSTEM=pci\0";
        for message in [&b""[..], b"add@/devices/x\0ACTION=add\0", b"SUBSYSTEM=pci\0", udev] {
            assert_eq!(Uevent::parse(message), None);
        }
    }

    #[test]
    fn who_is_not_the_kernel_is_not_believed() {
        let events = Uevents::listen().expect("a socket");
        let own = rustix::net::getsockname(&events.0).expect("its address");
        let other = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(KOBJECT_UEVENT),
        );
        let message = b"remove@/devices/x\0SUBSYSTEM=block\0";
        let other = other.expect("a socket");
        let own = SocketAddrNetlink::try_from(own).expect("a netlink address");
        let sent = rustix::net::sendto(other, message, rustix::net::SendFlags::empty(), &own);
        assert_eq!(sent, Ok(message.len()));
        let next = std::iter::from_fn(|| events.next().expect("an answer"));
        assert!(next.take(100).all(|event| event.path != "/devices/x"));
    }

    proptest! {
        #[test]
        fn what_the_kernel_writes_is_read(
            [action, path, subsystem] in prop::array::uniform3("[a-z0-9:/._-]{1,40}"),
            others in prop::collection::vec("[A-RT-Z]{1,9}=[ -~]{0,30}", 0..8),
            at in 0usize..8,
        ) {
            let mut lines = others;
            lines.insert(at.min(lines.len()), format!("SUBSYSTEM={subsystem}"));
            let message = format!("{action}@{path}\0{}\0", lines.join("\0"));
            let event = Uevent { action, path, subsystem };
            prop_assert_eq!(Uevent::parse(message.as_bytes()), Some(event));
        }
    }
}
