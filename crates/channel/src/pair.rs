//! Two channels between a parent and its child.

use crate::builder::{ReaderBuilder, WriterBuilder};
use crate::env::Inherit;
use crate::error::{CreateError, OpenError};
use crate::reader::Reader;
use crate::writer::Writer;
use ginnel_codec::{Codec, Plain};
use ginnel_memory::ring::Mode;

/// One process's ends of a link: what it says and what it hears.
///
/// The parent makes the link and exports the other ends to a child in one call; nothing of it has a name in a file
/// system, and whoever dies first, the other is told. A child that is started again gets a new link.
///
/// With the prefix `overlay`, the channels are called `overlay_ID_control` (parent to child) and `overlay_ID_status`
/// (child to parent), and the child finds them by `OVERLAY_CONTROL_CHANNEL`, `OVERLAY_STATUS_CHANNEL` and its id in
/// `OVERLAY_ID`.
///
/// ```no_run
/// use ginnel_channel::Link;
/// use std::process::Command;
///
/// // The parent says numbers and hears bytes ...
/// let mut command = Command::new("./overlay");
/// let mut link: Link<u64, [u8]> = Link::export("overlay", "7", &mut command)?;
/// let child = command.spawn()?;
/// link.outgoing.publish(&42)?;
///
/// // ... and the child the other way round.
/// let mut link: Link<[u8], u64> = Link::from_env("overlay")?;
/// assert_eq!(link.incoming.recv()?, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Link<Out: ?Sized, In: ?Sized, CodecOut: Codec<Out> = Plain, CodecIn: Codec<In> = Plain> {
    /// What this process says.
    pub outgoing: Writer<Out, CodecOut>,
    /// What it hears.
    pub incoming: Reader<In, CodecIn>,
    /// The link's id.
    pub id: String,
}

/// Why a link cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    /// The outgoing channel.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The incoming channel.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl<Out: ?Sized, In: ?Sized, CodecOut: Codec<Out>, CodecIn: Codec<In>> Link<Out, In, CodecOut, CodecIn> {
    /// Makes a link to the next child of `command`. Both directions are lossless, with rings of default size.
    pub fn export(prefix: &str, id: &str, command: &mut impl Inherit) -> Result<Self, LinkError> {
        let control = Writer::builder().mode(Mode::Lossless);
        let status = Reader::builder().mode(Mode::Lossless);
        Self::export_with(prefix, id, command, control, status)
    }

    /// Makes a link with settings of one's own: `control` for what the parent says, `status` for what the child does.
    pub fn export_with(
        prefix: &str,
        id: &str,
        command: &mut impl Inherit,
        control: WriterBuilder<Out, CodecOut>,
        status: ReaderBuilder<In, CodecIn>,
    ) -> Result<Self, LinkError> {
        let mut outgoing = control.label(format!("{prefix}_{id}_control")).anonymous()?;
        outgoing.export(command, &variable(prefix, "CONTROL_CHANNEL"))?;
        let incoming = status
            .label(format!("{prefix}_{id}_status"))
            .export_writer(command, &variable(prefix, "STATUS_CHANNEL"))?;
        command.set_env(&variable(prefix, "ID"), id.as_ref());
        Ok(Self { outgoing, incoming, id: id.to_owned() })
    }

    /// Takes over the child's ends of the link that the parent exported under `prefix`.
    pub fn from_env(prefix: &str) -> Result<Self, LinkError> {
        Ok(Self {
            incoming: Reader::from_env(&variable(prefix, "CONTROL_CHANNEL"))?,
            outgoing: Writer::from_env(&variable(prefix, "STATUS_CHANNEL"))?,
            id: std::env::var(variable(prefix, "ID")).unwrap_or_default(),
        })
    }
}

fn variable(prefix: &str, what: &str) -> String {
    format!("{}_{what}", prefix.to_ascii_uppercase().replace(['-', '.'], "_"))
}
