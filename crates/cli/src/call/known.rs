//! Methods whose types this command knows, so that their requests and answers can be JSON.

use crate::procs::{GET, LIST, Process, SNAPSHOT};
use ginnel_service::{Codec, Postcard};
use ginnel_wire::MethodHash;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    List,
    Get,
    Snapshot,
}

impl Known {
    /// The method that a service tells of. Its hash is over name, number, form and codec; the fields of its types are
    /// not in it, and are refused when they do not decode.
    pub(super) fn of(told: &MethodHash) -> Option<Self> {
        match (told.method, told.hash) {
            told if told == (LIST.id(), LIST.hash()) => Some(Self::List),
            told if told == (GET.id(), GET.hash()) => Some(Self::Get),
            told if told == (SNAPSHOT.id(), SNAPSHOT.hash()) => Some(Self::Snapshot),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::List => LIST.name(),
            Self::Get => GET.name(),
            Self::Snapshot => SNAPSHOT.name(),
        }
    }

    /// The request that a JSON text stands for; no text stands for `null`.
    pub(super) fn encode(self, json: &[u8]) -> Result<Vec<u8>, String> {
        let json: &[u8] = if json.is_empty() { b"null" } else { json };
        match self {
            Self::List | Self::Snapshot => encode::<()>(json),
            Self::Get => encode::<u32>(json),
        }
    }

    /// An answer, or an item, as JSON.
    pub(super) fn decode(self, payload: &[u8]) -> Result<String, String> {
        match self {
            Self::List => decode::<Process>(payload),
            Self::Get => decode::<Option<Process>>(payload),
            Self::Snapshot => decode::<Vec<Process>>(payload),
        }
    }
}

fn encode<T: Serialize + DeserializeOwned>(json: &[u8]) -> Result<Vec<u8>, String> {
    let value: T = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let mut payload = Vec::new();
    <Postcard as Codec<T>>::encode(&value, &mut payload).map_err(|error| error.to_string())?;
    Ok(payload)
}

fn decode<T: Serialize + DeserializeOwned>(payload: &[u8]) -> Result<String, String> {
    let value = <Postcard as Codec<T>>::decode(payload).map_err(|error| error.to_string())?;
    serde_json::to_string(&value).map_err(|error| error.to_string())
}
