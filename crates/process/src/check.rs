//! Is it ready? Is it well?

use crate::command::Command;
use crate::ladder::KillLadder;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A question to a daemon that has a yes or no.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Check {
    /// It has written a line that contains this text. For readiness only.
    Line(String),
    /// It accepts TCP connections here.
    Tcp(SocketAddr),
    /// It accepts connections on this Unix socket. While so many wait to be accepted that it takes no more, the answer
    /// is no.
    Socket(PathBuf),
    /// This file exists.
    File(PathBuf),
    /// This command ends with code 0. It is killed after [`Check::PATIENCE`], unless it has a timeout of its own: then
    /// its kill ladder follows that.
    Command(Box<Command>),
}

impl Check {
    /// The longest one question may take.
    pub const PATIENCE: Duration = Duration::from_secs(1);

    /// Whether a line of output answers it.
    pub(crate) fn answered_by(&self, line: &str) -> bool {
        matches!(self, Check::Line(text) if line.contains(text.as_str()))
    }

    /// Asks. Blocks at most [`PATIENCE`](Self::PATIENCE), or what a command has been given instead.
    pub(crate) fn ask(&self) -> bool {
        match self {
            // Lines come by themselves.
            Check::Line(_) => false,
            Check::Tcp(address) => TcpStream::connect_timeout(address, Self::PATIENCE).is_ok(),
            Check::Socket(path) => accepts(path).is_ok(),
            Check::File(path) => path.exists(),
            Check::Command(command) => {
                let mut command = (**command).clone();
                if command.timeout.is_none() {
                    command.timeout(Self::PATIENCE).kill_ladder(KillLadder::at_once());
                }
                command.capture_limit(0).run().is_ok_and(|output| output.report.success())
            }
        }
    }
}

/// A connect that blocks waits without end for a listener that is full and hangs; this one is told `EAGAIN`
/// (connect(2)).
fn accepts(path: &Path) -> rustix::io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}
