//! Where a service is reached.

use crate::error::EndpointError;
#[cfg(target_os = "linux")]
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// Longest path that fits `sockaddr_un` with its terminating NUL.
const MAX_PATH: usize = 107;

/// Where a service listens: a Unix socket in a run directory, or a TCP address.
///
/// ```
/// use ginnel_session::Endpoint;
///
/// let endpoint = Endpoint::seqpacket("/run/netdata", "cgroups-lookup")?;
/// assert_eq!(endpoint.path().unwrap().to_str(), Some("/run/netdata/cgroups-lookup.sock"));
/// assert!(Endpoint::seqpacket("/run/netdata", "../etc").is_err());
/// # Ok::<(), ginnel_session::EndpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Place {
    Unix { run_dir: PathBuf, service: String, path: PathBuf, stream: bool },
    Tcp(SocketAddr),
}

impl Endpoint {
    /// `{run_dir}/{service}.sock`, SOCK_SEQPACKET: the field's carrier, and the one that can lead to shared memory.
    ///
    /// # Errors
    /// If the name is not a service name or the path is too long for a socket.
    pub fn seqpacket(run_dir: impl Into<PathBuf>, service: &str) -> Result<Self, EndpointError> {
        Self::unix(run_dir.into(), service, false)
    }

    /// `{run_dir}/{service}.stream.sock`, SOCK_STREAM: for peers without SEQPACKET.
    ///
    /// # Errors
    /// If the name is not a service name or the path is too long for a socket.
    pub fn stream(run_dir: impl Into<PathBuf>, service: &str) -> Result<Self, EndpointError> {
        Self::unix(run_dir.into(), service, true)
    }

    /// TCP on a loopback address. Servers must require a token.
    ///
    /// # Errors
    /// If `address` is not a loopback address; [`Endpoint::tcp_beyond_loopback`] takes any.
    pub fn tcp(address: SocketAddr) -> Result<Self, EndpointError> {
        if address.ip().is_loopback() {
            Ok(Self::tcp_beyond_loopback(address))
        } else {
            Err(EndpointError::NotLoopback { address })
        }
    }

    /// TCP on any address: for containers and trusted hosts, since nothing is encrypted. Servers must require a token.
    #[must_use]
    pub fn tcp_beyond_loopback(address: SocketAddr) -> Self {
        Self { place: Place::Tcp(address) }
    }

    fn unix(run_dir: PathBuf, service: &str, stream: bool) -> Result<Self, EndpointError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if service.is_empty() || service == "." || service == ".." || !service.bytes().all(fits) {
            return Err(EndpointError::Name { name: service.to_owned() });
        }
        let path = run_dir.join(format!("{service}{}", if stream { ".stream.sock" } else { ".sock" }));
        let len = path.as_os_str().len();
        if len > MAX_PATH {
            return Err(EndpointError::PathTooLong { path, len });
        }
        Ok(Self { place: Place::Unix { run_dir, service: service.to_owned(), path, stream } })
    }

    /// The path of the socket; `None` for TCP.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Unix { path, .. } => Some(path),
            Place::Tcp(_) => None,
        }
    }

    /// The run directory and the service's name; `None` for TCP.
    #[must_use]
    pub fn service(&self) -> Option<(&Path, &str)> {
        match &self.place {
            Place::Unix { run_dir, service, .. } => Some((run_dir, service)),
            Place::Tcp(_) => None,
        }
    }

    /// The TCP address; `None` for a Unix socket.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match self.place {
            Place::Unix { .. } => None,
            Place::Tcp(address) => Some(address),
        }
    }

    /// Whether packets keep their boundaries here, and shared memory can be negotiated.
    #[must_use]
    pub fn is_seqpacket(&self) -> bool {
        matches!(self.place, Place::Unix { stream: false, .. })
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn family(&self) -> (AddressFamily, SocketType) {
        match &self.place {
            Place::Unix { stream: false, .. } => (AddressFamily::UNIX, SocketType::SEQPACKET),
            Place::Unix { stream: true, .. } => (AddressFamily::UNIX, SocketType::STREAM),
            Place::Tcp(SocketAddr::V4(_)) => (AddressFamily::INET, SocketType::STREAM),
            Place::Tcp(SocketAddr::V6(_)) => (AddressFamily::INET6, SocketType::STREAM),
        }
    }

    #[cfg(target_os = "linux")]
    pub(crate) fn connect(&self, fd: &rustix::fd::OwnedFd) -> rustix::io::Result<()> {
        match &self.place {
            Place::Unix { path, .. } => rustix::net::connect(fd, &SocketAddrUnix::new(path)?),
            Place::Tcp(address) => rustix::net::connect(fd, address),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Unix { path, .. } => write!(f, "{}", path.display()),
            Place::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}
