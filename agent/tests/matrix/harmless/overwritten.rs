//! A file with key-log points gets another content in its place, in every way that people and programs do it: what it
//! holds then runs as if no agent were there, in scope and out of it, and is searched anew.

use super::stage::{Stage, unhurt};
use super::{LONG_SUM, SHORT_SUM};
use crate::support::clients::{CLIENTS, CURL, Client};
use crate::support::expect::stop;
use crate::support::known::{self, Searches};
use crate::support::process::{Place, Program, Spec, run};
use crate::support::report::Cells;
use crate::support::{all, brief, fixtures, repeat, say, turn};
use anyhow::{Context, Result, ensure};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Overwrites by each way. What changes text is tested with more of them, and without an agent, in `tests/keeper`.
const ROUNDS: usize = 3;
const FEW_ROUNDS: usize = 2;
const ALL_ROUNDS: usize = 1_000;

/// Puts the content of the first file into the second, whose inode stays.
type Overwrite = fn(&Path, &Path) -> Result<()>;

const WAYS: [(&str, Overwrite); 8] = [
    ("cp", |from, to| {
        command("/usr/bin/cp", [from, to].map(PathBuf::from))
    }),
    ("dd", |from, to| {
        let words = [
            format!("if={}", from.display()),
            format!("of={}", to.display()),
            "conv=notrunc".to_owned(),
            "bs=1M".to_owned(),
            "status=none".to_owned(),
        ];
        command("/usr/bin/dd", words)
    }),
    ("rsync", |from, to| {
        let flags = ["--inplace", "--ignore-times", "--no-whole-file"].map(PathBuf::from);
        command(
            "/usr/bin/rsync",
            flags.into_iter().chain([from, to].map(PathBuf::from)),
        )
    }),
    ("truncating-open", |from, to| {
        Ok(fs::write(to, fs::read(from)?)?)
    }),
    ("ftruncate", |from, to| {
        let mut file = OpenOptions::new().write(true).open(to)?;
        file.set_len(0)?;
        Ok(file.write_all(&fs::read(from)?)?)
    }),
    // Nothing of the file's size changes.
    ("same-size", |from, to| {
        let mut file = OpenOptions::new().write(true).open(to)?;
        Ok(file.write_all(&fs::read(from)?)?)
    }),
    ("shared-mapping", |from, to| {
        let words = ["-c".as_ref(), Path::new(MAP), from, to].map(PathBuf::from);
        command("/usr/bin/python3", words)
    }),
    ("curl", |from, to| {
        let words = ["-q", "-sS", "-o"].map(PathBuf::from);
        let url = PathBuf::from(format!("file://{}", from.display()));
        command(
            "/usr/bin/curl",
            words.into_iter().chain([to.to_owned(), url]),
        )
    }),
];

/// Writes through a mapping that others would share.
const MAP: &str = "import mmap, sys
data = open(sys.argv[1], 'rb').read()
with open(sys.argv[2], 'r+b') as file:
    with mmap.mmap(file.fileno(), 0) as shared:
        shared[:len(data)] = data
";

fn command<A: Into<std::ffi::OsString>>(
    program: &str,
    words: impl IntoIterator<Item = A>,
) -> Result<()> {
    run(
        &Spec::new(fixtures::system(program)?).args(words),
        &Place::default(),
    )
    .map(drop)
}

/// What has points, and what takes its place.
struct Subject {
    name: &'static str,
    file: &'static str,
    /// Another process may have it open or mapped while it is overwritten.
    is_library: bool,
    original: PathBuf,
    /// A sum, as long as the original.
    other: PathBuf,
    ask: fn(&Stage, &Path, &Place) -> Result<String>,
    /// That it is read is seen at a process that stays, and not at one that asks once.
    by_one_process: bool,
}

impl Subject {
    /// The file has points, and they are met.
    fn is_read(&self, stage: &mut Stage, file: &Path, name: &str) -> Result<()> {
        if self.by_one_process {
            let folder = file.parent().context("its folder")?;
            return stage.user(folder, name).map(drop);
        }
        let place = stage.lab.inside();
        let took = stage.until_read(|stage| (self.ask)(stage, file, &place))?;
        say(&format!("overwritten: {name}: read at request {took}"));
        Ok(())
    }
}

