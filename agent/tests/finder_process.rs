//! The finder as a process of its own: it answers, it may do nothing else, and what happens to it harms nobody.
//!
//! Signals go to processes that the test started, by their ids.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokentrail_agent::kernel::keylog::process::{Class, Failure, SearchError, client::Client};
use tokentrail_agent::kernel::keylog::{Cache, Finder, Found, LookError};
use tokentrail_agent::privilege::pipe::Pipe;

const AGENT: &str = env!("CARGO_BIN_EXE_tokentrail-agent");
const PATIENCE: Duration = Duration::from_secs(60);

fn client() -> Client {
    Client::start(Path::new(AGENT), None).unwrap()
}

/// A library with a key-log point.
const LIBRARY: &str = r#"
volatile long sink;
__attribute__((noinline, visibility("hidden")))
int log_secret(void **s, const char *label, const unsigned char *secret, unsigned long length) {
    if (!s[3]) return 1;
    for (unsigned long i = 0; i < length; i++) sink += secret[i];
    ((void (*)(void *, const char *))s[3])(s, label);
    return 1;
}
int master(void **s, unsigned char *secret) { return log_secret(s, "CLIENT_RANDOM", secret, 48) && sink; }
int other(void **s, unsigned char *secret) { return log_secret(s, "EXPORTER_SECRET", secret, 32) && sink; }
"#;

fn compile(folder: &Path, name: &str, more: &str) -> PathBuf {
    let source = folder.join(format!("{name}.c"));
    let path = folder.join(name);
    fs::write(&source, format!("{LIBRARY}{more}")).unwrap();
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wl,--build-id=sha1", "-o"])
        .args([&path, &source])
        .status()
        .unwrap();
    assert!(status.success());
    path
}

fn here(path: &Path) -> Found {
    let mut finder = Finder::new(Cache::in_memory());
    finder.look_at_file(&File::open(path).unwrap()).unwrap()
}

fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(
            begin.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Field of `/proc/PID/status`; `None` if the process is gone, or ended and not waited for yet.
fn status(pid: u32, field: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let of = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.trim_start_matches(':').trim().to_owned())
    };
    (!of("State")?.starts_with('Z')).then(|| of(field))?
}

#[test]
fn it_finds_what_is_found_here() {
    let folder = tempfile::tempdir().unwrap();
    let library = compile(folder.path(), "library", "");
    let client = client();
    let found = client.search(&File::open(&library).unwrap(), None, Class::Prompt);
    let expected = here(&library);
    assert_eq!(expected.key_log_points().count(), 1);
    assert_eq!(found.unwrap(), expected);
    for path in ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/bin/sh", AGENT] {
        if let Ok(file) = File::open(path) {
            let found = client.search(&file, None, Class::Ahead).unwrap();
            assert_eq!(found, here(Path::new(path)), "{path}");
        }
    }
    // Many at once.
    let client = Arc::new(client);
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (client, file) = (Arc::clone(&client), File::open(&library).unwrap());
            std::thread::spawn(move || client.search(&file, None, Class::Prompt).unwrap())
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), expected);
    }
}

#[test]
fn a_hint_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let library = compile(folder.path(), "library", "");
    let other = compile(
        folder.path(),
        "other",
        "int more(int a) { return a * 7 + (int)sink; }",
    );
    let (expected, of_other) = (here(&library), here(&other));
    let client = client();
    let search = |hint: &Found| {
        let file = File::open(&library).unwrap();
        client.search(&file, Some(hint), Class::Prompt).unwrap()
    };
    assert_eq!(search(&expected), expected);
    assert_eq!(search(&of_other), expected);
    // The same build id, and points that are not its own.
    let mut forged = of_other;
    forged.build_id.clone_from(&expected.build_id);
    forged.size = expected.size;
    assert_eq!(search(&forged), expected);
    forged.points[0].file_offset += 4096;
    assert_eq!(search(&forged), expected);
}

#[test]
fn what_is_no_file_to_search_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let client = client();
    let search = |file: &File| client.search(file, None, Class::Prompt).unwrap_err();
    let text = folder.path().join("text");
    fs::write(&text, "#!/bin/sh\n").unwrap();
    assert!(matches!(
        search(&File::open(&text).unwrap()),
        SearchError::Failed(Failure::NotElf)
    ));
    let writable = File::options().read(true).write(true).open(&text).unwrap();
    assert!(matches!(search(&writable), SearchError::Writable));
    let path_alone = File::options()
        .read(true)
        .custom_flags(libc::O_PATH)
        .open(&text)
        .unwrap();
    assert!(matches!(search(&path_alone), SearchError::Writable));
    // A read of it would block.
    let (reader, _writer) = std::io::pipe().unwrap();
    let reader = File::from(std::os::fd::OwnedFd::from(reader));
    let refused = search(&reader);
    assert!(
        matches!(
            refused,
            SearchError::Look(LookError::NotAFile("named pipe"))
        ),
        "{refused:?}"
    );
    assert!(matches!(
        search(&File::open(folder.path()).unwrap()),
        SearchError::Look(LookError::NotAFile("folder"))
    ));
}

