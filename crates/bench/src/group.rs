//! The processes of one measurement, from the parent's side: started under shepherds, pinned, led through the phases,
//! watched, and gone at the end, whatever happens.

use crate::clock::Clock;
use crate::control::Control;
use crate::drive::Findings;
use crate::error::BenchError;
use crate::machine;
use crate::mechanism::Role;
use crate::model::{Calibration, Placement};
use crate::page::Page;
use crate::plan::{Mode, Plan};
use crate::side::{Assignment, Done, Order, SIDE};
use ginnel_base::Deadline;
use ginnel_process::{Child, Command, Stdio};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::AsFd;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often the parent looks whether something moves.
const LOOK: Duration = Duration::from_millis(50);
/// How long a side may take to end by itself when it has been told to.
const FAREWELL: Duration = Duration::from_secs(5);

/// The program that plays the sides: it calls [`run_side`](crate::run_side) where [`is_side`](crate::is_side) says so.
#[derive(Debug, Clone)]
pub struct SideProgram {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl SideProgram {
    /// This very program, started with `arguments`.
    ///
    /// # Errors
    /// If the system cannot say which file this program is.
    pub fn this<S: Into<OsString>>(arguments: impl IntoIterator<Item = S>) -> std::io::Result<Self> {
        let arguments = arguments.into_iter().map(Into::into).collect();
        Ok(Self { program: std::env::current_exe()?, arguments })
    }
}

/// One side, as its parent sees it.
struct Member {
    role: Role,
    child: Child,
    boss: Control,
    cpu: Option<usize>,
}

impl Member {
    fn name(&self) -> String {
        format!("{} (process {})", self.role, self.child.id())
    }
}

/// The processes of one measurement. They are killed when it is dropped early.
pub(crate) struct Group {
    members: Vec<Member>,
    page: Page,
    patience: Duration,
    /// The kernel's buffer, as a side has read it back.
    pub(crate) buffer: Option<u64>,
}

/// What everybody found out in one measurement.
pub(crate) struct Measured {
    pub(crate) clients: Vec<Findings>,
    pub(crate) servers: Vec<Findings>,
}

/// A process to start: its role, and the numbers of its pairs with the connection to each peer.
pub(crate) struct Part {
    pub(crate) role: Role,
    pub(crate) peers: Vec<(usize, Control)>,
}

/// Who is connected to whom.
pub(crate) fn parts(plan: &Plan) -> Result<Vec<Part>, BenchError> {
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for pair in 0..plan.pairs {
        let (client, server) = Control::pair().map_err(BenchError::io("connect the two sides"))?;
        clients.push((pair, client));
        servers.push((pair, server));
    }
    // Servers first: they make what clients take.
    let mut parts = arrange(Role::Server, servers, plan.mode == Mode::FanIn);
    parts.extend(arrange(Role::Client, clients, plan.mode == Mode::FanOut));
    Ok(parts)
}

/// The processes of one role, with one connection for each of their pairs.
pub(crate) fn arrange(role: Role, controls: Vec<(usize, Control)>, together: bool) -> Vec<Part> {
    if together {
        return vec![Part { role, peers: controls }];
    }
    controls.into_iter().map(|peer| Part { role, peers: vec![peer] }).collect()
}

impl Group {
    /// Starts the processes, each on its CPU before its first instruction, and connects them.
    pub(crate) fn start(
        program: &SideProgram,
        plan: &Plan,
        parts: Vec<Part>,
        clock: Clock,
        directory: Option<&Path>,
    ) -> Result<Self, BenchError> {
        let page = Page::create().map_err(BenchError::io("make the shared page"))?;
        let mut group = Self { members: Vec::new(), page, patience: plan.patience, buffer: None };
        let both =
            parts.iter().any(|part| part.role == Role::Client) && parts.iter().any(|part| part.role == Role::Server);
        // A cache line cannot be passed between two that take turns on one CPU.
        let apart = plan.client_cpu.is_some() && plan.server_cpu.is_some() && plan.client_cpu != plan.server_cpu;
        let mut seen = Vec::new();
        for (side, part) in parts.into_iter().enumerate() {
            let first = !seen.contains(&part.role);
            seen.push(part.role);
            let assignment = Assignment {
                plan: plan.clone(),
                role: part.role,
                side,
                pairs: part.peers.iter().map(|(pair, _)| *pair).collect(),
                clock,
                directory: directory.map(Path::to_owned),
                calibrates_line: first && both && apart,
            };
            group.start_one(program, &assignment, part.peers)?;
        }
        for (index, done) in group.each("start")? {
            group.check_placement(index, &done)?;
        }
        for (_, done) in group.each("connect")? {
            let Done::Connected { buffer } = done else { return Err(unexpected()) };
            group.buffer = buffer.or(group.buffer);
        }
        Ok(group)
    }

