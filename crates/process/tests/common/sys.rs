//! Roles: functions that run instead of the tests when the program is started with `GINNEL_TEST_ROLE`.
#![allow(unsafe_code)]

/// Names the role.
pub const ROLE: &str = "GINNEL_TEST_ROLE";

/// Called before `main`: runs the role that is asked for, and ends.
pub fn play(roles: &[(&str, fn())]) {
    let Ok(name) = std::env::var(ROLE) else { return };
    let Some((_, role)) = roles.iter().find(|(known, _)| *known == name) else { return };
    let outcome = std::panic::catch_unwind(role);
    std::process::exit(if outcome.is_ok() { 0 } else { 101 });
}

/// Gives up root: what follows runs as an ordinary user without groups or capabilities.
pub fn become_nobody() {
    become_user(65534);
}

/// The same as a user of whom there are no other processes.
pub fn become_user(user: u32) {
    // SAFETY: plain system calls on this process, which has one thread; nothing points anywhere.
    unsafe {
        assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
        assert_eq!(libc::setresgid(user, user, user), 0);
        assert_eq!(libc::setresuid(user, user, user), 0);
        // A change of user makes a process unreadable to its own user, as a program that was started by that user is
        // not.
        assert_eq!(libc::prctl(libc::PR_SET_DUMPABLE, 1), 0);
    }
}

/// Holds a child of this process as a debugger does, for as long as the calling thread lives.
pub fn hold(pid: u32) {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: requests that point nowhere, and a status in a live variable.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_ATTACH, pid, none, none), 0, "{}", std::io::Error::last_os_error());
        let mut status = 0;
        assert_eq!(libc::waitpid(pid as i32, &raw mut status, libc::__WALL), pid as i32);
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
    }
}

/// Ends the main thread and leaves another: `/proc` shows such a process as a zombie, though it runs. Never returns.
pub fn end_the_main_thread() -> ! {
    std::thread::spawn(|| std::thread::sleep(std::time::Duration::from_secs(1000)));
    loop {
        // SAFETY: ends this thread only; what the other one uses is not on this stack.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
}

/// Forks and forks, every generation leaving its ancestors behind: no number lives long enough to be caught one by one.
/// Bounded only by what refuses a fork, which it tells by the line `ready`. Never returns.
pub fn fork_storm() -> ! {
    // SAFETY: as below. The first process stays: its end would be the command's.
    if unsafe { libc::fork() } != 0 {
        std::thread::sleep(std::time::Duration::from_secs(1000));
    }
    let mut told = false;
    loop {
        // SAFETY: this process has one thread, so the copy is whole; it makes system calls only.
        match unsafe { libc::fork() } {
            0 => {}
            -1 if !told => {
                told = true;
                println!("ready");
            }
            -1 => std::thread::sleep(std::time::Duration::from_millis(1)),
            // SAFETY: ends without running anything of the original.
            child if child % 2 == 0 => unsafe { libc::_exit(0) },
            _ => {}
        }
    }
}

/// `roles!(name, ...)`: the functions of this program that can be started as processes of their own.
#[macro_export]
macro_rules! roles {
    ($($role:ident),* $(,)?) => {
        const _: () = {
            extern "C" fn before_main() {
                $crate::common::sys::play(&[$((stringify!($role), $role as fn())),*]);
            }
            // SAFETY: the C library calls every function listed here once, before `main`, with its own state complete.
            #[unsafe(link_section = ".init_array")]
            #[used]
            static ENTRY: extern "C" fn() = before_main;
        };
    };
}
