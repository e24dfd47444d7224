//! Files that are searched before they are executed, so that a program's very first handshake is read: made executable by
//! a process in scope, or in a folder of PATH as that process sees it. And what is written and run at once, measured.

use crate::support::agent::{Agent, Options};
use crate::support::clients::{CLIENTS, Call, Errand};
use crate::support::expect::{Expectations, Expected, LATE, Who, stop, unread_in};
use crate::support::lab::Lab;
use crate::support::process::{Place, Program, Spec};
use crate::support::report::Cells;
use crate::support::servers::{Server, Wire};
use crate::support::{fixtures, host_scope, nginx, repeat, say, seconds, token, turn, wait_for};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Copies of the program in each way: each is a file of its own.
const COPIES: usize = 5;
/// Of what is written and run at once.
const AT_ONCE: usize = 20;

/// Becomes the program of this file, from a copy in memory (memfd_create(2)).
const FROM_MEMORY: &str = "
import os, sys
memory = os.memfd_create('client')
with open(sys.argv[1], 'rb') as program:
    os.sendfile(memory, program.fileno(), None, os.fstat(program.fileno()).st_size)
os.execve(memory, ['client'], dict(os.environ))
";
const IN_MEMORY: &str = "/memfd:client (deleted)";

/// Why a first handshake is not read here: late, or made by a thread that was on its way into being while the others got
/// their breakpoints (between `perf_event_init_task` and its being listed, in `copy_process`, kernel/fork.c).
const FIRST: [&str; 3] = [LATE[0], LATE[1], "no_secret"];

/// What a search says in the log.
const LOG: &str = "info,tokentrail_agent::kernel::attach=debug";

struct Stage<'a> {
    lab: &'a Lab,
    web: Server,
    agent: Agent,
    cells: Cells,
    expected: Expectations,
    /// Clients' events that are read, or listed.
    first: Vec<(&'static str, Expected)>,
}

#[test]
fn searched_ahead() {
    let Some(_turn) = turn("searched_ahead") else {
        return;
    };
    let mut cells = Cells::new("searched_ahead");
    let program = match fixtures::go_client() {
        Ok(program) => program,
        Err(error) => {
            cells.skip("all", &format!("{error:#}"));
            return cells.finish();
        }
    };
    let lab = Lab::new("searched-ahead").unwrap();
    let web = nginx::start(&lab, &lab.outside(), None).unwrap();
    let options = Options {
        log: Some(LOG),
        ..Options::scope_of(&lab).unwrap()
    };
    let mut stage = Stage {
        agent: Agent::start_with(&lab, &options).unwrap(),
        lab: &lab,
        web,
        cells,
        expected: Expectations::default(),
        first: Vec::new(),
    };
    for number in 0..COPIES {
        let cell = format!("made-{number:02}");
        let made = stage.made_executable(&program, &cell);
        stage.took("made", &cell, made);
        let cell = format!("path-{number:02}");
        let made = stage.on_the_path(&program, &cell, number);
        stage.took("path", &cell, made);
    }
    for number in 0..repeat(AT_ONCE) {
        let cell = format!("at-once-{number:02}");
        let made = stage.at_once(&program, &cell);
        stage.took("at-once", &cell, made);
    }
    for number in 0..COPIES {
        let cell = format!("memory-{number:02}");
        let made = stage.in_memory(&program, &cell);
        stage.took("memory", &cell, made);
    }
    stage.conclude();
}

