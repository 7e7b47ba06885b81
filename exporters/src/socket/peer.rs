//! Whose process the other end may be.

use std::os::fd::AsFd;
use std::path::Path;
use std::str::FromStr;

use super::error::SocketError;

/// Whose process one connects to.
///
/// ```
/// use exporters::socket::Peer;
///
/// assert_eq!("1000".parse(), Ok(Peer::User(1000)));
/// assert_eq!("anyone".parse(), Ok(Peer::Anyone));
/// assert!("root".parse::<Peer>().is_err());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Peer {
    /// One of the user that this process runs as.
    #[default]
    SameUser,
    /// One of the user of this number.
    User(u32),
    /// Anybody's. Such a peer can make this process impossible to end, see
    /// [the module](super#what-is-refused-is-closed).
    Anyone,
}

impl Peer {
    /// Fails if a connected socket's other end is a stranger's.
    pub(super) fn check(self, path: &Path, socket: &impl AsFd) -> Result<(), SocketError> {
        let wanted = match self {
            Self::SameUser => rustix::process::geteuid().as_raw(),
            Self::User(user) => user,
            Self::Anyone => return Ok(()),
        };
        let peer = rustix::net::sockopt::socket_peercred(socket)
            .map_err(|e| SocketError::Kernel { step: "SO_PEERCRED", source: e.into() })?;
        match peer.uid.as_raw() {
            user if user == wanted => Ok(()),
            user => Err(SocketError::Stranger { path: path.to_owned(), user, wanted }),
        }
    }
}

impl FromStr for Peer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "same" => Ok(Self::SameUser),
            "anyone" => Ok(Self::Anyone),
            number => number.parse().map(Self::User).map_err(|_| "a user's number, same or anyone"),
        }
    }
}
