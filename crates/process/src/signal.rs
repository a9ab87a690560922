//! Signals by number and name.

use std::{fmt, str::FromStr};

/// A signal of this machine.
///
/// ```
/// use ginnel_process::Signal;
/// assert_eq!("TERM".parse(), Ok(Signal::TERM));
/// assert_eq!("sigusr1".parse(), Ok(Signal::USR1));
/// assert_eq!(Signal::KILL.to_string(), "SIGKILL");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Signal(i32);

/// The text is neither a signal's name nor its number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a signal: give a name such as TERM or a number from 1 to 64")]
pub struct UnknownSignal(pub String);

macro_rules! signals {
    ($($name:ident),*) => {
        /// The signals that have a name; real-time ones are made by [`Signal::new`].
        #[allow(missing_docs, reason = "signal(7) describes them")]
        impl Signal {
            $(pub const $name: Signal = Signal(number::$name);)*
        }
        mod number {
            use libc::*;
            $(pub(super) const $name: i32 = concat_sig!($name);)*
        }
        const NAMES: &[(&str, Signal)] = &[$((stringify!($name), Signal::$name)),*];
    };
}

macro_rules! concat_sig {
    (HUP) => {
        SIGHUP
    };
    (INT) => {
        SIGINT
    };
    (QUIT) => {
        SIGQUIT
    };
    (ILL) => {
        SIGILL
    };
    (TRAP) => {
        SIGTRAP
    };
    (ABRT) => {
        SIGABRT
    };
    (BUS) => {
        SIGBUS
    };
    (FPE) => {
        SIGFPE
    };
    (KILL) => {
        SIGKILL
    };
    (USR1) => {
        SIGUSR1
    };
    (SEGV) => {
        SIGSEGV
    };
    (USR2) => {
        SIGUSR2
    };
    (PIPE) => {
        SIGPIPE
    };
    (ALRM) => {
        SIGALRM
    };
    (TERM) => {
        SIGTERM
    };
    (CHLD) => {
        SIGCHLD
    };
    (CONT) => {
        SIGCONT
    };
    (STOP) => {
        SIGSTOP
    };
    (TSTP) => {
        SIGTSTP
    };
    (TTIN) => {
        SIGTTIN
    };
    (TTOU) => {
        SIGTTOU
    };
    (URG) => {
        SIGURG
    };
    (XCPU) => {
        SIGXCPU
    };
    (XFSZ) => {
        SIGXFSZ
    };
    (VTALRM) => {
        SIGVTALRM
    };
    (PROF) => {
        SIGPROF
    };
    (WINCH) => {
        SIGWINCH
    };
    (IO) => {
        SIGIO
    };
    (PWR) => {
        SIGPWR
    };
    (SYS) => {
        SIGSYS
    };
}

signals!(
    HUP, INT, QUIT, ILL, TRAP, ABRT, BUS, FPE, KILL, USR1, SEGV, USR2, PIPE, ALRM, TERM, CHLD, CONT, STOP, TSTP, TTIN,
    TTOU, URG, XCPU, XFSZ, VTALRM, PROF, WINCH, IO, PWR, SYS
);

impl Signal {
    /// A signal by number, 1 to 64.
    #[must_use]
    pub const fn new(number: i32) -> Option<Signal> {
        if number >= 1 && number <= 64 { Some(Signal(number)) } else { None }
    }

    /// The kernel's number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, signal)| signal == self) {
            Some((name, _)) => write!(f, "SIG{name}"),
            None => write!(f, "signal {}", self.0),
        }
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal);
        named.or_else(|| name.parse().ok().and_then(Signal::new)).ok_or_else(|| UnknownSignal(text.to_owned()))
    }
}

/// As its name (`SIGTERM`), or its number where it has none.
#[cfg(feature = "serde")]
impl serde::Serialize for Signal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let named = NAMES.iter().any(|(_, signal)| signal == self);
        serializer.serialize_str(&if named { self.to_string() } else { self.0.to_string() })
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Signal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        <std::borrow::Cow<'_, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
