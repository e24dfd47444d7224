//! What the tests stand on: compiled programs, targets, and a keeper whose programs count.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokentrail_agent::kernel::keeper::{
    Attachment, Keeper, Lost, Place, Program, Programs, Refused, Request, Scope, Started, Way,
    trial::Counter,
};
use tokentrail_agent::kernel::keylog::FileState;
use tokentrail_agent::kernel::scope::start_ticks;

/// How long anything may take; nothing here is a measure of speed.
pub const LONG: Duration = Duration::from_secs(60);

static TURN: Mutex<()> = Mutex::new(());

/// One test after the other, since attaching waits for attaching. `None`, with the reason said, where these cannot run.
pub fn turn(test: &str) -> Option<MutexGuard<'static, ()>> {
    let refused = if !geteuid().is_root() {
        Some("only root may attach".to_owned())
    } else if let Err(error) = Counter::load() {
        Some(format!("this kernel refuses programs: {error}"))
    } else {
        programs().as_ref().err().map(|error| format!("{error:#}"))
    };
    if let Some(reason) = refused {
        eprintln!("skipped {test}: {reason}");
        return None;
    }
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The folder with the compiled programs.
fn programs() -> &'static Result<TempDir> {
    static PROGRAMS: OnceLock<Result<TempDir>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let folder = tempfile::tempdir()?;
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/keeper/programs");
        for (source, library) in [
            ("point", true),
            ("sum", true),
            ("use", false),
            ("write", false),
            ("target", false),
        ] {
            let mut command = Command::new("gcc");
            command.args(["-O1", "-pthread", "-o"]);
            command.arg(folder.path().join(source));
            if library {
                command.args(["-shared", "-fPIC"]);
            }
            let source = sources.join(source).with_extension("c");
            let status = command
                .arg(source)
                .arg("-ldl")
                .status()
                .context("run gcc")?;
            ensure!(status.success(), "gcc: {status}");
        }
        Ok(folder)
    })
}

pub fn program(name: &str) -> PathBuf {
    programs().as_ref().unwrap().path().join(name)
}

/// Waits for a condition.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {LONG:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A folder with a copy of the library that is attached to.
pub struct Library {
    _folder: TempDir,
    pub path: PathBuf,
}

impl Library {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("library.so");
        fs::copy(program("point"), &path).unwrap();
        Self {
            _folder: folder,
            path,
        }
    }

    /// Another file at the same place, as it was at first.
    pub fn renew(&self) {
        let new = self.path.with_extension("new");
        fs::copy(program("point"), &new).unwrap();
        fs::rename(&new, &self.path).unwrap();
    }

    /// Whether a new process that loads what is there now computes what it should.
    pub fn is_right(&self) -> Result<()> {
        let status = Command::new(program("use")).arg(&self.path).status()?;
        ensure!(status.success(), "the new content: {status}");
        Ok(())
    }
}

/// A process that has the library mapped and calls its function when it is told to.
pub struct Target {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    address: u64,
    offset: u64,
}

impl Target {
    pub fn start(library: &Path) -> Self {
        let mut child = Command::new(program("target"))
            .arg(library)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        answers.read_line(&mut line).unwrap();
        let address = u64::from_str_radix(line.trim().trim_start_matches("0x"), 16).unwrap();
        let maps = fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
        let offset = maps
            .lines()
            .find_map(|line| {
                let mut fields = line.split_whitespace();
                let (start, end) = fields.next()?.split_once('-')?;
                let number = |text| u64::from_str_radix(text, 16).ok();
                let (start, end) = (number(start)?, number(end)?);
                let first = number(fields.nth(1)?)?;
                (start..end)
                    .contains(&address)
                    .then(|| address - start + first)
            })
            .unwrap();
        Self {
            child,
            orders,
            answers,
            address,
            offset,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn tell(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        assert_eq!(line, "done\n", "{order}");
    }

    /// Whether its text has a breakpoint.
    pub fn has_breakpoint(&self) -> bool {
        use std::os::unix::fs::FileExt;
        let memory = File::open(format!("/proc/{}/mem", self.pid())).unwrap();
        let mut byte = [0];
        memory.read_exact_at(&mut byte, self.address).unwrap();
        byte[0] == 0xcc
    }

    pub fn end(&mut self) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.end();
    }
}

/// A keeper whose programs count, and what it lost.
pub struct Kept {
    pub counter: Counter,
    pub keeper: Keeper,
    lost: Arc<Mutex<Vec<Lost>>>,
}

impl Kept {
    pub fn start(way: Way) -> Option<Self> {
        let counter = Counter::load().unwrap();
        let programs = Programs::counting(&counter, way == Way::Multi).unwrap();
        let agent = Path::new(env!("CARGO_BIN_EXE_tokentrail-agent"));
        let started = Started::start(agent, &programs).unwrap();
        if started.facts().way != way {
            eprintln!("skipped {way}: {:?}", started.facts().no_multi);
            return None;
        }
        let lost = Arc::<Mutex<Vec<Lost>>>::default();
        let keeper = started
            .follow({
                let lost = Arc::clone(&lost);
                move |what| lost.lock().unwrap().push(what)
            })
            .unwrap();
        Some(Self {
            counter,
            keeper,
            lost,
        })
    }

