//! What the processes of a measurement say to each other outside the mechanism that is measured: JSON behind a length,
//! with descriptors where the connection is a Unix socket.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::time::Duration;

/// Longest letter: full histograms.
const LONGEST: usize = 64 << 20;
/// Most descriptors with one letter.
const FDS: usize = 8;

/// One end of a connection for control.
#[derive(Debug)]
pub(crate) struct Control {
    socket: OwnedFd,
    descriptors: bool,
}

impl Control {
    /// Takes a connected stream socket, Unix or TCP.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        let address = rustix::net::getsockname(&socket)?;
        let descriptors = address.address_family() == AddressFamily::UNIX;
        Ok(Self { socket, descriptors })
    }

    /// Two ends.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        Ok((Self { socket: one, descriptors: true }, Self { socket: other, descriptors: true }))
    }

    pub(crate) fn into_fd(self) -> OwnedFd {
        self.socket
    }

    /// A second owner of the same end.
    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { socket: self.socket.try_clone()?, descriptors: self.descriptors })
    }

    /// Bounds each wait of [`hear`](Self::hear) and [`tell`](Self::tell).
    pub(crate) fn set_patience(&self, patience: Duration) -> io::Result<()> {
        use rustix::net::sockopt::{Timeout, set_socket_timeout};
        for direction in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&self.socket, direction, Some(patience))?;
        }
        Ok(())
    }

    /// Says something.
    pub(crate) fn tell<T: Serialize>(&self, letter: &T) -> io::Result<()> {
        self.tell_with(letter, &[])
    }

    /// Says something and hands descriptors over, at most 8.
    pub(crate) fn tell_with<T: Serialize>(&self, letter: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if !fds.is_empty() && !self.descriptors {
            return Err(io::Error::other("descriptors cannot be handed to another machine"));
        }
        let json = serde_json::to_vec(letter)?;
        let mut bytes = (json.len() as u32).to_le_bytes().to_vec();
        bytes.extend(json);
        let (mut left, mut fds) = (&bytes[..], fds);
        while !left.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(fds));
            }
            match sendmsg(&self.socket, &[IoSlice::new(left)], &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(sent) => (left, fds) = (&left[sent..], &[]),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Hears something.
    pub(crate) fn hear<T: DeserializeOwned>(&self) -> io::Result<T> {
        self.hear_with().map(|(letter, _)| letter)
    }

    /// Hears something, with the descriptors that come with it.
    pub(crate) fn hear_with<T: DeserializeOwned>(&self) -> io::Result<(T, Vec<OwnedFd>)> {
        let mut fds = Vec::new();
        let mut len = [0; 4];
        self.fill(&mut len, &mut fds)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > LONGEST {
            return Err(io::Error::other(format!("a letter of {len} bytes; this is no side of a measurement")));
        }
        let mut json = vec![0; len];
        self.fill(&mut json, &mut fds)?;
        Ok((serde_json::from_slice(&json)?, fds))
    }

    fn fill(&self, mut bytes: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received =
                recvmsg(&self.socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
            let len = match received {
                Ok(message) if message.bytes == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(message) => message.bytes,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(more) = message {
                    fds.extend(more);
                }
            }
            bytes = &mut bytes[len..];
        }
        Ok(())
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_of_any_length_arrives_with_its_descriptors() {
        let (one, other) = Control::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let long = "x".repeat(1 << 20);
        let said = long.clone();
        let teller = std::thread::spawn(move || one.tell_with(&said, &[writer.as_fd()]));
        let (heard, fds): (String, _) = other.hear_with().unwrap();
        teller.join().unwrap().unwrap();
        assert!(heard == long);
        rustix::io::write(&fds[0], b"!").unwrap();
        assert_eq!(rustix::io::read(&reader, &mut [0; 8]), Ok(1));
    }
}
