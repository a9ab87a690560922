//! One client for any of the five services.

use super::connection::Connection;
use super::render::{self, Shown};
use clap::ValueEnum;
use ginnel_netipc::{
    AppsLookup, CgroupsLookup, CgroupsSnapshot, Increment, Lookup, NetipcError, ServiceClient, StringReverse,
};
use ginnel_service::{BaselineClient, BaselineOptions, State};
use serde_json::json;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Service {
    /// Adds one to a number (test service).
    Increment,
    /// Reverses a text (test service).
    StringReverse,
    /// All cgroups of the provider's machine; takes no keys.
    CgroupsSnapshot,
    /// Cgroups by path.
    CgroupsLookup,
    /// Processes by pid.
    AppsLookup,
}

impl Service {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Increment => "increment",
            Self::StringReverse => "string-reverse",
            Self::CgroupsSnapshot => "cgroups-snapshot",
            Self::CgroupsLookup => CgroupsLookup::SERVICE,
            Self::AppsLookup => AppsLookup::SERVICE,
        }
    }
}

/// A question to a service, to be asked once or again and again.
pub(crate) enum Question {
    Increment(ServiceClient<Increment>, u64),
    StringReverse(ServiceClient<StringReverse>, Vec<u8>),
    CgroupsSnapshot(ServiceClient<CgroupsSnapshot>),
    CgroupsLookup(ServiceClient<CgroupsLookup>, Vec<Vec<u8>>),
    AppsLookup(ServiceClient<AppsLookup>, Vec<u32>),
}

impl Question {
    /// The question that the command line asks.
    pub(crate) fn new(
        service: Service,
        keys: Vec<OsString>,
        connection: &Connection,
        timeout: Duration,
    ) -> Result<Self, String> {
        let mut options =
            BaselineOptions { call_timeout: timeout, connect_timeout: timeout, ..BaselineOptions::default() };
        (options.session.supported, options.session.preferred) = connection.profiles();
        options.session.token = connection.token()?;
        options.session.allow_writable_dir = connection.allow_writable_dir;
        let endpoint = connection.endpoint(service.name())?;
        let fail = |error: std::io::Error| format!("cannot make a client: {error}");
        let number = |key: &OsString| key.to_str().and_then(|key| key.parse().ok());
        Ok(match service {
            Service::Increment => {
                let value = keys.first().filter(|_| keys.len() == 1).and_then(|key| key.to_str()?.parse().ok());
                let value = value.ok_or("increment takes one number")?;
                Self::Increment(ServiceClient::new(&endpoint, options).map_err(fail)?, value)
            }
            Service::StringReverse => {
                let mut keys = keys.into_iter();
                let (Some(text), None) = (keys.next(), keys.next()) else {
                    return Err("string-reverse takes one text".into());
                };
                Self::StringReverse(ServiceClient::new(&endpoint, options).map_err(fail)?, text.into_vec())
            }
            Service::CgroupsSnapshot if !keys.is_empty() => {
                return Err("cgroups-snapshot takes no keys; cgroups-lookup looks up paths".into());
            }
            Service::CgroupsSnapshot => Self::CgroupsSnapshot(ServiceClient::new(&endpoint, options).map_err(fail)?),
            Service::CgroupsLookup => {
                let paths = keys.into_iter().map(OsString::into_vec).collect();
                Self::CgroupsLookup(ServiceClient::new(&endpoint, options).map_err(fail)?, paths)
            }
            Service::AppsLookup => {
                let pids: Option<Vec<u32>> = keys.iter().map(number).collect();
                let pids = pids.ok_or("apps-lookup takes pids: numbers from 0 to 4294967295")?;
                Self::AppsLookup(ServiceClient::new(&endpoint, options).map_err(fail)?, pids)
            }
        })
    }

    pub(crate) fn refresh(&mut self) -> State {
        match self {
            Self::Increment(client, _) => client.refresh(),
            Self::StringReverse(client, _) => client.refresh(),
            Self::CgroupsSnapshot(client) => client.refresh(),
            Self::CgroupsLookup(client, _) => client.refresh(),
            Self::AppsLookup(client, _) => client.refresh(),
        }
    }

    pub(crate) fn base(&self) -> &BaselineClient {
        match self {
            Self::Increment(client, _) => client.base(),
            Self::StringReverse(client, _) => client.base(),
            Self::CgroupsSnapshot(client) => client.base(),
            Self::CgroupsLookup(client, _) => client.base(),
            Self::AppsLookup(client, _) => client.base(),
        }
    }

    /// Asks, and hands the answer out in both forms.
    pub(crate) fn show(&mut self) -> Result<Shown, NetipcError> {
        match self {
            Self::Increment(client, value) => {
                let value = client.increment(*value)?;
                Ok(Shown { json: json!({ "value": value }), text: format!("{value}\n") })
            }
            Self::StringReverse(client, text) => {
                let text = String::from_utf8_lossy(client.reverse(text)?).into_owned();
                Ok(Shown { json: json!({ "text": text }), text: format!("{text}\n") })
            }
            Self::CgroupsSnapshot(client) => Ok(render::snapshot(&client.snapshot()?)),
            Self::CgroupsLookup(client, paths) => {
                let paths: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
                Ok(render::cgroups(&client.lookup(&paths)?.response()))
            }
            Self::AppsLookup(client, pids) => Ok(render::apps(&client.lookup(pids)?.response())),
        }
    }

    /// Asks and forgets the answer.
    pub(crate) fn ask(&mut self) -> Result<(), NetipcError> {
        match self {
            Self::Increment(client, value) => client.increment(*value).map(drop),
            Self::StringReverse(client, text) => client.reverse(text).map(drop),
            Self::CgroupsSnapshot(client) => client.snapshot().map(drop),
            Self::CgroupsLookup(client, paths) => {
                let paths: Vec<&[u8]> = paths.iter().map(Vec::as_slice).collect();
                client.lookup(&paths).map(drop)
            }
            Self::AppsLookup(client, pids) => client.lookup(pids).map(drop),
        }
    }
}
