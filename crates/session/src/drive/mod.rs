//! Drivers: thin skins that move bytes between a carrier and a [`Connection`](crate::proto::Connection), and wait.

pub(crate) mod blocking;
mod nap;
#[cfg(feature = "tokio")]
mod readiness;
#[cfg(feature = "tokio")]
pub mod tokio;