    pub fn hits(&self) -> u64 {
        self.counter.hits().unwrap()
    }

    pub fn attach(
        &self,
        library: &Path,
        target: &Target,
        scope: Scope,
    ) -> Result<Attachment, Refused> {
        let file = File::open(library).unwrap();
        self.keeper.attach(&request(&file, target, scope))
    }

    /// Makes a round, and again if it met the end of a keeper: the watch ends one that a busy machine has stopped for
    /// 50 ms, as it must. What is wrong with files and processes is no reason to.
    pub fn round<T>(&self, mut make: impl FnMut() -> Result<T, Restarted>) -> T {
        const MOST: usize = 10;
        let made = (0..MOST).find_map(|_| match make() {
            Ok(made) => Some(made),
            Err(Restarted(why)) => {
                eprintln!("once more: {why}");
                None
            }
        });
        made.expect("a round with one keeper")
    }

    /// Attaches, in a round.
    pub fn attach_or_again(
        &self,
        library: &Path,
        target: &Target,
        scope: Scope,
    ) -> Result<Attachment, Restarted> {
        again(self.attach(library, target, scope))
    }

    /// Waits until the attachment is lost, to a writer.
    pub fn lost_to_writer(&self, attachment: Attachment) -> Result<(), Restarted> {
        let why = self.lost(attachment);
        if why.contains("started anew") {
            return Err(Restarted(why));
        }
        assert_eq!(why, "somebody writes to the file");
        Ok(())
    }

    /// Waits until it is told that this attachment is gone, and says why.
    pub fn lost(&self, attachment: Attachment) -> String {
        let mut why = None;
        until("an attachment is lost", || {
            let lost = self.lost.lock().unwrap();
            let found = lost.iter().find(|lost| lost.ids.contains(&attachment.id));
            why = found.map(|lost| lost.why.to_string());
            why.is_some()
        });
        why.unwrap()
    }

    /// The keeper's process, when there is one.
    pub fn pid(&self) -> u32 {
        let mut pid = None;
        until("a keeper runs", || {
            pid = self.keeper.pids().1;
            pid.is_some()
        });
        pid.unwrap()
    }
}

/// A keeper has ended in a round.
#[derive(Debug)]
pub struct Restarted(pub String);

/// Of what a keeper has answered in a round.
pub fn again<T>(answer: Result<T, Refused>) -> Result<T, Restarted> {
    match answer {
        Err(Refused::Restarted) => Err(Restarted(Refused::Restarted.to_string())),
        answer => Ok(answer.unwrap()),
    }
}

pub fn request<'a>(file: &'a File, target: &Target, scope: Scope) -> Request<'a> {
    Request {
        file,
        state: FileState::of(file).unwrap(),
        scope,
        start_ticks: start_ticks(target.pid()).unwrap(),
        places: vec![Place {
            program: Program::KeylogPoint,
            file_offset: target.offset(),
            cookie: 7,
            returns: false,
        }],
    }
}

pub fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// Whether it runs, or waits for its parent to notice its end.
pub fn is_there(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.starts_with(" Z"))
}

/// Median and largest, in milliseconds.
pub fn milliseconds(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let (Some(middle), Some(last)) = (times.get(times.len() / 2), times.last()) else {
        return "none".to_owned();
    };
    format!(
        "p50 {:.1} ms, most {:.1} ms",
        middle.as_secs_f64() * 1e3,
        last.as_secs_f64() * 1e3
    )
}
