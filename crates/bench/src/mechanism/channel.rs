//! Ginnel's channel: one in each direction, lossless.

use super::{Facts, Link, Mechanism, Role, Transport};
use crate::plan::Form;
use crate::port::{For, Port, yield_now};
use ginnel_channel::{Mode, PublishError, Reader, Watch, Writer};
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::io;

/// Two channels by name.
pub(super) struct Channel;

pub(super) struct End {
    writer: Writer<[u8]>,
    reader: Reader<[u8]>,
    /// In the async form, the reader's descriptor in the reactor.
    readable: Option<Port>,
}

/// Bytes of a channel's ring, at least; it holds two messages in any case.
const CAPACITY: usize = 1 << 20;

impl Mechanism for Channel {
    type End = End;

    fn facts(&self) -> Facts {
        Facts::new("ginnel-channel", "Ginnel's channel, one each way, lossless")
    }

    async fn open(&self, role: Role, link: &mut Link<'_>) -> io::Result<End> {
        let (own, other) = match role {
            Role::Server => (format!("s{}", link.pair), format!("c{}", link.pair)),
            Role::Client => (format!("c{}", link.pair), format!("s{}", link.pair)),
        };
        let (directory, size) = (link.directory()?.to_owned(), link.plan().size);
        let capacity = CAPACITY.max((4 * (size + 64)).next_power_of_two());
        let writer = Writer::builder().run_dir(&directory).mode(Mode::Lossless).capacity(capacity).max_record(size);
        let mut writer: Writer<[u8]> = writer.create(&own).map_err(io::Error::other)?;
        link.give(&(), &[])?;
        link.take::<()>()?;
        let reader: Reader<[u8]> = Reader::builder().run_dir(&directory).open(&other).map_err(io::Error::other)?;
        // What is written before the reader is there would be nobody's.
        if !writer.wait_for_readers(1, link.plan().patience).map_err(io::Error::other)? {
            return Err(io::Error::other("the other side did not open the channel"));
        }
        let readable = match link.plan().form {
            Form::Blocking => None,
            Form::Async => Some(link.port(reader.as_fd().try_clone_to_owned()?)?),
        };
        Ok(End { writer, reader, readable })
    }
}

impl Transport for End {
    #[inline]
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        if self.readable.is_none() {
            return self.writer.publish(message).map_err(io::Error::other);
        }
        loop {
            match self.writer.try_publish(message) {
                Ok(()) => return Ok(()),
                // A writer has no descriptor to wait for room.
                Err(PublishError::Full { .. }) => yield_now(Form::Async).await,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    #[inline]
    async fn recv(&mut self, message: &mut Vec<u8>) -> io::Result<usize> {
        let reader = &mut self.reader;
        let Some(port) = &self.readable else {
            reader.recv_into(message).map_err(io::Error::other)?;
            return Ok(message.len());
        };
        let mut failure = None;
        let received = port.attempt(For::Reading, |_| {
            loop {
                match reader.try_recv_into(message) {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(error) => failure = Some(error),
                }
                match reader.watch() {
                    _ if failure.is_some() => return Err(Errno::IO),
                    Ok(Watch::Ready) => {}
                    Ok(Watch::Armed) => return Err(Errno::AGAIN),
                    Err(error) => failure = Some(error),
                }
            }
        });
        let received = received.await;
        match failure {
            Some(error) => Err(io::Error::other(error)),
            None => received.map(|()| message.len()),
        }
    }
}