    fn start_one(
        &mut self,
        program: &SideProgram,
        assignment: &Assignment,
        peers: Vec<(usize, Control)>,
    ) -> Result<(), BenchError> {
        let role = assignment.role;
        let io = BenchError::io;
        let (boss, theirs) = Control::pair().map_err(io("connect to a side"))?;
        boss.set_patience(self.patience).map_err(io("connect to a side"))?;
        let cpu = match role {
            Role::Client => assignment.plan.client_cpu,
            Role::Server => assignment.plan.server_cpu,
        };
        let mut command = Command::new(&program.program);
        command.args(program.arguments.iter()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let number = command.inherit(theirs.into_fd());
        command.env(SIDE, number.to_string());
        if let Some(cpu) = cpu {
            command.affinity(&[cpu]);
        }
        let spawned = command.spawn();
        let child = spawned.map_err(|source| BenchError::Spawn { side: role.to_string(), source })?;
        boss.tell_with(assignment, &[self.page.fd()]).map_err(io("instruct a side"))?;
        for (_, control) in peers {
            boss.tell_with(&(), &[control.as_fd()]).map_err(io("instruct a side"))?;
        }
        self.members.push(Member { role, child, boss, cpu });
        Ok(())
    }

    /// Where the sides are, and what buffer they have.
    pub(crate) fn placement(&self, plan: &Plan) -> Placement {
        let has = |role| self.members.iter().any(|member| member.role == role);
        let client = plan.client_cpu.filter(|_| has(Role::Client));
        let server = plan.server_cpu.filter(|_| has(Role::Server));
        Placement { client, server, relation: machine::relation(client, server) }
    }

    /// Calibrates on the sides' CPUs; what the first client measures counts, or the first server if there is no client.
    pub(crate) fn calibrate(&mut self) -> Result<Calibration, BenchError> {
        let chosen: Vec<usize> = [Role::Client, Role::Server]
            .iter()
            .filter_map(|role| self.members.iter().position(|member| member.role == *role))
            .collect();
        for &index in &chosen {
            self.order(index, Order::Calibrate)?;
        }
        let done = self.some("calibrate", &chosen)?;
        self.verify_affinity()?;
        match done.first() {
            Some((_, Done::Calibrated(calibration))) => Ok(*calibration),
            _ => Err(unexpected()),
        }
    }

    /// Lets them work.
    pub(crate) fn measure(&mut self) -> Result<Measured, BenchError> {
        // Servers first: whoever waits does not hold anybody up.
        for index in 0..self.members.len() {
            self.order(index, Order::Go)?;
        }
        self.verify_affinity()?;
        let mut measured = Measured { clients: Vec::new(), servers: Vec::new() };
        for (index, done) in self.each("measure")? {
            let Done::Measured(findings) = done else { return Err(unexpected()) };
            match self.members[index].role {
                Role::Client => measured.clients.push(*findings),
                Role::Server => measured.servers.push(*findings),
            }
        }
        self.verify_affinity()?;
        Ok(measured)
    }

    /// Sends them home, and sees that they go.
    pub(crate) fn finish(mut self) -> Result<(), BenchError> {
        for index in 0..self.members.len() {
            self.order(index, Order::Finish)?;
        }
        for member in &mut self.members {
            let ended = member.child.wait_timeout(FAREWELL);
            let cause = match ended {
                Ok(Some(report)) if report.success() => continue,
                Ok(Some(report)) => report.cause.to_string(),
                Ok(None) => format!("it did not end within {FAREWELL:?}"),
                Err(error) => error.to_string(),
            };
            return Err(BenchError::Died { side: member.name(), phase: "end", cause });
        }
        Ok(())
    }

    fn order(&mut self, index: usize, order: Order) -> Result<(), BenchError> {
        if self.members[index].boss.tell(&order).is_ok() {
            return Ok(());
        }
        Err(self.explain(index, "take an order"))
    }

    /// Asks the kernel where every side may run, from outside.
    fn verify_affinity(&self) -> Result<(), BenchError> {
        for member in &self.members {
            let Some(wanted) = member.cpu else { continue };
            let found = machine::allowed_cpus(&member.child.id().to_string());
            if !found.is_empty() && found != [wanted] {
                return Err(misplaced(member, wanted, &found));
            }
        }
        Ok(())
    }

    fn check_placement(&self, index: usize, done: &Done) -> Result<(), BenchError> {
        let member = &self.members[index];
        match (done, member.cpu) {
            (Done::Ready { cpus }, Some(wanted)) if *cpus != [wanted] => Err(misplaced(member, wanted, cpus)),
            (Done::Ready { .. }, _) => Ok(()),
            _ => Err(unexpected()),
        }
    }

    /// One reply of each.
    fn each(&mut self, phase: &'static str) -> Result<Vec<(usize, Done)>, BenchError> {
        let all: Vec<usize> = (0..self.members.len()).collect();
        self.some(phase, &all)
    }

    /// One reply of each of these, in their order. Gives up when nothing has moved for as long as the patience lasts.
    fn some(&mut self, phase: &'static str, indexes: &[usize]) -> Result<Vec<(usize, Done)>, BenchError> {
        let mut replies: Vec<Option<Done>> = indexes.iter().map(|_| None).collect();
        let mut moved = self.page.moved(self.members.len());
        let mut deadline = Deadline::after(self.patience);
        let look = Timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as i64 };
        while let Some(waiting) = replies.iter().position(Option::is_none) {
            let open: Vec<usize> = (0..indexes.len()).filter(|&at| replies[at].is_none()).collect();
            let mut fds: Vec<PollFd<'_>> =
                open.iter().map(|&at| PollFd::new(&self.members[indexes[at]].boss, PollFlags::IN)).collect();
            let _ = poll(&mut fds, Some(&look)); // an interruption is as good as a timeout
            let ready: Vec<usize> =
                open.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(&at, _)| at).collect();
            for at in ready {
                let reply = match self.members[indexes[at]].boss.hear() {
                    Ok(Done::Failed { message }) => {
                        // It may have failed because another one has died: that is the reason to tell.
                        if let Some(dead) = self.anybody_dead(indexes[at]) {
                            return Err(self.explain(dead, phase));
                        }
                        return Err(BenchError::Side { side: self.members[indexes[at]].name(), message });
                    }
                    Ok(done) => done,
                    Err(_) => return Err(self.explain(indexes[at], phase)),
                };
                replies[at] = Some(reply);
                deadline = Deadline::after(self.patience);
            }
            let now = self.page.moved(self.members.len());
            if now != moved {
                (moved, deadline) = (now, Deadline::after(self.patience));
            }
            if deadline.passed() {
                return Err(self.stalled(indexes[waiting], phase));
            }
        }
        Ok(indexes.iter().copied().zip(replies.into_iter().flatten()).collect())
    }