fn subjects(stage: &Stage) -> Result<Vec<Subject>> {
    let subject = |name, file, original: PathBuf, sum, ask| {
        let other = stage.lab.path(&format!("other-{name}"));
        let length = fs::metadata(&original)?.len();
        fs::copy(fixtures::sum(sum)?, &other)?;
        let grown = OpenOptions::new().write(true).open(&other)?;
        ensure!(
            grown.metadata()?.len() <= length,
            "the sum is longer than {name}"
        );
        grown.set_len(length)?;
        Ok(Subject {
            name,
            file,
            is_library: file == "libssl.so.3",
            original,
            other,
            ask,
            by_one_process: false,
        })
    };
    Ok(vec![
        subject(
            "library",
            "libssl.so.3",
            fixtures::libssl()?,
            SHORT_SUM,
            |stage, file, place| stage.curl(file.parent().unwrap_or(file), place),
        )?,
        subject(
            "program",
            "client",
            fixtures::go_client()?,
            LONG_SUM,
            |stage, file, place| {
                let file = file.to_owned();
                stage.ask(go()?, place, |mut spec| {
                    spec.program = file;
                    spec
                })
            },
        )?,
    ])
}

fn go() -> Result<&'static Client> {
    let found = CLIENTS.iter().find(|client| client.name == "go");
    found.context("the Go client")
}

#[test]
fn overwritten() {
    let Some(_turn) = turn("overwritten") else {
        return;
    };
    let mut cells = Cells::new("overwritten");
    let mut stage = Stage::new("overwritten").unwrap();
    for subject in subjects(&stage).unwrap() {
        every_way(&mut stage, &subject, ROUNDS, &mut cells);
    }
    match inode_again(&mut stage) {
        Ok(true) => cells.check("inode-again", Ok(())),
        Ok(false) => cells.skip("inode-again", "this file system gives no number twice"),
        Err(error) => cells.check("inode-again", Err(error)),
    }
    stop(stage.agent, &mut cells);
    cells.finish();
}

/// The same of libraries where points change text: writers wait, and meet none.
#[test]
fn overwritten_below_uprobes() {
    let Some(_turn) = turn("overwritten_below_uprobes") else {
        return;
    };
    let mut cells = Cells::new("overwritten_below_uprobes");
    for rung in ["uprobe", "uprobe-host"] {
        match Stage::on_rung("overwritten-below-uprobes", rung) {
            Ok(Some(mut stage)) => {
                let mut subjects = subjects(&stage).unwrap();
                subjects.truncate(1);
                subjects[0].name = rung;
                subjects[0].by_one_process = true;
                every_way(&mut stage, &subjects[0], FEW_ROUNDS, &mut cells);
                stop(stage.agent, &mut cells);
            }
            Ok(None) => cells.skip(rung, "this agent has no choice of rungs"),
            Err(error) => cells.check(rung, Err(error)),
        }
    }
    cells.finish();
}

fn every_way(stage: &mut Stage, subject: &Subject, rounds: usize, cells: &mut Cells) {
    let rounds = if all() { ALL_ROUNDS } else { repeat(rounds) };
    // Whoever cannot run it at all cannot show anything.
    if let Err(error) = unhurt(&Spec::new(&subject.other), &Place::default()) {
        return cells.check(&format!("{}-control", subject.name), Err(error));
    }
    for (way, overwrite) in WAYS {
        let cell = format!("{}-{way}", subject.name);
        // A library on the best rung meets all of them, and so do points that change text, in `tests/keeper`.
        let few = brief() || subject.name != "library" && !all();
        if few && !["cp", "ftruncate", "shared-mapping"].contains(&way) {
            cells.skip(&cell, "other ways stand for it");
            continue;
        }
        if way == "rsync" && fixtures::system("/usr/bin/rsync").is_err() {
            cells.skip(&cell, "rsync is not installed");
            continue;
        }
        let done = again_and_again(stage, subject, &cell, overwrite, rounds);
        cells.check(&cell, done);
    }
}