impl Stage<'_> {
    /// Copied and made executable by processes in scope, searched, and run.
    fn made_executable(&mut self, program: &Path, cell: &str) -> Result<Vec<Expected>> {
        let copy = self.lab.path(cell);
        let mut shell = self.shell(&self.lab.inside(), &[])?;
        // Written by another program than the one that makes it executable, and without that bit until then.
        shell.send(&format!(
            "cat {} >{1} && chmod +x {1} && echo done\n",
            program.display(),
            copy.display()
        ))?;
        ensure!(shell.line()? == "done", "the copy was not made");
        let metadata = std::fs::metadata(&copy)?;
        self.searched(metadata.ino(), metadata.size())?;
        self.run(shell, &copy, cell)
    }

    /// In a folder of PATH that only processes of one mount namespace see: put there by somebody out of scope, found when
    /// a process of the scope is met that sees it. Each is larger by `number` bytes: their inodes have the same numbers.
    fn on_the_path(&mut self, program: &Path, cell: &str, number: usize) -> Result<Vec<Expected>> {
        let alone = ["/usr/bin/unshare", "--mount", "--propagation", "private"];
        let mut shell = self.shell(&self.lab.outside(), &alone)?;
        let name = format!("/usr/local/bin/tokentrail-{cell}");
        shell.send(&format!(
            "mount -t tmpfs none /usr/local/bin && cp {} {name} && chmod 755 {name} && head -c {number} /dev/zero >>{name} && stat -c '%i %s' {name}\n",
            program.display()
        ))?;
        let line = shell.line()?;
        let (inode, size) = line.split_once(' ').context("inode and size")?;
        let procs = self.lab.inside().procs.context("a cgroup in scope")?;
        shell.send(&format!("echo $$ >{} && /bin/true\n", procs.display()))?;
        self.searched(inode.parse()?, size.parse()?)?;
        self.run(shell, Path::new(&name), cell)
    }

    /// Written and run in one go.
    fn at_once(&mut self, program: &Path, cell: &str) -> Result<Vec<Expected>> {
        let copy = self.lab.path(cell);
        let mut shell = self.shell(&self.lab.inside(), &[])?;
        shell.send(&format!("cp {} {} && ", program.display(), copy.display()))?;
        self.run(shell, &copy, cell)
    }

    /// Executed from memory, without a name in any folder.
    fn in_memory(&mut self, program: &Path, cell: &str) -> Result<Vec<Expected>> {
        let script = self.lab.path("memory.py");
        std::fs::write(&script, FROM_MEMORY)?;
        let shell = self.shell(&self.lab.inside(), &[])?;
        let command = format!(
            "/usr/bin/python3 -I {} {}",
            script.display(),
            program.display()
        );
        self.run_by(shell, &command, Path::new(IN_MEMORY), cell)
    }

    /// A shell that does what it is told, line by line. `by` runs it.
    fn shell(&self, place: &Place, by: &[&str]) -> Result<Program> {
        let mut words = by.iter().copied().chain(["/bin/sh"]);
        let spec = Spec::new(words.next().context("a program")?).args(words);
        Program::start(&spec.folder(self.lab.folder()), place)
    }

    /// Waits until the agent has searched this file, which no process has executed.
    fn searched(&self, inode: u64, size: u64) -> Result<()> {
        let words = [format!("inode={inode} "), format!("size={size} ")];
        let is_it = |line: &str| {
            line.contains("searched ahead") && words.iter().all(|word| line.contains(word))
        };
        let said = || self.agent.stderr().lines().any(is_it).then_some(());
        wait_for(seconds(60), said).with_context(|| format!("inode {inode} was not searched"))
    }

    /// The shell becomes the program, which makes one request.
    fn run(&mut self, shell: Program, program: &Path, cell: &str) -> Result<Vec<Expected>> {
        let command = program.display().to_string();
        self.run_by(shell, &command, program, cell)
    }

    /// The same by a command that becomes the program.
    fn run_by(
        &mut self,
        mut shell: Program,
        command: &str,
        program: &Path,
        cell: &str,
    ) -> Result<Vec<Expected>> {
        let client = CLIENTS.iter().find(|client| client.name == "go");
        let errand = Errand {
            lab: self.lab,
            target: self.web.target(Wire::Tls13),
            path: self.lab.cell_path(cell),
            credential: token::opaque(),
        };
        let call: Call = client.context("the Go client")?.call(&errand)?;
        let pid = shell.pid();
        // A shell reads ahead of the line that it is at.
        let plan = self.lab.path(&format!("{cell}.plan"));
        std::fs::write(&plan, &call.spec.stdin)?;
        shell.send(&format!("exec {command} <{}\n", plan.display()))?;
        shell.finish()?.said_200()?;
        let fact = self.web.fact(&call.path)?;
        let executable = program.to_owned();
        let credential = &errand.credential;
        let mut made = vec![Expected::client(
            cell,
            credential,
            &fact,
            Who::Is(pid),
            executable,
        )];
        if host_scope() {
            made.push(Expected::server(cell, credential, &fact, &self.web));
        }
        Ok(made)
    }

    fn took(&mut self, way: &'static str, cell: &str, made: Result<Vec<Expected>>) {
        match made {
            Ok(made) => {
                let mut made = made.into_iter();
                self.first.extend(made.next().map(|first| (way, first)));
                // The server's library is known.
                self.expected.add(made);
            }
            Err(error) => self.cells.check(cell, Err(error)),
        }
    }

    /// Each first handshake is read, or listed with its reason; how many of each way are read is said.
    fn conclude(mut self) {
        let fingerprints: Vec<_> = self
            .first
            .iter()
            .map(|(_, first)| {
                let fingerprint = self.agent.fingerprint(&first.credential);
                fingerprint.expect("fingerprints can be told")
            })
            .collect();
        for (_, first) in &self.first {
            self.expected.whatever(&first.credential);
        }
        self.expected
            .check(&mut self.agent, &mut self.cells)
            .expect("the agent's events can be read");
        self.expected
            .no_strangers(&self.agent, &mut self.cells)
            .expect("fingerprints can be told");
        let Some(stopped) = stop(self.agent, &mut self.cells) else {
            return self.cells.finish();
        };
        for way in ["made", "path", "at-once", "memory"] {
            let of_way = self.first.iter().zip(&fingerprints);
            let of_way: Vec<_> = of_way.filter(|((one, _), _)| *one == way).collect();
            let mut read = 0;
            for ((_, first), fingerprint) in &of_way {
                let seen = stopped
                    .events
                    .iter()
                    .any(|event| first.is_about(fingerprint, event));
                read += usize::from(seen);
                let listed = || {
                    let (local, peer) = first.ends.context("its ends")?;
                    unread_in(&stopped.events, local, peer, &FIRST).map(drop)
                };
                let result = if seen { Ok(()) } else { listed() };
                self.cells
                    .check(&first.cell, result.context("neither read nor listed"));
            }
            say(&format!(
                "first handshakes read, {way}: {read} of {}",
                of_way.len()
            ));
            // How many are is measured: on a busy machine a program may be faster than whoever attaches.
            if matches!(way, "made" | "path") {
                let any = (read > 0).then_some(()).context("none was read");
                self.cells.check(&format!("{way}-read"), any);
            }
        }
        self.cells.finish();
    }
}
