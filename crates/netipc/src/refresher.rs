//! Keeps a snapshot cache fed from a service.

use crate::cache::{CgroupCache, CgroupTable};
use crate::client::{CgroupsSnapshot, NetipcError, ServiceClient};
use ginnel_service::BaselineOptions;
use ginnel_session::Endpoint;

/// Refreshes a [`CgroupCache`] from a CGROUPS_SNAPSHOT service. Owned by one thread, which calls
/// [`CacheRefresher::refresh`] at its own pace; the cache's readers live on any thread and never wait for it.
///
/// ```no_run
/// use ginnel_netipc::CacheRefresher;
/// use ginnel_service::BaselineOptions;
/// use ginnel_session::Endpoint;
/// use std::time::Duration;
///
/// let endpoint = Endpoint::seqpacket("/run/netdata", "cgroups-snapshot")?;
/// let mut refresher = CacheRefresher::new(&endpoint, BaselineOptions::default())?;
/// let mut reader = refresher.cache().reader();
/// std::thread::spawn(move || {
///     loop {
///         if let Err(error) = refresher.refresh() {
///             eprintln!("cgroups as of {:?} ago: {error}", refresher.cache().status().age);
///         }
///         std::thread::sleep(Duration::from_secs(1));
///     }
/// });
/// let found = reader.get(0x1234, b"docker-abc123");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct CacheRefresher {
    client: ServiceClient<CgroupsSnapshot>,
    cache: CgroupCache,
}

impl CacheRefresher {
    /// A refresher with an empty cache, not connected yet.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn new(endpoint: &Endpoint, options: BaselineOptions) -> std::io::Result<Self> {
        Ok(Self { client: ServiceClient::new(endpoint, options)?, cache: CgroupCache::new() })
    }

    /// The cache that is refreshed. Clones share its data.
    #[must_use]
    pub fn cache(&self) -> &CgroupCache {
        &self.cache
    }

    /// The client below: state, counters, abort.
    #[must_use]
    pub fn client(&self) -> &ServiceClient<CgroupsSnapshot> {
        &self.client
    }

    /// Connects if that is due, asks for a snapshot, takes it over. Blocks within the client's timeouts.
    ///
    /// # Errors
    /// Why there is no new data; the cache keeps what it has, and counts the failure.
    pub fn refresh(&mut self) -> Result<(), NetipcError> {
        self.client.refresh();
        let outcome = self.cache.refresh(|| Ok(CgroupTable::decode(self.client.snapshot_payload()?)?));
        self.cache.note_connection(self.client.base().state());
        outcome
    }
}
