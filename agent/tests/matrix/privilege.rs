//! Least privilege: what each of the two processes has left, what a locked down one cannot do, and that each survives
//! the other's end.

use crate::support::agent::{self, Agent, Options};
use crate::support::clients::{CURL, Errand};
use crate::support::lab::Lab;
use crate::support::process::{Place, Program, Spec};
use crate::support::report::Cells;
use crate::support::servers::{Server, Wire};
use crate::support::token::Shape;
use crate::support::{nginx, seconds, turn, wait_for};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

/// Capabilities that the privileged process may have left (capabilities(7)): CAP_DAC_READ_SEARCH, CAP_KILL,
/// CAP_SYS_PTRACE, CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF, CAP_CHECKPOINT_RESTORE.
const KEPT: u64 = 1 << 2 | 1 << 5 | 1 << 19 | 1 << 21 | 1 << 38 | 1 << 39 | 1 << 40;

/// The user `nobody`, on Debian.
const NOBODY: u32 = 65534;

struct Status(String);

impl Status {
    fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        Ok(Self(std::fs::read_to_string(&path).context(path)?))
    }

    fn field(&self, name: &str) -> Result<&str> {
        let value = self
            .0
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(value.with_context(|| format!("no {name}"))?.trim())
    }

    fn is(&self, name: &str, expected: &str) -> Result<()> {
        let found = self.field(name)?;
        ensure!(found == expected, "{name} is {found}, not {expected}");
        Ok(())
    }

    fn capabilities(&self, name: &str) -> Result<u64> {
        Ok(u64::from_str_radix(self.field(name)?, 16)?)
    }
}

/// Every thread of a process.
fn threads(pid: u32) -> Result<Vec<u32>> {
    let folder = format!("/proc/{pid}/task");
    let entries = std::fs::read_dir(&folder).context(folder)?;
    let numbers = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().parse()?));
    numbers.collect()
}

/// What the file descriptors of a process are.
pub fn descriptors(pid: u32) -> Result<Vec<String>> {
    let folder = format!("/proc/{pid}/fd");
    let entries = std::fs::read_dir(&folder).context(folder)?;
    Ok(entries
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect())
}

fn worker_is_locked_down(pid: u32, user: &str) -> Result<()> {
    for thread in threads(pid)? {
        let status = Status::of(thread)?;
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            ensure!(status.capabilities(set)? == 0, "{set} of thread {thread}");
        }
        status.is("NoNewPrivs", "1")?;
        status.is("Seccomp", "2")?;
        let users = status.field("Uid")?.replace('\t', " ");
        ensure!(users == [user; 4].join(" "), "users {users}");
    }
    let open = descriptors(pid)?;
    for wrong in ["bpf-prog", "bpf_link", "perf_event", "btf"] {
        ensure!(!open.iter().any(|one| one.contains(wrong)), "{open:?}");
    }
    let maps = open.iter().filter(|one| one.contains("bpf-map")).count();
    ensure!(
        maps == 1,
        "it has {maps} maps, not the ring alone: {open:?}"
    );
    no_core(pid)
}

fn privileged_is_reduced(pid: u32) -> Result<()> {
    for thread in threads(pid)? {
        let status = Status::of(thread)?;
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            let found = status.capabilities(set)?;
            ensure!(found & !KEPT == 0, "{set} of thread {thread}: {found:x}");
        }
        for set in ["CapInh", "CapAmb"] {
            ensure!(status.capabilities(set)? == 0, "{set} of thread {thread}");
        }
        status.is("NoNewPrivs", "1")?;
        status.is("Seccomp", "2")?;
    }
    no_core(pid)
}

/// Not dumpable: then what `/proc` has of it belongs to root, whoever it runs as (proc(5)); and no core by size.
fn no_core(pid: u32) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let filter = std::fs::read_to_string(format!("/proc/{pid}/coredump_filter"))?;
    ensure!(filter.trim() == "00000000", "coredump_filter {filter}");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let core = limits.lines().find(|line| line.starts_with("Max core"));
    let words: Vec<_> = core.unwrap_or_default().split_whitespace().collect();
    ensure!(words.get(4) == Some(&"0"), "{core:?}");
    ensure!(
        std::fs::metadata(format!("/proc/{pid}/environ"))?.uid() == 0,
        "it is dumpable"
    );
    Ok(())
}

