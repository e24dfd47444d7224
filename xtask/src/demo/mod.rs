//! `cargo xtask demo`: the main job, on real programs, in front of one's eyes.
//!
//! A cgroup is made and an agent watches it; nginx serves in it over cleartext and TLS, and programs that people use
//! call it, each with a credential that was generated for this run. The agent's table is shown as it is written, then
//! what was expected is held against the agent's events. Where this kernel or this user may not load probes the same
//! is done in a virtual machine.
//!
//! Invariant: the agent's scope is the demo's own cgroup, so nothing else on the machine is looked at.
//! Invariant: when it ends, in whatever way, its processes, its cgroup and its mounts are gone; its folder stays.

mod agent;
mod cast;
pub mod cgroup;
mod secret;
mod verdict;

use crate::build::{self, Profile};
use crate::process::Group;
use crate::server::{Server, Shape};
use crate::setup::{self, Needs};
use crate::vm::Guest;
use crate::workspace::Workspace;
use crate::{interrupt, say};
use agent::{Agent, Refused};
use anyhow::{Context, Result};
use cgroup::Cgroup;
use clap::Args;
use rustix::process::geteuid;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use verdict::Expected;

#[derive(Args)]
pub struct Options {
    /// Run it in a virtual machine, under Debian's newest kernel
    #[arg(long)]
    vm: bool,
    /// Build the agent with optimisation
    #[arg(long)]
    release: bool,
    /// This is the virtual machine: play with what was built outside
    #[arg(long, hide = true, requires = "folder", requires = "agent")]
    inside: bool,
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
    #[arg(long, hide = true)]
    agent: Option<PathBuf>,
}

const SHAPE: Shape = Shape {
    main: "",
    connections: 64,
    http: "ssl_protocols TLSv1.2 TLSv1.3;",
    listen: "",
    locations: r#"location /refused/ { return 401 '{"error":"invalid_token"}\n'; }"#,
};

/// How long things may take: a machine without hardware virtualisation is ten to twenty times slower.
#[derive(Clone, Copy)]
struct Pace(u32);

impl Pace {
    const HERE: Self = Self(1);
    const EMULATED: Self = Self(15);

    fn seconds(self, count: u64) -> Duration {
        Duration::from_secs(count) * self.0
    }
}

/// For the machine's boot and the play together.
const MACHINE_LIMIT: Duration = Duration::from_secs(600);

/// Returns whether everything that was expected was seen.
pub fn run(workspace: &Workspace, options: &Options) -> Result<bool> {
    if let (true, Some(folder), Some(agent)) = (options.inside, &options.folder, &options.agent) {
        return play(workspace, agent, folder, Pace::EMULATED);
    }
    let is_root = geteuid().is_root();
    let vm = options.vm || !is_root;
    say::heading("setup");
    setup::require(workspace, Needs::DEMO.with_vm(vm))?;
    let profile = Profile {
        release: options.release,
        ..Profile::DEV
    };
    let program = build::run(workspace, profile)?;
    let folder = make_folder(workspace)?;
    if !is_root {
        say::line("   only root may load probes, so the demo runs in a virtual machine");
    }
    if vm {
        return play_in_machine(workspace, &program, &folder);
    }
    match play(workspace, &program, &folder, Pace::HERE) {
        Err(error) if error.is::<Refused>() => {
            say::line(&format!(" ! {error}"));
            say::line("   so the demo runs in a virtual machine, which takes a few minutes");
            setup::require(workspace, Needs::DEMO.with_vm(true))?;
            play_in_machine(workspace, &program, &folder)
        }
        outcome => outcome,
    }
}

