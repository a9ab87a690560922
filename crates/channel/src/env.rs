//! Channels through the environment: what an exported variable says.
//!
//! ```text
//! NAME                          a named channel in the reader's own runtime directory
//! /DIRECTORY/NAME               a named channel in that runtime directory
//! fd:r:DATA,CONTROL,SOCKET,SLOT,TOKEN        inherited descriptors for a reader that the parent has placed
//! fd:w:DATA,CONTROL,SOCKET,SLOT,TOKEN        inherited descriptors for the writer; slot and token are the parent's reader's
//! ```

use crate::error::EnvError;
use crate::{sys, tether};
use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::ffi::OsStr;
use std::path::PathBuf;

/// Which part of an inherited channel the child plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Reader,
    Writer,
}

/// Everything that one end of an inherited channel consists of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) data: OwnedFd,
    pub(crate) control: OwnedFd,
    pub(crate) socket: OwnedFd,
    pub(crate) slot: usize,
    pub(crate) token: u64,
}

/// Where an environment variable leads.
#[derive(Debug)]
pub(crate) enum Source {
    Named { dir: Option<PathBuf>, name: String },
    Inherited(Parts),
}

/// A second descriptor of an inherited socket, to hang up where taking the channel over fails: whoever exported it must
/// not wait for this process, in which the inherited descriptor stays open.
#[derive(Debug)]
pub(crate) struct SpareSocket(Option<OwnedFd>);

impl SpareSocket {
    pub(crate) fn hang_up(&self) {
        if let Some(socket) = &self.0 {
            tether::hang_up(socket.as_fd());
        }
    }
}

impl Parts {
    pub(crate) fn spare_socket(&self) -> SpareSocket {
        SpareSocket(rustix::io::fcntl_dupfd_cloexec(&self.socket, 3).ok())
    }

    /// Gives the parts to the next children of `command`, in the variable `variable`.
    pub(crate) fn export(self, command: &mut impl Inherit, variable: &str, role: Role) {
        let role = match role {
            Role::Reader => 'r',
            Role::Writer => 'w',
        };
        let Self { data, control, socket, slot, token } = self;
        let [data, control, socket] = [data, control, socket].map(|fd| command.inherit_fd(fd));
        let value = format!("fd:{role}:{data},{control},{socket},{slot},{token}");
        command.set_env(variable, value.as_ref());
    }
}

/// A command whose children can be given the ends of channels: [`std::process::Command`], or a launcher of your own.
pub trait Inherit {
    /// Lets the next children have `fd`, without close-on-exec; returns its number there, which is at least 3.
    fn inherit_fd(&mut self, fd: OwnedFd) -> RawFd;

    /// Sets a variable of the children's environment.
    fn set_env(&mut self, variable: &str, value: &OsStr);
}

/// Descriptors keep their numbers, and stay open here until the `Command` is dropped.
impl Inherit for std::process::Command {
    fn inherit_fd(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        sys::inherit(self, fd);
        number
    }

    fn set_env(&mut self, variable: &str, value: &OsStr) {
        self.env(variable, value);
    }
}

/// Reads `variable`.
pub(crate) fn read(variable: &str, role: Role) -> Result<Source, EnvError> {
    let Some(value) = std::env::var_os(variable) else {
        return Err(EnvError::Unset { variable: variable.to_owned() });
    };
    let malformed =
        || EnvError::Malformed { variable: variable.to_owned(), value: value.to_string_lossy().into_owned() };
    let value = value.to_str().ok_or_else(malformed)?;
    let prefix = match role {
        Role::Reader => "fd:r:",
        Role::Writer => "fd:w:",
    };
    if let Some(list) = value.strip_prefix(prefix) {
        return parse(variable, list, malformed).map(Source::Inherited);
    }
    if value.starts_with("fd:") || value.is_empty() {
        return Err(malformed());
    }
    Ok(match value.rsplit_once('/') {
        Some((dir, name)) => Source::Named { dir: Some(PathBuf::from(dir)), name: name.to_owned() },
        None => Source::Named { dir: None, name: value.to_owned() },
    })
}

fn parse(variable: &str, list: &str, malformed: impl Fn() -> EnvError) -> Result<Parts, EnvError> {
    let fields: Vec<&str> = list.split(',').collect();
    let (fds, [slot, token]) = fields.split_last_chunk().ok_or_else(&malformed)?;
    let slot = slot.parse().map_err(|_| malformed())?;
    let token = token.parse().map_err(|_| malformed())?;
    let numbers: Result<Vec<RawFd>, _> = fds.iter().map(|fd| fd.parse()).collect();
    let numbers = numbers.map_err(|_| malformed())?;
    let take =
        |fd: RawFd| sys::take_inherited(fd).ok_or_else(|| EnvError::Descriptor { variable: variable.to_owned(), fd });
    let &[data, control, socket] = &numbers[..] else { return Err(malformed()) };
    let (data, control, socket) = (take(data)?, take(control)?, take(socket)?);
    Ok(Parts { data, control, socket, slot, token })
}
