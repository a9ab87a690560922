//! A command is who and what it was told to be, in every isolation; what nothing was said about is the parent's.

mod common;

use common::{LONG, inherited_mark, role};
use ginnel_process::{Command, Isolation, Resource};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

roles!(unusual_parent);

const ISOLATIONS: [Isolation; 3] = [Isolation::Subreaper, Isolation::Auto, Isolation::PidNamespace];

/// What a command prints in each isolation.
fn each_isolation(mut prepare: impl FnMut(&mut Command), mut check: impl FnMut(&str)) {
    for isolation in ISOLATIONS {
        let mut command = Command::new("sh");
        prepare(command.isolation(isolation).timeout(LONG));
        let output = command.run().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.report.success(), "{isolation:?}: {:?} {errors}", output.report);
        check(&String::from_utf8(output.stdout).unwrap());
    }
}

fn shell(command: &mut Command, script: &str) {
    command.args(["-c", script]);
}

/// The fields of `/proc/<pid>/status`.
fn fields(status: &str) -> BTreeMap<&str, String> {
    let field = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    status.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, field(value))).collect()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn a_user_and_a_group_are_taken_on_whole_and_no_privilege_is_kept() {
    // What an ordinary user may not is in unprivileged.rs.
    if !ginnel_testing::is_root("to become another user") {
        return;
    }
    let ids = |groups: Option<&[u32]>, told: &str| {
        each_isolation(
            |command| {
                shell(command, "cat /proc/self/status");
                command.uid(12345).gid(23456);
                if let Some(groups) = groups {
                    command.groups(groups);
                }
            },
            |status| {
                let fields = fields(status);
                // Real, effective, saved and for files: there is no way back.
                assert_eq!(fields["Uid"], "12345 12345 12345 12345");
                assert_eq!(fields["Gid"], "23456 23456 23456 23456");
                assert_eq!(fields["Groups"], told);
                for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                    assert_eq!(fields[set], "0000000000000000", "{set}");
                }
            },
        );
    };
    // The parent's groups are not the other user's.
    ids(None, "");
    ids(Some(&[]), "");
    ids(Some(&[34567, 7]), "7 34567");
}

#[test]
fn groups_can_be_set_without_a_change_of_user() {
    if !ginnel_testing::is_root("to set groups") {
        return;
    }
    each_isolation(
        |command| {
            shell(command, "cat /proc/self/status");
            command.groups(&[7]);
        },
        |status| {
            let fields = fields(status);
            assert_eq!((&*fields["Groups"], &*fields["Uid"]), ("7", "0 0 0 0"));
        },
    );
}

#[test]
fn files_of_the_command_are_its_users_and_have_its_mask() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let mut count = 0;
    each_isolation(
        |command| {
            count += 1;
            shell(command, "umask; : > file-$1; echo $1");
            command.arg("sh").arg(count.to_string()).current_dir(dir.path()).umask(0o027);
            if is_root() {
                command.uid(12345).gid(23456);
            }
        },
        |text| {
            let (mask, number) = text.trim().split_once('\n').unwrap();
            assert_eq!(mask, "0027");
            let file = dir.path().join(format!("file-{number}")).metadata().unwrap();
            assert_eq!(file.mode() & 0o777, 0o640);
            if is_root() {
                assert_eq!((file.uid(), file.gid()), (12345, 23456));
            }
        },
    );
    assert_eq!(count, 3);
}

#[test]
fn nice_affinity_and_limits_are_in_force() {
    let allowed = rustix::thread::sched_getaffinity(None).unwrap();
    let last = (0..rustix::thread::CpuSet::MAX_CPU).rfind(|cpu| allowed.is_set(*cpu)).unwrap();
    each_isolation(
        |command| {
            shell(command, "cat /proc/self/status /proc/self/limits; echo nice: $(cut -d' ' -f19 /proc/self/stat)");
            command.nice(7).affinity(&[last]);
            command.rlimit(Resource::OpenFiles, 33, 44).rlimit(Resource::Cpu, 1000, u64::MAX);
        },
        |text| {
            let fields = fields(text);
            assert_eq!(fields["nice"], "7");
            assert_eq!(fields["Cpus_allowed_list"], last.to_string());
            let limit = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
                line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(limit("Max open files"), ["33", "44"]);
            assert_eq!(limit("Max cpu time"), ["1000", "unlimited"]);
        },
    );
}

