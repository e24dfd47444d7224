//! Real processes, with records made as the kernel side would make them.

use super::*;
use crate::kernel::device::file_id;
use crate::kernel::record::{Arguments, FileId};
use sha2::Digest;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use zeroize::Zeroizing;

fn redact(arguments: &[u8], _: bool) -> Vec<String> {
    String::from_utf8_lossy(arguments)
        .split_terminator('\0')
        .map(|argument| argument.replace("hidden", "{secret}"))
        .collect()
}

/// `None`, with the reason, where there is no cgroup v2.
fn table(change: impl FnOnce(&mut Options)) -> Option<ProcessTable> {
    let mut options = Options::new(redact);
    options.hash_wait = Duration::from_secs(20);
    change(&mut options);
    match ProcessTable::new(options) {
        Ok(table) => Some(table),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

/// Ends with its owner.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        Self(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits until the process runs a program whose path ends so.
    fn becomes(&self, name: &str) {
        for _ in 0..1000 {
            let link = std::fs::read_link(format!("/proc/{}/exe", self.pid()));
            if link.is_ok_and(|link| link.to_string_lossy().contains(name)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the process never ran {name}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sleeper() -> Running {
    let child = Running::start(Command::new("sleep").arg("60").arg("0"));
    child.becomes("sleep");
    child
}

/// As the kernel would give it: the start time within its tick.
fn key(pid: u32) -> ProcessKey {
    let proc = ProcFs::new(Path::new("/proc"));
    let stat = proc.stat(pid).unwrap();
    ProcessKey {
        pid,
        start: proc.tick_start(stat.start_ticks) + 1_234_567,
    }
}

/// As `/proc` gives it.
fn rounded(pid: u32) -> ProcessKey {
    let proc = ProcFs::new(Path::new("/proc"));
    let start = proc.tick_start(proc.stat(pid).unwrap().start_ticks);
    ProcessKey { pid, start }
}

fn caller(process: ProcessKey) -> Caller {
    let proc = ProcFs::new(Path::new("/proc"));
    let own = std::process::id();
    let cgroups = Cgroups::find(&proc).unwrap();
    Caller {
        process,
        thread: process.pid,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        cgroup: cgroups.id(&proc.cgroup(own).unwrap()).unwrap(),
        network_namespace: proc.own_namespace("net").unwrap(),
        comm: "x".into(),
    }
}

fn exec(
    time: Nanos,
    process: ProcessKey,
    parent: ProcessKey,
    filename: &str,
    arguments: &[u8],
) -> ProcessRecord {
    ProcessRecord::Exec {
        time,
        caller: caller(process),
        parent,
        filename: filename.into(),
        executable: std::fs::metadata(filename).map_or(
            FileId {
                device: 1,
                inode: 1,
            },
            |metadata| file_id(&metadata),
        ),
        arguments: Arguments {
            bytes: Zeroizing::new(arguments.to_vec()),
            truncated: false,
        },
    }
}

fn fork(time: Nanos, child: ProcessKey, parent: ProcessKey) -> ProcessRecord {
    ProcessRecord::Fork {
        time,
        child,
        parent,
        cgroup: caller(child).cgroup,
    }
}

/// A pid that no process has.
fn gone(number: u32) -> ProcessKey {
    ProcessKey {
        pid: 1_000_000_000 + number,
        start: u64::from(number),
    }
}

fn resolve(table: &mut ProcessTable, process: ProcessKey, at: Nanos) -> Identity {
    table.resolve(&caller(process), at, &Clock::start())
}

fn path(identity: &Identity) -> &str {
    identity
        .principal
        .process
        .executable
        .path
        .as_deref()
        .unwrap_or("-")
}

fn real(program: &str) -> String {
    std::fs::canonicalize(program)
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned()
}

fn sha256(path: &str) -> String {
    agent_common::event::Hex::<32>(sha2::Sha256::digest(std::fs::read(path).unwrap()).into())
        .to_string()
}

fn digest(identity: &Identity) -> String {
    let executable = &identity.principal.process.executable;
    match (&executable.hash, executable.hash_absent) {
        (Some(hash), None) => hash.sha256.to_string(),
        (None, Some(absent)) => format!("{absent:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_process_that_ran_before() {
    let Some(mut table) = table(|_| ()) else {
        return;
    };
    let child = sleeper();
    assert!(table.scan().unwrap() >= 2);
    let image = table.entry(rounded(child.pid())).unwrap().images[0]
        .0
        .clone();
    assert!(!image.has_arguments(), "read without need");
    let identity = resolve(&mut table, key(child.pid()), Nanos::MAX);
    let process = &identity.principal.process;
    assert_eq!(identity.source, IdentitySource::Proc);
    assert_eq!(path(&identity), real("/bin/sleep"));
    assert_eq!(digest(&identity), sha256("/bin/sleep"));
    assert_eq!(
        process.command_args,
        Some(vec!["sleep".into(), "60".into(), "0".into()])
    );
    assert_eq!(process.parent_pid, Some(std::process::id()));
    assert_eq!(process.ancestors[0].pid, std::process::id());
    let own = std::env::current_exe().unwrap();
    assert_eq!(
        process.ancestors[0].executable.path.as_deref(),
        own.to_str()
    );
    assert!(process.ancestors.len() >= 2 || std::os::unix::process::parent_id() == 0);
    if process.real_user.id == 0 {
        assert_eq!(process.real_user.name.as_deref(), Some("root"));
    }
    let own_cgroup = ProcFs::new(Path::new("/proc")).cgroup(std::process::id());
    assert_eq!(process.linux.cgroup, own_cgroup);
    let again = resolve(&mut table, key(child.pid()), Nanos::MAX);
    assert!(
        Arc::ptr_eq(&identity.principal, &again.principal),
        "not shared"
    );
}

#[test]
fn a_process_that_lived_5_ms() {
    let Some(mut table) = table(|_| ()) else {
        return;
    };
    let parent = key(std::process::id());
    let program = real("/bin/true");
    table.apply(&fork(9, gone(10), parent));
    table.apply(&exec(10, gone(10), parent, &program, b"true\0--hidden\0"));
    table.apply(&ProcessRecord::Exit {
        time: 15,
        process: gone(10),
    });
    let identity = resolve(&mut table, gone(10), 12);
    assert_eq!(identity.source, IdentitySource::Exec);
    assert_eq!(path(&identity), program);
    assert_eq!(digest(&identity), sha256(&program));
    let process = &identity.principal.process;
    assert_eq!(
        process.command_args,
        Some(vec!["true".into(), "--{secret}".into()])
    );
    assert_eq!(process.ancestors[0].pid, std::process::id());
    assert!(process.linux.cgroup.is_some());
    assert!(process.real_user.name.is_some() || process.real_user.id != 0);
}

#[test]
fn a_program_that_is_nowhere_has_the_name_it_was_asked_by() {
    let Some(mut table) = table(|_| ()) else {
        return;
    };
    table.apply(&exec(10, gone(11), gone(12), "./no-such-program", b"x\0"));
    let identity = resolve(&mut table, gone(11), 10);
    assert_eq!(path(&identity), "./no-such-program");
    assert_eq!(digest(&identity), "Gone");
    assert_eq!(identity.principal.process.parent_pid, Some(gone(12).pid));
}

#[test]
fn a_call_belongs_to_the_program_of_its_time() {
    let Some(mut table) = table(|_| ()) else {
        return;
    };
    let parent = key(std::process::id());
    table.apply(&fork(100, gone(20), parent));
    for (time, program) in [(200, "/bin/true"), (300, "/bin/sleep"), (400, "/bin/cat")] {
        table.apply(&exec(time, gone(20), parent, &real(program), b""));
    }
    let own = std::env::current_exe().unwrap();
    for (at, expected, source) in [
        (150, own.to_str().unwrap().to_owned(), IdentitySource::Fork),
        (200, real("/bin/true"), IdentitySource::Exec),
        (299, real("/bin/true"), IdentitySource::Exec),
        (350, real("/bin/sleep"), IdentitySource::Exec),
        (Nanos::MAX, real("/bin/cat"), IdentitySource::Exec),
        (250, real("/bin/true"), IdentitySource::Exec),
    ] {
        let identity = resolve(&mut table, gone(20), at);
        // What this process ran at fork is known from /proc, without a time.
        assert_eq!(
            (path(&identity), identity.source),
            (expected.as_str(), source),
            "at {at}"
        );
    }
}

#[test]
fn a_double_fork_keeps_its_line() {
    let Some(mut table) = table(|_| ()) else {
        return;
    };
    let own = key(std::process::id());
    table.apply(&fork(1, gone(31), own));
    table.apply(&exec(2, gone(31), own, &real("/bin/sh"), b"sh\0"));
    table.apply(&fork(3, gone(32), gone(31)));
    table.apply(&ProcessRecord::Exit {
        time: 4,
        process: gone(31),
    });
    table.apply(&fork(5, gone(33), gone(32)));
    table.apply(&ProcessRecord::Exit {
        time: 6,
        process: gone(32),
    });
    // The middle ones are forgotten by now.
    table.apply(&ProcessRecord::Exit {
        time: 200_000_000_000,
        process: gone(39),
    });
    assert_eq!(table.sizes().1, 0);
    let identity = resolve(&mut table, gone(33), 7);
    let process = &identity.principal.process;
    let line: Vec<_> = process
        .ancestors
        .iter()
        .map(|ancestor| ancestor.pid)
        .collect();
    assert_eq!(line[..3], [gone(32).pid, gone(31).pid, own.pid]);
    assert_eq!(process.parent_pid, Some(gone(32).pid));
    assert_eq!(path(&identity), real("/bin/sh"));
    assert_eq!(process.ancestors[1].executable.path, Some(real("/bin/sh")));
    assert_eq!(process.command_args, Some(vec!["sh".into()]));
}

#[test]
fn lines_are_bounded() {
    let Some(mut table) = table(|options| options.running = 100) else {
        return;
    };
    for number in 0..10_000 {
        table.apply(&fork(u64::from(number), gone(number + 1), gone(number)));
    }
    assert_eq!(table.sizes().0, 100);
    assert!(table.counters().evicted > 9_000);
    assert_eq!(table.pids.len(), 100);
    let identity = resolve(&mut table, gone(10_000), Nanos::MAX);
    assert_eq!(identity.source, IdentitySource::Fork);
    let line = identity
        .principal
        .process
        .ancestors
        .iter()
        .map(|ancestor| ancestor.pid);
    let expected = (0..ANCESTORS as u32).map(|back| gone(9_999 - back).pid);
    assert!(line.eq(expected));
}

#[test]
fn ended_processes_are_kept_for_their_grace() {
    let Some(mut table) = table(|options| {
        options.ended = 3;
        options.grace = Duration::from_nanos(100);
    }) else {
        return;
    };
    let own = key(std::process::id());
    for number in 1..=5u32 {
        table.apply(&exec(1, gone(number), own, &real("/bin/true"), b""));
        table.apply(&ProcessRecord::Exit {
            time: u64::from(number) * 50,
            process: gone(number),
        });
    }
    assert_eq!(
        table.counters().ended_evicted,
        0,
        "the first was out of its grace"
    );
    let source = |table: &mut ProcessTable, number| resolve(table, gone(number), 1).source;
    assert_eq!(source(&mut table, 5), IdentitySource::Exec);
    assert_eq!(source(&mut table, 3), IdentitySource::Exec);
    assert_eq!(source(&mut table, 2), IdentitySource::Call);
    for number in 6..=9u32 {
        table.apply(&exec(1, gone(number), own, &real("/bin/true"), b""));
        table.apply(&ProcessRecord::Exit {
            time: 251,
            process: gone(number),
        });
    }
    assert!(table.counters().ended_evicted > 0);
    assert_eq!(table.counters().unknown, 1);
}

#[test]
fn another_process_with_the_pid_is_another_one() {
    let Some(mut table) = table(|_| ()) else {
        return;
    };
    let child = sleeper();
    table.scan().unwrap();
    let mut other = key(child.pid());
    other.start += 60_000_000_000;
    let identity = resolve(&mut table, other, Nanos::MAX);
    assert_eq!(identity.source, IdentitySource::Call);
    assert_eq!(path(&identity), "-");
    assert_eq!(digest(&identity), "Unknown");
    // Its own records replace what was known under the pid.
    let own = key(std::process::id());
    table.apply(&exec(1, other, own, &real("/bin/cat"), b""));
    assert_eq!(path(&resolve(&mut table, other, 1)), real("/bin/cat"));
    assert_eq!(
        path(&resolve(&mut table, key(child.pid()), 1)),
        real("/bin/sleep")
    );
}

#[test]
fn a_process_met_late_is_read_from_proc() {
    let Some(mut table) = table(|_| ()) else {
        return;
    };
    let child = sleeper();
    let identity = resolve(&mut table, key(child.pid()), Nanos::MAX);
    assert_eq!(identity.source, IdentitySource::Proc);
    assert_eq!(path(&identity), real("/bin/sleep"));
    assert_eq!(
        identity.principal.process.ancestors[0].pid,
        std::process::id()
    );
    assert!(table.counters().met_late >= 1);
}

#[test]
fn an_exec_that_no_record_told_is_noticed() {
    let Some(mut table) = table(|_| ()) else {
        return;
    };
    let mut child = Running::start(Command::new("sh").args(["-c", "read line; exec sleep 60"]));
    child.becomes("sh");
    table.scan().unwrap();
    child.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
    child.becomes("sleep");
    let identity = resolve(&mut table, key(child.pid()), Nanos::MAX);
    assert_eq!(path(&identity), real("/bin/sleep"));
    assert_eq!(digest(&identity), sha256("/bin/sleep"));
}

#[test]
fn a_deleted_program_says_so() {
    let Some(mut table) = table(|_| ()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("tool");
    std::fs::copy("/bin/sleep", &program).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let child = Running::start(Command::new(&program).arg("60"));
    child.becomes("tool");
    std::fs::remove_file(&program).unwrap();
    table.scan().unwrap();
    let identity = resolve(&mut table, key(child.pid()), Nanos::MAX);
    assert_eq!(path(&identity), program.to_str().unwrap());
    assert!(identity.principal.process.executable.deleted);
    assert_eq!(digest(&identity), sha256("/bin/sleep"));
}

#[test]
fn another_user_namespace_has_no_names_of_ours() {
    let Some(mut table) = table(|_| ()) else {
        return;
    };
    let child = Running::start(Command::new("unshare").args(["-U", "sleep", "60"]));
    let proc = ProcFs::new(Path::new("/proc"));
    let foreign = (0..400).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        let link = std::fs::read_link(proc.path(child.pid(), "exe"));
        link.is_ok_and(|link| link.ends_with("sleep"))
    });
    if !foreign || proc.namespace(child.pid(), "user") == proc.own_namespace("user") {
        println!("skipped: unshare -U does not work here");
        return;
    }
    let identity = resolve(&mut table, key(child.pid()), Nanos::MAX);
    assert_eq!(identity.principal.process.real_user.name, None);
    let mut caller = caller(key(std::process::id()));
    caller.uid = 0;
    let own = table.resolve(&caller, Nanos::MAX, &Clock::start());
    assert_eq!(
        own.principal.process.real_user.name.as_deref(),
        Some("root")
    );
}

/// A cgroup that is removed with its owner.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
        let _ = std::fs::remove_dir(self.0.parent().unwrap());
    }
}

#[test]
fn a_container_is_told_by_its_cgroup() {
    let Some(mut table) = table(|_| ()) else {
        return;
    };
    let id = format!("{:064x}", std::process::id());
    let parent = format!("tokentrail-test-{}", std::process::id());
    let group = Group(
        table
            .cgroups()
            .mount()
            .join(&parent)
            .join(format!("docker-{id}.scope")),
    );
    if std::fs::create_dir_all(&group.0).is_err() {
        println!("skipped: may not make cgroups here");
        return;
    }
    let child = sleeper();
    std::fs::write(group.0.join("cgroup.procs"), child.pid().to_string()).unwrap();
    let mut caller = caller(key(child.pid()));
    caller.cgroup = table
        .cgroups()
        .id(&format!("{parent}/docker-{id}.scope"))
        .unwrap();
    let identity = table.resolve(&caller, Nanos::MAX, &Clock::start());
    let container = identity.principal.container.clone().unwrap();
    assert_eq!(container.id, id);
    assert_eq!(container.runtime.unwrap().name, "docker");
    assert_eq!(
        identity.principal.process.real_user.name, None,
        "a host's name for a container's user"
    );
    drop(child);
    drop(group);
    // Process and group are gone, the answer is not.
    let identity = table.resolve(&caller, Nanos::MAX, &Clock::start());
    assert_eq!(identity.principal.container.clone().unwrap().id, id);
}

#[test]
fn everyone_on_this_host_can_be_read() {
    let Some(mut table) = table(|options| options.hash.enabled = false) else {
        return;
    };
    table.scan().unwrap();
    let own = resolve(&mut table, key(std::process::id()), Nanos::MAX);
    assert_eq!(digest(&own), "Disabled");
    assert_eq!(
        path(&own),
        std::env::current_exe().unwrap().to_str().unwrap()
    );
}
