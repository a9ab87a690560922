//! Handlers for the five services: what decodes a request, asks the service's own code, encodes the answer, and turns
//! every way to fail into the status that the protocol has for it. They run behind
//! [`Server::start`](ginnel_service::Server::start).

use crate::dispatch::LookupDispatch;
use crate::error::EncodeError;
use crate::lookup::{Lookup, LookupRequest};
use crate::plain::{decode_increment, decode_string, encode_increment, encode_string};
use crate::provider::ProviderError;
use crate::snapshot::decode_snapshot_request;
use ginnel_service::{Failure, Handler, Request};

impl From<ProviderError> for Failure {
    /// What does not fit is learned by the server; all else is the service's own trouble.
    fn from(error: ProviderError) -> Self {
        match error {
            ProviderError::Encode(EncodeError::TooLarge { needed, .. }) => {
                Self::Overflow { needed: usize::try_from(needed).unwrap_or(usize::MAX) }
            }
            error => {
                tracing::warn!(%error, "request not answered");
                Self::Internal
            }
        }
    }
}

impl From<EncodeError> for Failure {
    fn from(error: EncodeError) -> Self {
        ProviderError::from(error).into()
    }
}

fn malformed(error: crate::DecodeError) -> Failure {
    tracing::debug!(%error, "malformed request");
    Failure::Malformed
}

/// INCREMENT: answers each value plus one, wrapping.
#[must_use]
pub fn increment_handler() -> impl Handler {
    |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
        encode_increment(response, decode_increment(request.payload).map_err(malformed)?.wrapping_add(1));
        Ok(())
    }
}

/// STRING_REVERSE: answers the bytes of each string in reverse.
#[must_use]
pub fn string_reverse_handler() -> impl Handler {
    |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
        let mut text = decode_string(request.payload).map_err(malformed)?.to_vec();
        text.reverse();
        Ok(encode_string(response, &text, request.response_limit)?)
    }
}

/// CGROUPS_SNAPSHOT: `provide` appends a snapshot of at most that many bytes, as
/// [`HostProvider::snapshot`](crate::HostProvider::snapshot) does.
#[must_use]
pub fn snapshot_handler<F>(provide: F) -> impl Handler
where
    F: Fn(&mut Vec<u8>, usize) -> Result<(), ProviderError> + Send + Sync + 'static,
{
    move |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
        decode_snapshot_request(request.payload).map_err(malformed)?;
        Ok(provide(response, request.response_limit)?)
    }
}

/// CGROUPS_LOOKUP or APPS_LOOKUP: `provide` answers the keys that the dispatch shows, as
/// [`HostProvider::cgroups`](crate::HostProvider::cgroups) and [`HostProvider::apps`](crate::HostProvider::apps) do.
///
/// Give such a server a fixed response limit: a full response is no error, so nothing would teach the server a larger
/// one.
///
/// ```
/// use ginnel_netipc::host::{Cgroups, Host};
/// use ginnel_netipc::{AppOutcome, AppsLookup, HostProvider, Lookup, ServiceClient, lookup_handler};
/// use ginnel_service::{BaselineOptions, Server, ServerOptions};
/// use ginnel_session::Endpoint;
/// use std::{sync::Arc, time::Duration};
///
/// let provider = HostProvider::new(Arc::new(Cgroups::new(Host::default(), Duration::from_secs(1))));
/// let handler = lookup_handler::<AppsLookup, _>(move |dispatch| provider.apps(dispatch));
/// let mut options = ServerOptions::default();
/// options.session.max_response_payload = 1 << 20;
/// let dir = tempfile::tempdir()?;
/// let endpoint = Endpoint::seqpacket(dir.path(), AppsLookup::SERVICE)?;
/// let server = Server::start(&endpoint, options, AppsLookup::METHOD, handler)?;
///
/// let mut client = ServiceClient::<AppsLookup>::new(&endpoint, BaselineOptions::default())?;
/// client.refresh();
/// let answer = client.lookup(&[std::process::id()])?;
/// let AppOutcome::Known(me) = answer.response().get(0).unwrap().outcome else { panic!("this process lives") };
/// println!("{} is a child of {}", String::from_utf8_lossy(me.comm), me.ppid);
/// server.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use]
pub fn lookup_handler<L, F>(provide: F) -> impl Handler
where
    L: Lookup,
    F: Fn(&mut LookupDispatch<'_, '_, L>) -> Result<(), ProviderError> + Send + Sync + 'static,
{
    move |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
        let keys = LookupRequest::<L>::decode(request.payload).map_err(malformed)?;
        let mut dispatch = LookupDispatch::new(keys, response, request.response_limit)?;
        provide(&mut dispatch)?;
        dispatch.finish()?;
        Ok(())
    }
}