#[test]
fn the_shepherd_is_not_what_the_command_was_told_to_be() {
    let mut command = Command::new("sleep");
    command.arg("1000").nice(19).umask(0o777).rlimit(Resource::OpenFiles, 10, 10).current_dir("/proc");
    if is_root() {
        command.uid(12345);
    }
    let mut child = command.spawn().unwrap();
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", child.shepherd_id())).unwrap();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let (status, own) = (read("status"), fields(&own));
    let status = fields(&status);
    for name in ["Uid", "Gid", "Groups", "Umask"] {
        assert_eq!(status[name], own[name], "{name}");
    }
    assert_eq!(read("limits"), fs::read_to_string("/proc/self/limits").unwrap());
    child.kill().unwrap();
}

#[test]
fn the_environment_is_what_was_set_and_removed() {
    let own = std::env::vars().count();
    assert!(own > 1 && std::env::var_os("PATH").is_some());
    let variables = |text: &str| -> BTreeMap<String, String> {
        let all = text.split_terminator('\0').map(|line| line.split_once('=').unwrap());
        // Where nothing else tells whose tree it is, this variable does.
        all.filter(|(name, _)| *name != "GINNEL_TREE")
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    };
    for isolation in ISOLATIONS {
        let run = |prepare: fn(&mut Command) -> &mut Command| {
            let mut command = Command::new("cat");
            let output = prepare(command.arg("/proc/self/environ").isolation(isolation)).run().unwrap();
            variables(&String::from_utf8(output.stdout).unwrap())
        };
        let inherited: BTreeMap<_, _> = std::env::vars().collect();
        assert_eq!(run(|command| command), inherited);

        let mut expected = inherited.clone();
        expected.remove("PATH");
        expected.insert("GINNEL_TEST_NEW".to_owned(), "a=b\nc".to_owned());
        expected.insert("GINNEL_TEST_EMPTY".to_owned(), String::new());
        let changed = run(|command| {
            command.env("GINNEL_TEST_NEW", "first").env("GINNEL_TEST_NEW", "a=b\nc");
            command.env("GINNEL_TEST_EMPTY", "").env_remove("PATH").env_remove("GINNEL_TEST_NEVER")
        });
        assert_eq!(changed, expected);

        let cleared = run(|command| command.env("GINNEL_TEST_LOST", "x").env_clear().env("PATH", "/usr/bin:/bin"));
        assert_eq!(cleared, BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]));
    }
}

#[test]
fn the_name_the_directory_and_the_arguments_are_the_ones_given() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fs::canonicalize("/bin/sh").unwrap(), dir.path().join("program")).unwrap();
    for isolation in ISOLATIONS {
        // A relative path is looked up in the directory of the command.
        let mut command = Command::new("./program");
        command.current_dir(dir.path()).arg0("another name").isolation(isolation);
        command.args(["-c", r#"pwd; tr '\0' '|' < /proc/$$/cmdline"#, "zero", "", "two words", "\n"]);
        let text = String::from_utf8(command.run().unwrap().stdout).unwrap();
        let (pwd, line) = text.split_once('\n').unwrap();
        assert_eq!(pwd, dir.path().canonicalize().unwrap().to_str().unwrap());
        assert_eq!(line, r#"another name|-c|pwd; tr '\0' '|' < /proc/$$/cmdline|zero||two words|"#.to_owned() + "\n|");
    }
}

/// A parent with everything set to what nobody has by default.
fn unusual_parent() {
    let _mark = inherited_mark();
    let (limit, maximum) = (Some(123), Some(456));
    rustix::process::setrlimit(rustix::process::Resource::Nofile, rustix::process::Rlimit { current: limit, maximum })
        .unwrap();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o31));
    rustix::process::nice(3).unwrap();
    std::env::set_current_dir("/proc").unwrap();
    let mut text = String::new();
    for isolation in ISOLATIONS {
        let mut command = Command::new("sh");
        shell(&mut command, "umask; ulimit -Sn; ulimit -Hn; pwd; cut -d' ' -f19 /proc/self/stat");
        let output = command.isolation(isolation).run().unwrap();
        text += &String::from_utf8(output.stdout).unwrap().replace('\n', " ");
        text += "\n";
    }
    print!("{text}");
}

#[test]
fn what_nothing_was_said_about_is_the_parents() {
    let mark = common::Mark::new();
    let mut parent = role("unusual_parent", &mark).stdout(std::process::Stdio::piped()).spawn().unwrap();
    mark.parent(parent.id());
    let mut text = String::new();
    parent.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    assert!(parent.wait().unwrap().success());
    assert_eq!(text, "0031 123 456 /proc 3 \n".repeat(3));
    mark.assert_gone_soon();
}
