//! ipc-channel, with its bytes channels: the variant without serialisation, its fastest.

use super::{Handoff, Link, Meeting, Plan, Receiver, Sender};
use crate::Outcome;
use crate::payload::Source;
use ipc_channel::ipc::{IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel};
use zerocopy::{FromBytes, IntoBytes};

/// What the child sends to the parent's one-shot server: the ends that the parent shall have.
type Ends = (IpcBytesSender, IpcBytesReceiver);

/// Carries the payload size through `Meeting`, whose types do not need it here.
pub struct IpcChannel<const W: usize>;

pub struct Founded(IpcOneShotServer<Ends>);

pub struct BytesLink {
    out: IpcBytesSender,
    back: IpcBytesReceiver,
    received: Vec<u8>,
}

impl<const W: usize> Meeting for IpcChannel<W> {
    type Founded = Founded;
    type Parent = BytesLink;
    type Child = BytesLink;

    fn found(_: &Plan) -> Outcome<(Founded, Handoff)> {
        let (server, name) = IpcOneShotServer::new()?;
        Ok((Founded(server), Handoff { names: vec![name], ..Handoff::default() }))
    }

    fn join(_: &Plan, handoff: Handoff, _: usize) -> Outcome<BytesLink> {
        let name = handoff.names.into_iter().next().ok_or("no server name was handed over")?;
        let (parent_out, back) = bytes_channel()?;
        let (out, parent_back) = bytes_channel()?;
        IpcSender::connect(name)?.send((parent_out, parent_back))?;
        Ok(BytesLink { out, back, received: Vec::new() })
    }

    fn connect(_: &Plan, founded: Founded) -> Outcome<BytesLink> {
        let (_, (out, back)) = founded.0.accept()?;
        Ok(BytesLink { out, back, received: Vec::new() })
    }
}

impl<const W: usize> Link<W> for BytesLink {
    fn send(&mut self, message: &[u64; W]) -> Outcome<()> {
        Ok(self.out.send(message.as_bytes())?)
    }

    fn receive(&mut self) -> Outcome<()> {
        // Receiving allocates: that is how this crate hands bytes over.
        self.received = self.back.recv().map_err(|error| format!("{error:?}"))?;
        message::<W>(&self.received).map(drop)
    }

    #[inline(always)]
    fn received(&self) -> &[u64; W] {
        message(&self.received).expect("looked at when it was received")
    }
}

fn message<const W: usize>(bytes: &[u8]) -> Outcome<&[u64; W]> {
    <[u64; W]>::ref_from_bytes(bytes).map_err(|_| "a message of the wrong size arrived, or misaligned".into())
}

impl<const W: usize> Sender<W> for BytesLink {
    fn send_batch(&mut self, count: usize, source: &mut Source<W>) -> Outcome<()> {
        for _ in 0..count {
            source.next(|message| self.out.send(message.as_bytes()))?;
        }
        Ok(())
    }
}

impl<const W: usize> Receiver<W> for BytesLink {
    fn drain(&mut self, mut take: impl FnMut(&[u64; W])) -> Outcome<()> {
        let bytes = self.back.recv().map_err(|error| format!("{error:?}"))?;
        take(message(&bytes)?);
        Ok(())
    }
}
