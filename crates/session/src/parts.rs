//! A session taken apart, for drivers of many.

use crate::agreement::Agreement;
use crate::carrier::Carrier;
use crate::proto::Connection;

/// An established session, for a driver that runs many of them on one thread: the protocol, what carries its bytes, and
/// what was agreed. [`Session`](crate::Session) is the same with a blocking driver.
///
/// The driver's turn is described at [`Connection`]. The carrier's descriptor does not block. Which layout was agreed
/// on is said by [`Connection::layout_2`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Parts {
    /// The protocol.
    pub connection: Connection,
    /// What carries the messages.
    pub carrier: Box<dyn Carrier>,
    /// What both sides agreed on.
    pub agreement: Agreement,
}