#[test]
fn its_processes_have_no_rights() {
    let client = client();
    let pids = client.pids();
    assert_eq!(pids.len(), 3);
    for pid in pids {
        // The searchers lock themselves down after they are made.
        until("the filters are there", || {
            status(pid, "Seccomp_filters").is_none_or(|filters| {
                let least = if pid == client.pids()[0] { 3 } else { 4 };
                filters.parse::<u32>().unwrap() >= least
            })
        });
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            // The bounding set may be changed by who has the right to.
            let expected = set != "CapBnd" || rustix::process::geteuid().is_root();
            let value = status(pid, set).unwrap();
            assert_eq!(
                value.trim_matches('0').is_empty(),
                expected,
                "{set} {value}"
            );
        }
        assert_eq!(status(pid, "NoNewPrivs").unwrap(), "1");
        assert_eq!(status(pid, "Seccomp").unwrap(), "2");
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core"))
            .unwrap();
        assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
        let open: Vec<PathBuf> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .flatten()
            .filter_map(|entry| fs::read_link(entry.path()).ok())
            .collect();
        assert!(open.len() <= 12, "{open:?}");
    }
}

#[test]
fn it_becomes_another_user() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root may become another user");
        return;
    }
    let client = Client::start(Path::new(AGENT), Some((65534, 65534))).unwrap();
    for pid in client.pids() {
        assert_eq!(status(pid, "Uid").unwrap(), "65534\t65534\t65534\t65534");
        assert_eq!(status(pid, "Groups").unwrap(), "");
    }
    let found = client.search(&File::open(AGENT).unwrap(), None, Class::Prompt);
    assert_eq!(found.unwrap(), here(Path::new(AGENT)));
}

/// What neither of its processes can do, and what only the supervisor can.
#[test]
fn its_lists_hold() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "x").unwrap();
    let read = format!("read:{}", secret.display());
    let write = format!("write:{}", secret.display());
    let refused = [
        read.as_str(),
        &write,
        "raw-socket",
        "udp-socket",
        "packet-socket",
        "connect:127.0.0.1:9",
        "code",
        "execute:/bin/true",
        "openat",
        "statx",
        "newfstatat",
        "getdents64",
        "kill",
        "listen",
        "memfd_create",
        "prlimit64",
        "fcntl",
        "ioctl",
    ];
    let deadly = [
        "setuid",
        "setgroups",
        "ptrace",
        "bpf",
        "perf_event_open",
        "mount",
        "unshare",
        "setns",
        "init_module",
        "io_uring_setup",
        "capset",
    ];
    let attempt = |process: &str, what: &str| {
        let output = Command::new(AGENT)
            .args(["attempt", what, "--finder", process])
            .output()
            .unwrap();
        match (output.status.code(), output.status.signal()) {
            (Some(0), _) => "done",
            (Some(3), _) => "refused",
            (_, Some(libc::SIGSYS)) => "death",
            _ => panic!("{process} {what}: {output:?}"),
        }
    };
    for process in ["supervisor", "searcher"] {
        for what in refused {
            assert_eq!(attempt(process, what), "refused", "{process} {what}");
        }
        for what in deadly {
            assert_eq!(attempt(process, what), "death", "{process} {what}");
        }
    }
    // Landlock by itself, where the kernel has it.
    if tokentrail_agent::privilege::folders::available().is_none() {
        println!("skipped: no Landlock here");
    } else {
        assert_eq!(attempt("landlock", &read), "refused");
        assert_eq!(attempt("landlock", &write), "refused");
        assert_eq!(attempt("landlock", "udp-socket"), "done");
    }
    assert_eq!(attempt("supervisor", "fork"), "done");
    for what in ["fork", "seccomp", "pidfd_open"] {
        assert_eq!(attempt("searcher", what), "refused", "{what}");
    }
}

/// Starts a search that cannot be answered, since the searchers are stopped.
fn under_way(
    client: &Arc<Client>,
    path: &Path,
) -> std::thread::JoinHandle<Result<Found, SearchError>> {
    let (client, file) = (Arc::clone(client), File::open(path).unwrap());
    let thread = std::thread::spawn(move || client.search(&file, None, Class::Prompt));
    std::thread::sleep(Duration::from_millis(200));
    thread
}

