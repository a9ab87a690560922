//! Netdata's netipc services for Rust: what the plugins of the field say to each other, encoded, decoded, asked and
//! served.
//!
//! | service | method | types |
//! |---|---:|---|
//! | INCREMENT | 1 | [`encode_increment`], [`decode_increment`] |
//! | CGROUPS_SNAPSHOT | 2 | [`Snapshot`], [`SnapshotBuilder`], [`cache`] |
//! | STRING_REVERSE | 3 | [`encode_string`], [`decode_string`] |
//! | CGROUPS_LOOKUP | 4 | [`LookupRequest`], [`LookupResponse`] with [`CgroupsLookup`] |
//! | APPS_LOOKUP | 5 | the same with [`AppsLookup`] |
//!
//! Decoders borrow, check everything once, and name the byte at fault ([`DecodeError`]); what they return cannot fail
//! any more. Builders write only valid bytes and refuse the rest ([`EncodeError`]). All integers are in host byte
//! order, as the protocol wants: both peers share one machine.

#![forbid(unsafe_code)]

mod apps_lookup;
mod bytes;
pub mod cache;
mod cgroups_lookup;
mod client;
mod dispatch;
mod error;
#[cfg(feature = "tokio")]
mod futures;
pub mod host;
mod labels;
mod lookup;
mod packed;
mod plain;
mod provider;
mod refresher;
mod run;
mod serve;
mod snapshot;
mod split;

pub use apps_lookup::{App, AppCgroup, AppOutcome, AppsLookup, COMM_MAX};
pub use cache::{CacheReader, CacheStatus, CgroupCache, CgroupTable};
pub use cgroups_lookup::{CgroupOutcome, CgroupsLookup};
pub use client::{
    CgroupsSnapshot, INCREMENT_METHOD, Increment, NetipcError, SNAPSHOT_METHOD, STRING_REVERSE_METHOD, ServiceClient,
    StringReverse,
};
pub use dispatch::LookupDispatch;
pub use error::{DecodeError, EncodeError, Fault};
#[cfg(feature = "tokio")]
pub use futures::{AsyncServiceClient, OwnedSnapshot};
pub use labels::{Labels, Orchestrator};
pub use lookup::{Answer, Lookup, LookupRequest, LookupRequestBuilder, LookupResponse, LookupResponseBuilder, Verdict};
pub use plain::{decode_increment, decode_string, encode_increment, encode_string};
pub use provider::{HostProvider, ProviderError};
pub use refresher::CacheRefresher;
pub use serve::{increment_handler, lookup_handler, snapshot_handler, string_reverse_handler};
pub use snapshot::{Cgroup, Snapshot, SnapshotBuilder, decode_snapshot_request, encode_snapshot_request, snapshot_len};
pub use split::{LookupAnswer, LookupCeilings, LookupError, LookupSplit, RequestLimits, Step};

/// What is printed there compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/netipc.md")]
struct Guide;