    /// Names the side that a signal has stopped, if there is one, else the one that was waited for.
    fn stalled(&self, waiting: usize, phase: &'static str) -> BenchError {
        let stopped = self.members.iter().find(|member| machine::is_stopped(member.child.id()));
        let side = stopped.unwrap_or(&self.members[waiting]).name();
        BenchError::Stalled { side, phase, patience: self.patience, stopped: stopped.is_some() }
    }

    fn anybody_dead(&mut self, but: usize) -> Option<usize> {
        // The kernel closes a dead process's mechanism before its shepherd can report: give that a moment.
        let deadline = Deadline::after(Duration::from_millis(200));
        loop {
            let dead = self.members.iter_mut().enumerate().find_map(|(index, member)| {
                (index != but && matches!(member.child.try_wait(), Ok(Some(_)))).then_some(index)
            });
            if dead.is_some() || deadline.passed() {
                return dead;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The connection to this side has broken: how did it end?
    fn explain(&mut self, index: usize, phase: &'static str) -> BenchError {
        let member = &mut self.members[index];
        let cause = match member.child.wait_timeout(FAREWELL) {
            Ok(Some(report)) => report.cause.to_string(),
            Ok(None) => "it hung up, and did not end".to_owned(),
            Err(error) => error.to_string(),
        };
        BenchError::Died { side: member.name(), phase, cause }
    }
}

fn misplaced(member: &Member, wanted: usize, found: &[usize]) -> BenchError {
    BenchError::Placement { side: member.name(), wanted, found: format!("{found:?}") }
}

fn unexpected() -> BenchError {
    BenchError::Io {
        doing: "understand a side",
        source: std::io::Error::other("it said something else than it should"),
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for member in &mut self.members {
            // After an orderly end this does nothing.
            let _ = member.child.kill();
        }
    }
}
