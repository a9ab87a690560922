//! Is it ready? Is it well?

use crate::command::Command;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// A question to a daemon that has a yes or no.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Check {
    /// It has written a line that contains this text. For readiness only.
    Line(String),
    /// It accepts TCP connections here.
    Tcp(SocketAddr),
    /// It accepts connections on this Unix socket.
    Socket(PathBuf),
    /// This file exists.
    File(PathBuf),
    /// This command ends with code 0. It is given [`Check::PATIENCE`] unless it has a timeout of its own.
    Command(Box<Command>),
}

impl Check {
    /// The longest one question may take.
    pub const PATIENCE: Duration = Duration::from_secs(1);

    /// Whether a line of output answers it.
    pub(crate) fn answered_by(&self, line: &str) -> bool {
        matches!(self, Check::Line(text) if line.contains(text.as_str()))
    }

    /// Asks. Blocks at most [`PATIENCE`](Self::PATIENCE).
    pub(crate) fn ask(&self) -> bool {
        match self {
            // Lines come by themselves.
            Check::Line(_) => false,
            Check::Tcp(address) => TcpStream::connect_timeout(address, Self::PATIENCE).is_ok(),
            Check::Socket(path) => UnixStream::connect(path).is_ok(),
            Check::File(path) => path.exists(),
            Check::Command(command) => {
                let mut command = (**command).clone();
                command.timeout.get_or_insert(Self::PATIENCE);
                command.capture_limit(0).run().is_ok_and(|output| output.report.success())
            }
        }
    }
}
