//! What a channel promises when its ends are different processes: each test starts real ones (see `actor`).

mod actor;
#[cfg(feature = "tokio")]
mod asynchronous;
mod crowds;
mod deaths;
mod denials;
mod exports;
mod glimpses;
mod idle;
mod leftovers;
mod producers;
mod records;
mod scarce;
mod scribbles;
mod sleepers;
mod soundness;
#[allow(unsafe_code)]
mod sys;
mod syscalls;
mod traffic;
mod truncation;

/// The entry of the child processes. Started without a role it starts one itself, so that it proves the machinery.
#[test]
fn a_child_process_plays_its_role_and_tells_what_it_did() {
    if actor::play() {
        return;
    }
    let mut echo = actor::Actor::start("echo", &[]);
    echo.say("over the pipe");
    assert_eq!(echo.hear(), "over the pipe");
    echo.finish();
}
