//! How a client behaves, and how one call does.

use crate::introspect::Introspect;
use crate::learned::DEFAULT_CEILING;
use ginnel_base::Deadline;
use ginnel_session::{ClientConfig, ClientLayout2, Limits};
use ginnel_wire::Profiles;
use std::time::Duration;

/// How a [`Client`](crate::Client) behaves.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// What is proposed to the server. Payload limits are where learning starts. The shared-memory profiles of layout 1
    /// (one request at a time) are not proposed, whatever this says.
    pub session: ClientConfig,
    /// Deadline of a call that names none: connecting, waiting for room, sending, the answer and a retry all together.
    pub call_timeout: Duration,
    /// How long one attempt to connect may take.
    pub connect_timeout: Duration,
    /// Largest request or response payload to learn, in bytes.
    pub ceiling: u32,
    /// Calls in flight to a server of layout 1, which agrees on no window.
    pub plain_window: usize,
    /// How long a server may owe the final answer of a call that was cancelled or has run out of time. Then the
    /// connection is given up.
    pub unanswered: Duration,
    /// Whether other processes of this user may see what the client does (`ginnel top`).
    pub introspect: Introspect,
}

impl Default for ClientOptions {
    /// 30 seconds for a call, 5 to connect, learning up to [`DEFAULT_CEILING`], 64 calls in flight, RING where the
    /// server has it.
    fn default() -> Self {
        let session = ClientConfig {
            supported: Profiles::BASELINE | Profiles::RING,
            preferred: Profiles::RING,
            request: Limits { max_payload: 64 << 10, max_items: 65_536 },
            response: Limits { max_payload: DEFAULT_CEILING, max_items: 65_536 },
            layout_2: Some(ClientLayout2::default()),
            ..ClientConfig::default()
        };
        Self {
            session,
            call_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            ceiling: DEFAULT_CEILING,
            plain_window: 64,
            unanswered: Duration::from_secs(30),
            introspect: Introspect::On,
        }
    }
}

/// How one call behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallOptions {
    /// When the caller gives up; `None` is [`ClientOptions::call_timeout`] from now. The server is told, and stops the
    /// work then.
    pub deadline: Option<Deadline>,
    /// The request may be executed twice: it is sent once more if the connection breaks before its answer. Others are
    /// sent again only where the server has not begun them.
    pub idempotent: bool,
    /// While the server is absent or refuses, try again until the deadline, instead of failing with
    /// [`CallError::NotReady`](crate::CallError::NotReady).
    pub wait_for_server: bool,
}

impl CallOptions {
    /// With this deadline.
    #[must_use]
    pub fn until(deadline: impl Into<Deadline>) -> Self {
        Self { deadline: Some(deadline.into()), ..Self::default() }
    }

    /// With a deadline `timeout` from now.
    #[must_use]
    pub fn at_most(timeout: Duration) -> Self {
        Self::until(Deadline::after(timeout))
    }

    /// The same for a request that may be executed twice.
    #[must_use]
    pub fn idempotent(self) -> Self {
        Self { idempotent: true, ..self }
    }

    /// The same, waiting for a server that is absent.
    #[must_use]
    pub fn wait_for_server(self) -> Self {
        Self { wait_for_server: true, ..self }
    }
}
