//! Two stand-alone sides: a server that waits, and a client that measures with it; in two containers that share a run
//! directory, or on two machines over TCP. The sides themselves are those that one parent starts.
//!
//! ```text
//! client's parent                      server's parent
//! Greeting, one for each pair  ----->
//!                              <-----  Welcome             the directory for names, the server's CPU; or why not
//! starts its sides, which           starts its sides, which
//!   take the connections over  <---->    take them over until they have each other
//!                              <-----  Farewell            what the servers found out
//! ```

use crate::clock::Clock;
use crate::control::Control;
use crate::drive::Findings;
use crate::error::BenchError;
use crate::group::{Group, Measured, arrange};
use crate::mechanism::Role;
use crate::model::{Repetition, Row};
use crate::place::Place;
use crate::plan::{Mode, Plan};
use crate::suite::{Suite, repetition};
use ginnel_base::Deadline;
use ginnel_memory::RunDir;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

/// Where two stand-alone sides find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Meeting {
    /// In a run directory that both see under one path: every mechanism can be measured.
    Directory(PathBuf),
    /// At an address: only what reaches another machine can be measured. Nothing is encrypted, and whoever reaches it
    /// can use the server: for trusted networks.
    Address(SocketAddr),
}

impl Meeting {
    /// In the user's run directory.
    #[must_use]
    pub fn here() -> Self {
        Self::Directory(RunDir::user_path())
    }

    fn socket(directory: &std::path::Path) -> PathBuf {
        directory.join("bench.sock")
    }
}

impl fmt::Display for Meeting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(directory) => write!(f, "{}", Self::socket(directory).display()),
            Self::Address(address) => write!(f, "{address}"),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Greeting {
    /// Which measurement this connection belongs to.
    measurement: u64,
    pair: usize,
    plan: Plan,
    clock: Clock,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Welcome {
    directory: Option<PathBuf>,
    server_cpu: Option<usize>,
    refusal: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Farewell {
    servers: Vec<Findings>,
    failure: Option<String>,
}

/// Why two sides that meet there cannot measure this; `None` if they can.
pub(crate) fn refuses(meeting: &Meeting, plan: &Plan, local: bool) -> Option<String> {
    let Meeting::Address(address) = meeting else { return None };
    if local {
        return Some("both its ends must be on one machine, and a server at an address may be on another".to_owned());
    }
    let stamps = plan.flows() || plan.one_way;
    (stamps && !address.ip().is_loopback())
        .then(|| "the clocks of two machines cannot be compared, so one way cannot be measured".to_owned())
}

fn side(message: impl fmt::Display) -> BenchError {
    BenchError::Side { side: "other side".to_owned(), message: message.to_string() }
}

impl Suite {
    /// The client's half of one repetition.
    pub(crate) fn once_apart(&self, plan: &Plan, clock: Clock, row: &mut Row) -> Result<Repetition, BenchError> {
        let Some(meeting) = &self.meeting else { return Err(side("there is no place to meet")) };
        let mut plan = plan.clone();
        plan.server_cpu = None;
        if let Meeting::Address(address) = meeting {
            plan.host = SocketAddr::new(address.ip(), 0);
        }
        let measurement = ginnel_base::random_u64();
        let mut controls = Vec::new();
        for pair in 0..plan.pairs {
            let control = connect(meeting, &plan).map_err(BenchError::io("reach the server"))?;
            let greeting = Greeting { measurement, pair, plan: plan.clone(), clock };
            control.tell(&greeting).map_err(BenchError::io("greet the server"))?;
            controls.push((pair, control));
        }
        let welcome: Welcome = controls[0].1.hear().map_err(BenchError::io("hear the server"))?;
        if let Some(why) = welcome.refusal {
            return Err(side(why));
        }
        let ours = controls[0].1.try_clone().map_err(BenchError::io("keep the connection"))?;
        let parts = arrange(Role::Client, controls, plan.mode == Mode::FanOut);
        let mut group = Group::start(&self.program, &plan, parts, clock, welcome.directory.as_deref())?;
        plan.server_cpu = welcome.server_cpu;
        row.placement = group.placement(&plan);
        row.placement.server = welcome.server_cpu;
        if matches!(meeting, Meeting::Directory(_)) {
            row.placement.relation = crate::machine::relation(plan.client_cpu, welcome.server_cpu);
        }
        let before = group.calibrate()?;
        let Measured { clients, .. } = group.measure()?;
        let farewell: Farewell = ours.hear().map_err(BenchError::io("hear what the server found out"))?;
        if let Some(failure) = farewell.failure {
            return Err(side(failure));
        }
        let after = group.calibrate()?;
        let buffer = group.buffer;
        group.finish()?;
        let measured = Measured { clients, servers: farewell.servers };
        Ok(repetition(&plan, clock, [before, after], &measured, buffer))
    }

    /// Waits for clients and measures with them, one measurement after the other, until `stop` says so (it is asked ten
    /// times a second). `said` is told what is going on, a line for each measurement.
    ///
    /// # Errors
    /// If the place is taken, or cannot be listened at.
    pub fn serve(
        &self,
        meeting: &Meeting,
        server_cpu: Option<usize>,
        stop: impl Fn() -> bool,
        mut said: impl FnMut(&str),
    ) -> Result<(), BenchError> {
        let listener = Listener::bind(meeting).map_err(BenchError::io("listen for clients"))?;
        said(&format!("listening at {}", listener.address(meeting)));
        while !stop() {
            let look = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            let ready = poll(&mut [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)], Some(&look));
            if ready.is_ok_and(|ready| ready > 0) {
                match self.serve_one(&listener, server_cpu) {
                    Ok(what) => said(&what),
                    Err(error) => said(&error.to_string()),
                }
            }
        }
        Ok(())
    }

    /// The server's half of one repetition.
    fn serve_one(&self, listener: &Listener, server_cpu: Option<usize>) -> Result<String, BenchError> {
        let (first, greeting, host) = greeted(listener)?;
        let mut plan = greeting.plan;
        (plan.client_cpu, plan.server_cpu) = (None, server_cpu);
        if let Some(host) = host {
            plan.host = SocketAddr::new(host, 0);
        }
        let refusal = self.check_alone(&plan).err().map(|refused| refused.to_string());
        if refusal.is_some() {
            let welcome = Welcome { directory: None, server_cpu, refusal: refusal.clone() };
            let _ = first.tell(&welcome); // a client that has gone needs no reason
            return Err(side(refusal.unwrap_or_default()));
        }
        let mut controls = vec![(greeting.pair, first)];
        while controls.len() < plan.pairs {
            let (control, other, _) = greeted(listener)?;
            if other.measurement != greeting.measurement {
                return Err(side("two clients came at once; only one is served at a time"));
            }
            controls.push((other.pair, control));
        }
        let place = match host {
            None => Some(Place::make(listener.directory().as_deref(), plan.pairs)?),
            Some(_) => None,
        };
        let directory = place.as_ref().map(|place| place.path().to_owned());
        let welcome = Welcome { directory: directory.clone(), server_cpu, refusal: None };
        controls[0].1.tell(&welcome).map_err(BenchError::io("welcome the client"))?;
        let ours = controls[0].1.try_clone().map_err(BenchError::io("keep the connection"))?;
        let parts = arrange(Role::Server, controls, plan.mode == Mode::FanIn);
        let served =
            Group::start(&self.program, &plan, parts, greeting.clock, directory.as_deref()).and_then(|mut group| {
                let measured = group.measure()?;
                group.finish().map(|()| measured.servers)
            });
        let farewell = match &served {
            Ok(servers) => Farewell { servers: servers.clone(), failure: None },
            Err(error) => Farewell { servers: Vec::new(), failure: Some(error.to_string()) },
        };
        let told = ours.tell(&farewell);
        served?;
        told.map_err(BenchError::io("tell the client what was found out"))?;
        let Plan { mechanism, form, mode, size, .. } = &plan;
        Ok(format!("{mechanism}, {form} {mode}, {size} bytes"))
    }
}

fn connect(meeting: &Meeting, plan: &Plan) -> io::Result<Control> {
    let socket = match meeting {
        Meeting::Directory(directory) => UnixStream::connect(Meeting::socket(directory))?.into(),
        Meeting::Address(address) => TcpStream::connect_timeout(address, plan.patience)?.into(),
    };
    let control = Control::new(socket)?;
    control.set_patience(plan.patience)?;
    Ok(control)
}

/// The next connection, its greeting, and over TCP the address at which it was reached.
fn greeted(listener: &Listener) -> Result<(Control, Greeting, Option<IpAddr>), BenchError> {
    let deadline = Deadline::after(Duration::from_secs(5));
    let ready = poll(&mut [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)], deadline.timespec().as_ref());
    if ready != Ok(1) {
        return Err(side("it did not come with all its pairs"));
    }
    let (control, host) = listener.accept().map_err(BenchError::io("accept a client"))?;
    control.set_patience(Duration::from_secs(5)).map_err(BenchError::io("accept a client"))?;
    let greeting = control.hear().map_err(BenchError::io("hear a client's greeting"))?;
    Ok((control, greeting, host))
}

enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    fn bind(meeting: &Meeting) -> io::Result<Self> {
        let directory = match meeting {
            Meeting::Address(address) => return TcpListener::bind(address).map(Self::Tcp),
            Meeting::Directory(directory) => RunDir::at(directory).map_err(io::Error::other)?.path().to_owned(),
        };
        let socket = Meeting::socket(&directory);
        // The name of a server that was killed answers nobody.
        if UnixStream::connect(&socket).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            std::fs::remove_file(&socket)?;
        }
        Ok(Self::Unix(UnixListener::bind(&socket)?, directory))
    }

    fn address(&self, meeting: &Meeting) -> String {
        match self {
            // A port of 0 has become a real one.
            Self::Tcp(listener) => listener.local_addr().map_or_else(|_| meeting.to_string(), |at| at.to_string()),
            Self::Unix(..) => meeting.to_string(),
        }
    }

    fn directory(&self) -> Option<PathBuf> {
        match self {
            Self::Unix(_, directory) => Some(directory.clone()),
            Self::Tcp(_) => None,
        }
    }

    fn accept(&self) -> io::Result<(Control, Option<IpAddr>)> {
        match self {
            Self::Unix(listener, _) => Ok((Control::new(listener.accept()?.0.into())?, None)),
            Self::Tcp(listener) => {
                let stream = listener.accept()?.0;
                let host = stream.local_addr()?.ip();
                Ok((Control::new(stream.into())?, Some(host)))
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, directory) = self {
            let _ = std::fs::remove_file(Meeting::socket(directory)); // nobody can be reached by it any more
        }
    }
}
