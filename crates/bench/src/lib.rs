//! The honest measurement of every way in which processes of one machine talk to each other.
//!
//! A [`Suite`] measures [`Plan`]s: for each it starts two processes (or more) under shepherds, pinned before their first
//! instruction; they open the [`Mechanism`], calibrate the machine, work, and calibrate it again. What they find out is
//! a [`Row`] of a [`Report`].
//!
//! ```no_run
//! use ginnel_bench::{Environment, Mechanisms, Mode, Plan, Report, SideProgram, Suite};
//!
//! // The first thing in `main`: the same program plays the sides.
//! if ginnel_bench::is_side() {
//!     std::process::exit(i32::from(ginnel_bench::run_side(&Mechanisms::all()) != std::process::ExitCode::SUCCESS));
//! }
//! let suite = Suite::new(Mechanisms::all(), SideProgram::this(["bench-side"])?);
//! let plan = Plan::new("uds-seqpacket", Mode::PingPong);
//! suite.check(&plan)?;
//! let mut report = Report::new(Environment::read());
//! report.rows.push(suite.measure(&plan));
//! report.write("report.json".as_ref())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What makes it honest
//!
//! * Modes are never mixed, and what a latency is, is said beside it ([`Latency`]).
//! * Every message is numbered, patterned and checksummed; loss, duplicates, reorder and corruption are counted
//!   ([`Counts`]).
//! * An open loop counts from the intended moment of each message, so a sender that is held up hides nothing.
//! * A side that stops answering is an error within [`Plan::patience`], never a number.
//! * The machine is calibrated before and after each repetition; one that drifted is thrown away and repeated.
//!
//! Linux only for now.

#![deny(unsafe_code)]

mod apart;
mod clock;
mod control;
mod drive;
mod error;
mod group;
mod histogram;
mod machine;
mod mechanism;
mod model;
mod names;
mod pace;
mod page;
mod payload;
mod place;
mod plan;
mod port;
mod side;
mod statistics;
mod suite;
#[allow(unsafe_code)]
mod sys;

pub use apart::Meeting;
pub use error::BenchError;
pub use group::SideProgram;
pub use histogram::Histogram;
pub use machine::{QUIET, wait_for_quiet};
pub use mechanism::{Facts, Link, Mechanism, Mechanisms, Role, Transport};
pub use model::{
    Calibration, Counts, Environment, Latency, Placement, Relation, Repetition, Report, Row, SCHEMA_VERSION, Summary,
    Usage,
};
pub use plan::{Amount, Form, Mode, Plan};
pub use side::{is_side, run_side};
pub use statistics::{STABLE, median};
pub use suite::Suite;