/// One request that must give its event.
fn is_seen(lab: &Lab, web: &Server, agent: &mut Agent, cell: &str) -> Result<()> {
    let errand = Errand {
        lab,
        target: web.target(Wire::Tls13),
        path: lab.cell_path(cell),
        credential: Shape::Anthropic.generate(),
    };
    CURL.run(&errand, &lab.inside())?;
    let fingerprint = agent.fingerprint(&errand.credential)?;
    let seen = agent.wait_until(seconds(20), |events| {
        events
            .iter()
            .any(|event| event.fingerprints().contains(&fingerprint.as_str()))
    })?;
    ensure!(seen, "no event of {cell}");
    Ok(())
}

#[test]
fn two_processes() {
    let Some(_turn) = turn("two_processes") else {
        return;
    };
    let lab = Lab::new("two-processes").unwrap();
    let mut cells = Cells::new("two_processes");
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    // The worker's own user makes the spool in it: every folder above it must let that user through.
    let state = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(state.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let spool = state.path().join("spool");
    for (name, own, id) in [("same-user", false, 0), ("own-user", true, NOBODY)] {
        let mut options = Options::scope_of(&lab).unwrap();
        if own {
            let text = format!(
                "[agent]\nuser = \"nobody\"\n[spool]\npath = \"{}\"\n",
                spool.display()
            );
            configure(&lab, &mut options, &text).unwrap();
        }
        let mut agent = Agent::start_with(&lab, &options).unwrap();
        let worker = agent.worker_pid().unwrap();
        cells.check(
            &format!("{name}-worker"),
            worker_is_locked_down(worker, &id.to_string()),
        );
        cells.check(
            &format!("{name}-privileged"),
            privileged_is_reduced(agent.pid()),
        );
        cells.check(
            &format!("{name}-events"),
            is_seen(&lab, &web, &mut agent, name),
        );
        cells.check(&format!("{name}-stop"), agent.stop().map(drop));
        if own {
            cells.check("own-user-spool", belongs_to(&spool, id));
        }
    }
    cells.finish();
}

fn belongs_to(path: &Path, user: u32) -> Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let owner = std::fs::metadata(path)?.uid();
    ensure!(owner == user, "{} belongs to {owner}", path.display());
    Ok(())
}

/// The configuration file of the options.
fn configure(lab: &Lab, options: &mut Options, text: &str) -> Result<()> {
    let path = lab.path("agent.toml");
    std::fs::write(&path, text)?;
    options
        .args
        .extend(["--config".to_owned(), path.to_string_lossy().into_owned()]);
    Ok(())
}

/// What a process that is locked down as the worker is makes of an attempt.
fn attempt(lab: &Lab, more: &[&str], what: &str) -> Result<Outcome> {
    let program = Program::start(
        &Spec::new(agent::program())
            .args(["attempt", what, "--write"])
            .arg(lab.path("out"))
            .args(more.iter().copied()),
        &Place::default(),
    )?;
    let finished = program.finish()?;
    Ok(match (finished.status.code(), finished.status.signal()) {
        (Some(0), _) => Outcome::Done,
        (Some(3), _) => Outcome::Refused,
        (_, Some(signal)) if signal == Signal::SYS.as_raw() => Outcome::Death,
        _ => bail!(
            "{}: {:?} {}",
            finished.status,
            finished.stdout,
            finished.stderr
        ),
    })
}

#[derive(Debug, PartialEq)]
enum Outcome {
    Done,
    Refused,
    /// The filter's strongest answer.
    Death,
}

fn comes_to(found: Result<Outcome>, expected: Outcome) -> Result<()> {
    let found = found?;
    ensure!(found == expected, "{found:?}, not {expected:?}");
    Ok(())
}