#[test]
fn a_search_is_done_again_alone_when_a_searcher_ends() {
    let folder = tempfile::tempdir().unwrap();
    let library = compile(folder.path(), "library", "");
    let client = Arc::new(client());
    let many = client.pids()[1];
    signal(many, Signal::STOP);
    let first = under_way(&client, &library);
    let second = under_way(&client, Path::new(AGENT));
    signal(many, Signal::KILL);
    assert_eq!(first.join().unwrap().unwrap(), here(&library));
    assert_eq!(second.join().unwrap().unwrap(), here(Path::new(AGENT)));
    until("another is there", || {
        client.pids().len() == 3 && client.pids()[1] != many
    });
    let again = client.search(&File::open(&library).unwrap(), None, Class::Prompt);
    assert_eq!(again.unwrap(), here(&library));
}

#[test]
fn a_file_that_ends_a_searcher_twice_is_not_searched_again() {
    let folder = tempfile::tempdir().unwrap();
    let client = Arc::new(client());
    // A search that comes when a searcher is back is answered by it: then another file is searched.
    let deadly = (0..20).find_map(|number| {
        until("both are there", || client.pids().len() == 3);
        let [_, many, alone] = client.pids()[..] else {
            return None;
        };
        let library = compile(folder.path(), &format!("library{number}"), "");
        signal(many, Signal::STOP);
        signal(alone, Signal::STOP);
        let search = under_way(&client, &library);
        signal(many, Signal::KILL);
        until("the first has ended", || !client.pids().contains(&many));
        std::thread::sleep(Duration::from_millis(500));
        signal(alone, Signal::KILL);
        let outcome = search.join().unwrap();
        matches!(outcome, Err(SearchError::Deadly)).then_some(library)
    });
    let library = deadly.expect("a file that ended both searchers");
    let again = client.search(&File::open(&library).unwrap(), None, Class::Prompt);
    assert!(matches!(again, Err(SearchError::Deadly)), "{again:?}");
    // Others are searched.
    until("both are back", || client.pids().len() == 3);
    let other = client.search(&File::open(AGENT).unwrap(), None, Class::Prompt);
    assert_eq!(other.unwrap(), here(Path::new(AGENT)));
    // So is this one, once it is another.
    fs::write(&library, fs::read(AGENT).unwrap()).unwrap();
    client
        .search(&File::open(&library).unwrap(), None, Class::Prompt)
        .unwrap();
}

#[test]
fn a_stopped_finder_holds_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let library = compile(folder.path(), "library", "");
    let client = client().waiting_at_most(Duration::from_secs(2));
    let pids = client.pids();
    for pid in &pids {
        signal(*pid, Signal::STOP);
    }
    let file = File::open(&library).unwrap();
    for _ in 0..2 {
        let begin = Instant::now();
        let outcome = client.search(&file, None, Class::Prompt);
        assert!(
            matches!(outcome, Err(SearchError::NoAnswer(_))),
            "{outcome:?}"
        );
        assert!(begin.elapsed() < PATIENCE);
    }
    for pid in &pids {
        signal(*pid, Signal::CONT);
    }
    until("it answers again", || {
        client.search(&file, None, Class::Prompt).is_ok()
    });
    for pid in &pids {
        signal(*pid, Signal::STOP);
    }
    drop(client);
    for pid in &pids {
        let _ =
            Pid::from_raw(i32::try_from(*pid).unwrap()).map(|pid| kill_process(pid, Signal::CONT));
        until("it has ended", || status(*pid, "State").is_none());
    }
}

#[test]
fn it_ends_with_whom_it_serves_and_says_when_it_is_gone() {
    let first = client();
    let pids = first.pids();
    drop(first);
    for pid in pids {
        until("it has ended", || status(pid, "State").is_none());
    }

    let second = client();
    let pids = second.pids();
    signal(pids[0], Signal::KILL);
    for pid in &pids[1..] {
        until("its children have ended", || {
            status(*pid, "State").is_none()
        });
    }
    let outcome = second.search(&File::open(AGENT).unwrap(), None, Class::Prompt);
    assert!(matches!(outcome, Err(SearchError::Gone(_))), "{outcome:?}");

    // Who has started it is killed: the kernel closes the pipes, and nobody says good-bye.
    let (many, their_many) = Pipe::pair().unwrap();
    let (alone, their_alone) = Pipe::pair().unwrap();
    let mut child = Command::new(AGENT)
        .arg("finder")
        .stdin(Stdio::from(their_many))
        .stdout(Stdio::from(their_alone))
        .spawn()
        .unwrap();
    drop((many, alone));
    until("it has ended", || child.try_wait().unwrap().is_some());
}

#[test]
fn it_is_for_the_agent_alone() {
    let output = Command::new(AGENT)
        .arg("finder")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("for `run` alone"), "{said}");
}
