//! A whole session over random bytes: a real socket, a real handshake, and whatever comes after it.
#![no_main]

use ginnel_session::{Endpoint, Listener, ServerConfig, SessionError, Wait};
use ginnel_wire::{Envelope, Hello, Profiles, Status};
use libfuzzer_sys::fuzz_target;
use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Duration;

fn listener() -> &'static Listener {
    static LISTENER: OnceLock<(tempfile::TempDir, Listener)> = OnceLock::new();
    &LISTENER
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let endpoint = Endpoint::stream(dir.path(), "fuzz").unwrap();
            let config = ServerConfig { max_request_payload: 1 << 16, ..ServerConfig::default() };
            let listener = Listener::bind(&endpoint, config).unwrap();
            (dir, listener)
        })
        .1
}

fuzz_target!(|input: (bool, &[u8])| {
    let (greets, data) = input;
    let listener = listener();
    let mut peer = UnixStream::connect(listener.endpoint().path().unwrap()).unwrap();
    if greets {
        let hello = Hello {
            supported: Profiles(1),
            preferred: Profiles(0),
            max_request_payload: 1 << 16,
            max_request_items: 16,
            max_response_payload: 0,
            max_response_items: 0,
            auth_token: 0,
            packet_size: 4096,
        };
        peer.write_all(&hello.packet()).unwrap();
    }
    // The socket buffers it all: inputs are far smaller.
    peer.write_all(data).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let wait = Wait::at_most(Duration::from_secs(10));
    let Ok(mut session) = listener.accept(&wait).unwrap().handshake(&wait) else { return };
    loop {
        let envelope = match session.recv(&wait) {
            Ok(request) => request.envelope,
            Err(SessionError::TimedOut) => panic!("a hang"),
            Err(_) => return,
        };
        if session.send(&Envelope::response_to(&envelope, Status::OK, 0), b"", &wait).is_err() {
            return;
        }
    }
});
