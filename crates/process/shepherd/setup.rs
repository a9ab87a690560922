//! From the first instruction to the running command.

use crate::cgroup::Groups;
use crate::child::{self, Plan};
use crate::frame::{self, Failed, MAX_FDS, Put, Spawn, Started, Take, flag, kind, stage, stdio};
use crate::sys::{self, Args, Fd, Pages};
use crate::tree;
use crate::watch::{self, Flock};

/// The parent blocked every signal before it cloned us, so none has been missed or could have killed us.
pub(crate) fn become_shepherd(socket: &Fd) -> sys::Result<()> {
    // Also the two that the C library keeps for itself.
    sys::set_signal_mask(u64::MAX);
    sys::set_ignored(sys::SIGPIPE, true);
    // A parent that ignores it would have the kernel reap our children before we see them.
    sys::set_ignored(sys::SIGCHLD, false);
    sys::close_all_but(socket)?;
    // It came to us through an `execve`; the command must not have it.
    sys::close_on_execute(socket)?;
    // Pid 1 of a namespace may already lead the session it was born with.
    match sys::new_session() {
        Ok(()) | Err(sys::EPERM) => {}
        Err(errno) => return Err(errno),
    }
    sys::become_subreaper()?;
    // A shepherd that somebody has stopped wakes when its parent dies, and ends the tree. One that runs does not
    // notice.
    sys::set_parent_death_signal(sys::SIGCONT)?;
    sys::set_name(c"ginnel-shepherd")
}

/// Reads the `SPAWN` frame, starts the command, and watches over it to the end.
pub(crate) fn tend(socket: &Fd, args: Args) {
    let ready = become_shepherd(socket);
    let Ok(len @ 1..) = sys::next_length(socket) else { return };
    let mut fds = [-1; MAX_FDS];
    let failed = |stage, errno| refuse(socket, Failed { stage, errno, index: 0 });
    // A usual frame fits here, which saves a mapping.
    let (mut usual, mut large) = ([0u8; 1024], None);
    let buf = if len <= usual.len() {
        &mut usual[..]
    } else {
        match Pages::new(len) {
            Ok(pages) => large.insert(pages).bytes(),
            Err(errno) => return failed(stage::FRAME, errno),
        }
    };
    let (len, count) = match sys::receive(socket, buf, &mut fds) {
        Ok(received) => received,
        Err(errno) => return failed(stage::FRAME, errno),
    };
    if let Err(errno) = ready {
        return failed(stage::SESSION, errno);
    }
    let spawn = match frame::open(&buf[..len]) {
        Some((kind::SPAWN, _, mut payload)) => Spawn::take(&mut payload),
        _ => None,
    };
    let Some(spawn) = spawn else { return failed(stage::FRAME, sys::EINVAL) };
    match launch(args, &spawn, &mut fds[..count]) {
        Ok((flock, started, ends)) => {
            let told = announce(socket, &flock.pidfd, &ends, started);
            drop(ends);
            watch::keep(socket, flock, args, told.is_err());
            if let Err(errno) = told {
                failed(stage::STDIO, errno);
            }
        }
        Err(reason) => refuse(socket, reason),
    }
}

fn refuse(socket: &Fd, failed: Failed) {
    let mut buf = [0u8; 64];
    let mut put = Put::new(&mut buf, kind::FAILED, 0);
    put.u8(failed.stage);
    put.u32(failed.errno);
    put.u32(failed.index);
    if let Some(len) = put.finish() {
        let _ = sys::send(socket, &buf[..len], &[]);
    }
}

/// The parent's ends of the pipes, or the pty master, in the order of `STARTED`.
#[derive(Default)]
struct Ends {
    parent: [Option<Fd>; 3],
    child: [Option<Fd>; 3],
}

fn launch<'a>(args: Args, spawn: &'a Spawn<'a>, fds: &mut [i32]) -> Result<(Flock<'a>, Started, Ends), Failed> {
    let at = |stage, errno| Failed { stage, errno, index: 0 };
    let own = 1 + usize::from(spawn.flags & flag::REPORT != 0);
    let given = spawn.stdio.iter().filter(|mode| child::given(**mode)).count();
    if fds.len() != own + given + spawn.targets.len() / 4 {
        return Err(at(stage::FRAME, sys::EINVAL));
    }
    let (own_fds, rest) = fds.split_at_mut(own);
    let (given_fds, extra) = rest.split_at_mut(given);
    let parent = Fd::new(own_fds[0]);
    let report = own_fds.get(1).map(|number| Fd::new(*number));

    let signals = sys::signal_fd(u64::MAX).map_err(|errno| at(stage::SESSION, errno))?;
    let mut groups =
        Groups::make(Take(spawn.cgroups)).map_err(|(errno, index)| Failed { stage: stage::CGROUP, errno, index })?;
    let (mut ends, sources) = streams(spawn, given_fds)?;
    let proc_dir = sys::open_at(sys::AT_FDCWD, c"/proc", sys::O_RDONLY | sys::O_DIRECTORY);
    if let Err(errno) = proc_dir
        && sys::no_descriptor(errno)
    {
        return Err(at(stage::SESSION, errno));
    }
    let mut plan = Plan {
        spawn,
        args,
        groups: &groups,
        stdio: sources,
        extra,
        shepherd: sys::pid(),
        failed: Failed::default(),
        unified_errno: 0,
    };
    let born = sys::now();
    let (leader, pidfd) =
        sys::vfork(&mut plan, child::run, groups.unified()).map_err(|errno| at(stage::FORK, errno))?;
    let (failed, unified_errno) = (plan.failed, plan.unified_errno);
    if failed.stage != 0 {
        sys::reap_this(leader);
        return Err(failed);
    }
    if unified_errno != 0 {
        groups.give_up_unified(unified_errno);
    }
    if groups.unified_errno != 0 {
        args.mark_lowered();
    }
    for fd in given_fds.iter().chain(extra.iter()) {
        drop(Fd::new(*fd));
    }
    // From here on there is room for the two descriptors that a look at the tree takes.
    ends.child = [const { None }; 3];
    let proc_dir = proc_dir.and_then(|dir| tree::check_proc(&dir, leader, &pidfd).map(|()| dir));
    let proc_errno = proc_dir.as_ref().err().copied().unwrap_or(0);
    let started = Started { leader: leader as u32, cgroup_errno: groups.unified_errno, proc_errno };
    let proc_dir = proc_dir.ok();
    Ok((Flock { spawn, groups, leader, pidfd, proc_dir, parent, report, signals, started: born }, started, ends))
}

