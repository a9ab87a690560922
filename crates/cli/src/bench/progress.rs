//! What is going on, for people only.

use ginnel_bench::Plan;
use std::io::{IsTerminal, Write};

/// One line on a terminal, gone at the end.
pub(super) struct Progress {
    rows: usize,
    begun: usize,
    shown: bool,
}

impl Progress {
    pub(super) fn new(rows: usize, quiet: bool) -> Self {
        Self { rows, begun: 0, shown: !quiet && std::io::stderr().is_terminal() }
    }

    pub(super) fn begins(&mut self, plan: &Plan) {
        self.begun += 1;
        if self.shown {
            let Self { begun, rows, .. } = self;
            let Plan { mechanism, form, mode, size, .. } = plan;
            let line = format!("[{begun}/{rows}] {mechanism}, {form} {mode}, {size} bytes");
            let _ = write!(std::io::stderr(), "\r\x1b[K{line}"); // nobody may be there to read it
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K"); // as above
        }
    }
}