fn again_and_again(
    stage: &mut Stage,
    subject: &Subject,
    cell: &str,
    overwrite: Overwrite,
    rounds: usize,
) -> Result<()> {
    let folder = stage.lab.path(cell);
    fs::create_dir(&folder)?;
    let file = folder.join(subject.file);
    fs::copy(&subject.original, &file)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    let inode = fs::metadata(&file)?.ino();
    let (inside, outside) = (stage.lab.inside(), stage.lab.outside());
    let before = subject.is_read(stage, &file, &format!("{cell}-before"));
    before.context("before")?;
    for round in 0..rounds {
        // A library may be mapped while it changes: its points are in use then.
        let mapper = match subject.is_library && round % 2 == 1 {
            true => Some(mapper(&file, &inside)?),
            false => None,
        };
        overwrite(&subject.other, &file).with_context(|| format!("round {round}"))?;
        drop(mapper);
        for (place, name) in [(&inside, "in"), (&outside, "out of")] {
            unhurt(&Spec::new(&file), place)
                .with_context(|| format!("round {round}, {name} scope"))?;
        }
        overwrite(&subject.original, &file).with_context(|| format!("round {round}, back"))?;
        (subject.ask)(stage, &file, &inside).with_context(|| format!("round {round}, back"))?;
        if round == 0 {
            (subject.ask)(stage, &file, &outside).context("out of scope")?;
        }
    }
    ensure!(fs::metadata(&file)?.ino() == inode, "it is another file");
    // What came back is found again.
    let behind = subject.is_read(stage, &file, &format!("{cell}-behind"));
    behind.context("behind")
}

/// A process that has the file mapped as code and does nothing.
fn mapper(file: &Path, place: &Place) -> Result<Program> {
    let mut program = Program::start(&Spec::new(fixtures::mapped()?).arg(file), place)?;
    ensure!(program.line()? == "mapped", "not mapped");
    Ok(program)
}

/// Files made in one folder until one has the inode number of one that is gone.
const FILES: usize = 2_000;

/// Age at which a file's state says which content it has.
const OLD_ENOUGH: Duration = Duration::from_millis(300);

/// Searches of files that were executed or mapped.
fn searches(stage: &Stage) -> Result<u64> {
    let told = Searches::of(&stage.agent.coverage()?);
    Ok(told
        .context("the agent does not tell of its searches")?
        .done)
}

const TRIES: usize = 5;

/// A program with nothing to read in it is deleted, and a TLS library gets its inode number, length and times: it is
/// read. False if no number came again.
fn inode_again(stage: &mut Stage) -> Result<bool> {
    let folder = stage.lab.path("again");
    fs::create_dir(&folder)?;
    let (library, sum) = (folder.join("libssl.so.3"), folder.join("sum"));
    let original = fs::read(fixtures::libssl()?)?;
    let mut content = fs::read(fixtures::sum(SHORT_SUM)?)?;
    content.resize(original.len(), 0);
    fs::write(&sum, content)?;
    fs::set_permissions(&sum, fs::Permissions::from_mode(0o755))?;
    // A file that was just written is searched at every use: its state is believed only later.
    std::thread::sleep(OLD_ENOUGH);
    known::introduce(&stage.agent, &Spec::new(&sum), &stage.lab.inside())?;
    // What the first use has asked for may be counted with the second.
    let mut searched = searches(stage)?;
    for _ in 0..TRIES {
        let before = searched;
        known::introduce(&stage.agent, &Spec::new(&sum), &stage.lab.inside())?;
        searched = searches(stage)?;
        if searched == before {
            break;
        }
    }
    let before = searched;
    known::introduce(&stage.agent, &Spec::new(&sum), &stage.lab.inside())?;
    ensure!(
        searches(stage)? == before,
        "a file that was searched was not remembered"
    );
    let before = fs::metadata(&sum)?;
    fs::remove_file(&sum)?;
    let mut again = None;
    for number in 0..FILES {
        let made = folder.join(format!("made-{number}"));
        fs::write(&made, "")?;
        if fs::metadata(&made)?.ino() == before.ino() {
            again = Some(made);
            break;
        }
    }
    let Some(again) = again else { return Ok(false) };
    fs::write(&again, original)?;
    let file = fs::File::options().write(true).open(&again)?;
    file.set_times(
        fs::FileTimes::new()
            .set_modified(before.modified()?)
            .set_accessed(before.accessed()?),
    )?;
    drop(file);
    fs::rename(&again, &library)?;
    let after = fs::metadata(&library)?;
    ensure!(
        (after.ino(), after.len(), after.mtime_nsec())
            == (before.ino(), before.len(), before.mtime_nsec()),
        "the file is not made as it must be"
    );
    std::thread::sleep(OLD_ENOUGH);
    // A client's first handshake may come before the search, which is not asked here.
    let place = stage.lab.inside();
    let took = stage.until_read(|stage| {
        stage.ask(&CURL, &place, |spec| spec.env("LD_LIBRARY_PATH", &folder))
    })?;
    say(&format!("overwritten: inode again: read at request {took}"));
    Ok(true)
}