/// `demo/<seconds since 1970>` in the target folder.
fn make_folder(workspace: &Workspace) -> Result<PathBuf> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let folder = workspace.target.join("demo").join(now.to_string());
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn play_in_machine(workspace: &Workspace, agent: &Path, folder: &Path) -> Result<bool> {
    let machines = setup::kernel_images(workspace);
    let machine = machines
        .last()
        .context("no kernel for a virtual machine: cargo xtask setup --vm")?;
    say::heading(&format!(
        "demo in a virtual machine with Linux {}",
        machine.release
    ));
    say::line("   booting, which takes a minute where there is no hardware virtualisation ...");
    let status = Guest {
        machine,
        command: vec![
            std::env::current_exe()?.display().to_string(),
            "demo".to_owned(),
            "--inside".to_owned(),
            "--folder".to_owned(),
            folder.display().to_string(),
            "--agent".to_owned(),
            agent.display().to_string(),
        ],
        environment: workspace.environment(),
        writable: vec![folder.to_path_buf()],
        readable: workspace.folders(),
        limit: MACHINE_LIMIT,
    }
    .run(workspace, |line| println!("{line}"))?;
    Ok(status.success())
}

/// The demo itself.
fn play(workspace: &Workspace, program: &Path, folder: &Path, pace: Pace) -> Result<bool> {
    say::heading("demo");
    let start = Instant::now();
    let cgroup = Cgroup::make(&folder.join("cgroup"))?;
    // Declared in this order so that on every way out the clients and nginx end before the agent, it before the
    // cgroup.
    let mut agent = Agent::start(program, cgroup.folder(), folder, pace.seconds(15))?;
    let server = Server::start(&cgroup, &folder.join("nginx"), &SHAPE, pace.seconds(5))?;
    say::line(&format!(
        "   scope: the cgroup {} and nothing else\n   server: nginx at http://localhost:{} and https://localhost:{}\n",
        cgroup.folder().display(),
        server.site.http,
        server.site.https
    ));
    let mut expected = Vec::new();
    for act in cast::cast(&server.site, &setup::python(workspace))? {
        let fingerprint = agent.fingerprint(&act.secret)?;
        let (pid, failed) = perform(&act, expected.len(), &cgroup, folder, pace)?;
        expected.push(Expected {
            act,
            fingerprint,
            pid,
            failed,
        });
    }
    wait_for_events(&agent, &expected, pace.seconds(3))?;
    let status = agent.stop(pace.seconds(5));
    drop(server);

    let text = fs::read_to_string(&agent.events)
        .with_context(|| format!("cannot read {}", agent.events.display()))?;
    let verdict = verdict::judge(&expected, &verdict::events(&text));
    let stopped_well = status.is_some_and(|status| status.success());
    println!();
    println!("== what was expected, and what was seen");
    for line in verdict.lines() {
        println!("{line}");
    }
    if !stopped_well {
        println!(
            " ! the agent did not stop cleanly ({})",
            status.map_or_else(|| "unknown".to_owned(), |status| status.to_string())
        );
    }
    println!("   events as NDJSON: {}", agent.events.display());
    println!("   the agent's log:  {}", agent.log.display());
    println!("   took {}", say::elapsed(start.elapsed()));
    Ok(verdict.is_good() && stopped_well)
}

/// Runs one client to its end and returns its process id, and how it failed if it did.
fn perform(
    act: &cast::Act,
    number: usize,
    cgroup: &Cgroup,
    folder: &Path,
    pace: Pace,
) -> Result<(u32, Option<String>)> {
    let programs = folder.join("programs");
    fs::create_dir_all(&programs)?;
    let name = act.name.replace(' ', "-");
    let log = programs.join(format!("{:02}-{name}.log", number + 1));
    let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = act.command(cgroup);
    let mut group = Group::spawn(command.stdout(file.try_clone()?).stderr(file))?;
    let outcome = group.wait(Some(pace.seconds(10)));
    interrupt::check()?;
    let failed = match outcome {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("{status}, see {}", log.display())),
        // Not the error's own words: they hold the command line, and that holds the credential.
        Err(_) => Some("it did not end in time".to_owned()),
    };
    Ok((group.id(), failed))
}

/// Until every expected event is there, or `limit` is over.
fn wait_for_events(agent: &Agent, expected: &[Expected], limit: Duration) -> Result<()> {
    let start = Instant::now();
    while agent.is_running() && start.elapsed() < limit {
        interrupt::check()?;
        let text = fs::read_to_string(&agent.events).unwrap_or_default();
        if verdict::complete(expected, &verdict::events(&text)) {
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}
