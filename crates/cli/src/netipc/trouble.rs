//! Why a netipc command did not do what it was asked: a sentence for people, an object for programs.

use super::ask::{Question, Service};
use super::connection::Connection;
use ginnel_netipc::NetipcError;
use ginnel_service::{BaselineError, State};
use ginnel_session::{ConnectError, Refusal, SessionError};
use serde_json::{Value, json};

/// One sentence, and its kind for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    kind: &'static str,
    message: String,
}

impl Trouble {
    fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// What a signal says.
    pub(super) fn interrupted() -> Self {
        Self::new("interrupted", "interrupted")
    }

    /// Why a client has no session, and what to do about it.
    pub(super) fn not_ready(question: &Question, service: Service, connection: &Connection) -> Self {
        let endpoint = connection.endpoint(service.name()).map_or_else(|error| error, |endpoint| endpoint.to_string());
        let base = question.base();
        let Some(error) = base.last_error() else {
            return Self::new("disconnected", format!("no session with {endpoint}: {}", base.state()));
        };
        let (kind, message) = match (base.state(), error) {
            (State::NotFound, _) => {
                ("not-found", format!("no server at {endpoint}: start it, or give --run-dir or --name"))
            }
            (_, ConnectError::Denied { .. }) => ("denied", format!("{error}: its server runs as another user")),
            (_, ConnectError::ForeignServer { .. } | ConnectError::WritableDir(_)) => ("untrusted", error.to_string()),
            (State::AuthFailed, _) => {
                ("auth-failed", format!("{endpoint} refuses the token or this user: give --token or --token-from-env"))
            }
            (State::Incompatible, _) => (
                "incompatible",
                format!("{endpoint} speaks another protocol or none of the profiles: try --profile auto"),
            ),
            (_, ConnectError::Refused(Refusal::Unavailable { .. })) => {
                ("unavailable", format!("{endpoint} is full or failing: {error}"))
            }
            (_, ConnectError::Session(SessionError::TimedOut)) => {
                ("timed-out", format!("{endpoint} did not answer within --timeout"))
            }
            (_, ConnectError::Session(SessionError::Aborted)) => return Self::interrupted(),
            _ => ("no-session", format!("no session with {endpoint}: {error}")),
        };
        Self::new(kind, message)
    }

    /// For standard error, one line without its end.
    pub(super) fn line(&self, json: bool) -> String {
        if json { self.json().to_string() } else { format!("ginnel netipc: {}", self.message) }
    }

    fn json(&self) -> Value {
        json!({ "error": { "kind": self.kind, "message": self.message } })
    }
}

impl From<String> for Trouble {
    fn from(message: String) -> Self {
        Self::new("failed", message)
    }
}

impl From<&str> for Trouble {
    fn from(message: &str) -> Self {
        Self::new("failed", message)
    }
}

impl From<NetipcError> for Trouble {
    fn from(error: NetipcError) -> Self {
        let kind = match &error {
            NetipcError::Call(BaselineError::TimedOut) => "timed-out",
            NetipcError::Call(BaselineError::Aborted) => return Self::interrupted(),
            NetipcError::Call(BaselineError::Status(_)) => "status",
            NetipcError::Call(
                BaselineError::RequestTooLarge { .. }
                | BaselineError::ResponseTooLarge { .. }
                | BaselineError::TooManyItems { .. },
            ) => "too-large",
            NetipcError::Call(_) => "no-session",
            NetipcError::Request(_) => "request",
            _ => "response",
        };
        Self::new(kind, error.to_string())
    }
}