#[test]
fn a_locked_down_process_cannot() {
    let Some(_turn) = turn("a_locked_down_process_cannot") else {
        return;
    };
    let lab = Lab::without_cgroups("locked-down").unwrap();
    let mut cells = Cells::new("a_locked_down_process_cannot");
    let landlock = landlock_abi().unwrap();
    std::fs::create_dir(lab.path("out")).unwrap();
    let own = lab.path("out/file").to_string_lossy().into_owned();
    let other = lab.path("private.pem").to_string_lossy().into_owned();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let port = address.port().to_string();

    let death = [
        "setuid",
        "setresuid",
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
    for what in death {
        cells.check(what, comes_to(attempt(&lab, &[], what), Outcome::Death));
    }
    let refused = [
        "clone",
        "listen",
        "code",
        "raw-socket",
        "packet-socket",
        "netlink-socket",
    ];
    for what in refused {
        cells.check(what, comes_to(attempt(&lab, &[], what), Outcome::Refused));
    }
    // The library makes a process first, which is refused already.
    for program in ["/bin/true", "/proc/self/exe"] {
        let found = attempt(&lab, &[], &format!("execute:{program}"));
        cells.check(
            &format!("execute {program}"),
            comes_to(found, Outcome::Refused),
        );
    }
    // What it is for still works.
    for what in [
        "read:/proc/self/status",
        "udp-socket",
        &format!("write:{own}"),
    ] {
        cells.check(what, comes_to(attempt(&lab, &[], what), Outcome::Done));
    }
    let files = [
        "read:/etc/shadow",
        "read:/etc/passwd",
        "read:/proc/1/environ",
        "write:/etc/tokentrail-test",
    ];
    let secret = [format!("read:{other}"), format!("write:{other}")];
    for what in files.into_iter().chain(secret.iter().map(String::as_str)) {
        if landlock == 0 {
            cells.skip(what, "this kernel has no Landlock");
            continue;
        }
        cells.check(what, comes_to(attempt(&lab, &[], what), Outcome::Refused));
    }
    let connect = format!("connect:{address}");
    if landlock < 4 {
        cells.skip("connect", "this kernel's Landlock knows no ports");
    } else {
        let elsewhere = attempt(&lab, &["--connect", "1"], &connect);
        cells.check("connect-elsewhere", comes_to(elsewhere, Outcome::Refused));
    }
    let there = attempt(&lab, &["--connect", &port], &connect);
    cells.check("connect", comes_to(there, Outcome::Done));
    // A user of its own is kept from files without Landlock, too.
    std::fs::write(lab.path("out/secret"), "x").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(lab.path("out/secret"), mode).unwrap();
    let secret = format!("read:{}", lab.path("out/secret").display());
    cells.check(
        "same-user",
        comes_to(attempt(&lab, &[], &secret), Outcome::Done),
    );
    let found = attempt(&lab, &["--user", "65534"], &secret);
    cells.check("own-user", comes_to(found, Outcome::Refused));
    cells.finish();
}

/// 0: none.
fn landlock_abi() -> Result<u64> {
    let spec = Spec::new(agent::program()).args(["doctor", "--json"]);
    let finished = Program::start(&spec, &Place::default())?.finish()?;
    let report: serde_json::Value = serde_json::from_str(&finished.stdout.join("\n"))?;
    Ok(report["least_privilege"]["landlock_abi"]
        .as_u64()
        .unwrap_or(0))
}

fn kill(pid: u32) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).context("pid")?;
    Ok(rustix::process::kill_process(pid, Signal::KILL)?)
}

fn is_gone(pid: u32) -> bool {
    wait_for(seconds(30), || {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    })
    .is_some()
}

#[test]
fn each_survives_the_others_end() {
    let Some(_turn) = turn("each_survives_the_others_end") else {
        return;
    };
    let lab = Lab::new("others-end").unwrap();
    let mut cells = Cells::new("each_survives_the_others_end");
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();

    let mut agent = Agent::start(&lab).unwrap();
    cells.check(
        "before-worker",
        is_seen(&lab, &web, &mut agent, "before-worker"),
    );
    kill(agent.worker_pid().unwrap()).unwrap();
    cells.check("worker", worker_killed(agent));

    let mut agent = Agent::start(&lab).unwrap();
    let worker = agent.worker_pid().unwrap();
    cells.check(
        "before-privileged",
        is_seen(&lab, &web, &mut agent, "before-privileged"),
    );
    kill(agent.pid()).unwrap();
    cells.check("privileged", privileged_killed(agent, worker));

    // Nothing of them is in the way of the next.
    let mut agent = Agent::start(&lab).unwrap();
    cells.check("after", is_seen(&lab, &web, &mut agent, "after"));
    cells.check("after-stop", agent.stop().map(drop));
    cells.finish();
}

