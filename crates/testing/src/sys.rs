//! What a signal does. All `unsafe` of this crate is here.

/// Gives HUP, INT and QUIT their default action in this process, and so in what it starts from now on.
///
/// For a test whose children must be ended by one of these, also when the tests are started by `nohup` or in the
/// background of a script: what is ignored there is ignored by every descendant, and a shell cannot even trap it.
pub fn default_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: the default action runs no code of ours. No test handles one of these signals in its own process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}