/// Hands the parent its ends. Only for want of descriptors or memory they may not come to it; a parent that is gone is
/// noticed by the watch, which ends the tree.
fn announce(socket: &Fd, pidfd: &Fd, ends: &Ends, started: Started) -> sys::Result<()> {
    let mut fds = [pidfd.number(); 4];
    let mut count = 1;
    for end in ends.parent.iter().flatten() {
        fds[count] = end.number();
        count += 1;
    }
    let mut buf = [0u8; 64];
    let mut put = Put::new(&mut buf, kind::STARTED, 0);
    put.u32(started.leader);
    put.u32(started.cgroup_errno);
    put.u32(started.proc_errno);
    let len = put.finish().ok_or(sys::EMSGSIZE)?;
    match sys::send(socket, &buf[..len], &fds[..count]) {
        Ok(_) | Err(sys::EPIPE | sys::ECONNRESET) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Opens what becomes fd 0-2. The numbers are what the child duplicates; `Ends` keeps those open that are ours.
fn streams(spawn: &Spawn<'_>, given: &[i32]) -> Result<(Ends, [i32; 3]), Failed> {
    let mut ends = Ends::default();
    let mut sources = [-1; 3];
    let mut given = given.iter();
    for index in 0..3 {
        let at = |errno| Failed { stage: stage::STDIO, errno, index: index as u32 };
        sources[index] = match spawn.stdio[index] {
            stdio::GIVEN => *given.next().ok_or(at(sys::EINVAL))?,
            stdio::MERGED => sources[1],
            stdio::PIPE => {
                let (read, write) = sys::pipe().map_err(at)?;
                let (ours, theirs) = if index == 0 { (write, read) } else { (read, write) };
                ends.parent[index] = Some(ours);
                ends.child[index].insert(theirs).number()
            }
            stdio::PTY if index > 0 => sources[0],
            stdio::PTY => {
                let (master, terminal) =
                    terminal(spawn).map_err(|errno| Failed { stage: stage::PTY, errno, index: 0 })?;
                ends.parent[0] = Some(master);
                ends.child[0].insert(terminal).number()
            }
            _ => ends.child[index].insert(sys::open_at(sys::AT_FDCWD, c"/dev/null", sys::O_RDWR).map_err(at)?).number(),
        };
    }
    Ok((ends, sources))
}

fn terminal(spawn: &Spawn<'_>) -> sys::Result<(Fd, Fd)> {
    const TIOCSPTLCK: usize = 0x4004_5431;
    const TIOCGPTPEER: usize = 0x5441;
    const TIOCSWINSZ: usize = 0x5414;
    const TCGETS: usize = 0x5401;
    const TCSETS: usize = 0x5402;
    let master = sys::open_at(sys::AT_FDCWD, c"/dev/ptmx", sys::O_RDWR | sys::O_NOCTTY)?;
    sys::ioctl_bytes(&master, TIOCSPTLCK, &mut [0; 4])?;
    // By ioctl, not by name: no path in a /dev/pts of another mount namespace can be meant.
    const O_CLOEXEC: i32 = 0o2_000_000;
    let flags = (sys::O_RDWR | sys::O_NOCTTY | O_CLOEXEC) as usize;
    let terminal = Fd::new(sys::ioctl(&master, TIOCGPTPEER, flags)? as i32);
    let mut size = [0u8; 8];
    for (place, word) in size.chunks_exact_mut(2).zip(spawn.size) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    sys::ioctl_bytes(&terminal, TIOCSWINSZ, &mut size)?;
    let mut modes = [0u8; 36];
    if spawn.termios.len() == modes.len() {
        modes.copy_from_slice(spawn.termios);
    } else {
        sys::ioctl_bytes(&terminal, TCGETS, &mut modes)?;
    }
    change_modes(&mut modes, spawn.flags);
    sys::ioctl_bytes(&terminal, TCSETS, &mut modes)?;
    Ok((master, terminal))
}

/// `struct termios`: four words of flags (input, output, control, local), a byte, nineteen control characters. Raw is
/// what `cfmakeraw` sets.
fn change_modes(modes: &mut [u8; 36], flags: u32) {
    let mut change = |word: usize, clear: u32, set: u32| {
        let place = &mut modes[word * 4..word * 4 + 4];
        let value = u32::from_le_bytes([place[0], place[1], place[2], place[3]]);
        place.copy_from_slice(&(value & !clear | set).to_le_bytes());
    };
    if flags & flag::PTY_NO_ECHO != 0 {
        change(3, 0o10, 0);
    }
    if flags & flag::PTY_RAW != 0 {
        change(0, 0o2753, 0);
        change(1, 1, 0);
        change(2, 0o460, 0o60);
        change(3, 0o100_113, 0);
        const VTIME: usize = 17 + 5;
        const VMIN: usize = 17 + 6;
        (modes[VTIME], modes[VMIN]) = (0, 1);
    }
}