fn worker_killed(agent: Agent) -> Result<()> {
    let (status, _, stderr) = agent.ended()?;
    ensure!(status.code() == Some(1), "it ended with {status}: {stderr}");
    for words in [
        "the probes are detached",
        "the worker ended by itself: signal 9",
    ] {
        ensure!(stderr.contains(words), "nothing says {words:?}: {stderr}");
    }
    Ok(())
}

fn privileged_killed(agent: Agent, worker: u32) -> Result<()> {
    let (_, lines, stderr) = agent.ended()?;
    ensure!(is_gone(worker), "the worker goes on");
    ensure!(
        stderr.contains("the privileged process is gone"),
        "the worker says nothing: {stderr}"
    );
    let last = lines.last().context("nothing was given out")?;
    ensure!(last.contains("agent_stopped"), "the last event is {last}");
    ensure!(!stderr.contains("panicked"), "{stderr}");
    Ok(())
}

#[test]
fn reload() {
    let Some(_turn) = turn("reload") else { return };
    let lab = Lab::new("reload").unwrap();
    let mut cells = Cells::new("reload");
    let web = nginx::start(&lab, &lab.inside(), None).unwrap();
    let mut options = Options::scope_of(&lab).unwrap();
    let events = lab.path("out");
    std::fs::create_dir(&events).unwrap();
    let file = events.join("events.ndjson");
    let text = |more: &str| {
        format!(
            "[file]\npath = \"{}\"\nrotate_bytes = 4096\nkeep = 2\n{more}",
            file.display()
        )
    };
    configure(&lab, &mut options, &text("")).unwrap();
    let mut agent = Agent::start_with(&lab, &options).unwrap();
    cells.check("before", is_seen(&lab, &web, &mut agent, "before"));

    let path = lab.path("agent.toml");
    for (cell, content, words) in [
        (
            "refused",
            "[limits]\nconections = 5\n".to_owned(),
            "unknown field `conections`",
        ),
        (
            "taken",
            text("[credential]\ncookies = [\"sid\"]\n[capture]\nring_bytes = 65536\n"),
            "capture.ring_bytes has changed, which needs a restart",
        ),
    ] {
        std::fs::write(&path, content).unwrap();
        agent.signal(Signal::HUP).unwrap();
        let said = wait_for(seconds(20), || agent.stderr().contains(words).then_some(()));
        let said = said.with_context(|| format!("nothing says {words:?}: {}", agent.stderr()));
        cells.check(cell, said);
    }
    let changed = agent.wait_until(seconds(20), |events| {
        events
            .iter()
            .any(|event| event.action() == Some("config_changed"))
    });
    let changed = changed.and_then(|found| {
        let line = agent
            .lines
            .iter()
            .find(|line| line.contains("config_changed"));
        ensure!(
            found && line.is_some_and(|line| line.contains("credential.cookies")),
            "{line:?}"
        );
        Ok(())
    });
    cells.check("event", changed);
    cells.check("after", is_seen(&lab, &web, &mut agent, "after"));
    cells.check("stop", agent.stop().map(drop));
    // The file was rotated by the locked down worker, and each file has whole lines; a new one is empty while its name is
    // made durable.
    cells.check("rotation", rotated(&file));
    cells.finish();
}

fn rotated(file: &Path) -> Result<()> {
    let older = file.with_extension("ndjson.1");
    for path in [file, &older] {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        ensure!(
            text.ends_with('\n'),
            "{} ends within a line",
            path.display()
        );
        for line in text.lines() {
            serde_json::from_str::<serde_json::Value>(line)?;
        }
    }
    Ok(())
}

/// The pipe's command is of no use to anybody else.
#[test]
fn the_worker_alone_refuses() {
    let Some(_turn) = turn("the_worker_alone_refuses") else {
        return;
    };
    let program = Program::start(
        &Spec::new(agent::program()).arg("worker"),
        &Place::default(),
    );
    let finished = program.unwrap().finish().unwrap();
    assert!(!finished.status.success());
    assert!(
        finished.stderr.contains("not its pipe"),
        "{}",
        finished.stderr
    );
}
