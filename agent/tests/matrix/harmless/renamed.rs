//! A path that leads elsewhere between the agent's look and its deed: whoever may run programs in the scope cannot have
//! a byte of anybody's code changed by it.

use super::SHORT_SUM;
use super::stage::{NOBODY, Stage};
use crate::support::expect::stop;
use crate::support::fakes::Fake;
use crate::support::known;
use crate::support::process::{Place, Program, Spec, run};
use crate::support::report::Cells;
use crate::support::text::text_is_untouched;
use crate::support::{fixtures, repeat, say, turn};
use anyhow::{Context, Result, ensure};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How often somebody tries.
const TRIES: usize = 20;
/// Opens of the program's file behind which its name moves: the first is that of exec.
const OPENS: [u32; 3] = [2, 2, 3];

#[test]
fn renamed() {
    let Some(_turn) = turn("renamed") else { return };
    let stage = Stage::new("renamed").unwrap();
    let mut cells = Cells::new("renamed");
    // Root's, which nobody may write.
    let victim = stage.lab.path("victim");
    std::fs::copy(fixtures::sum(SHORT_SUM).unwrap(), &victim).unwrap();
    let places = [
        ("in-scope", stage.lab.inside()),
        ("out-of-scope", stage.lab.outside()),
    ];
    let running: Vec<_> = places
        .iter()
        .map(|(cell, place)| (cell, start(&victim, place).unwrap()))
        .collect();
    cells.check("come-later", tries(&stage, &victim));
    for (cell, mut program) in running {
        cells.check(&format!("ran-{cell}"), right(&mut program));
    }
    for (cell, place) in &places {
        let at_the_end = start(&victim, place).and_then(|mut program| right(&mut program));
        cells.check(&format!("at-the-end-{cell}"), at_the_end);
    }
    stop(stage.agent, &mut cells);
    cells.finish();
}

/// A process of the victim that stays.
fn start(victim: &Path, place: &Place) -> Result<Program> {
    let mut program = Program::start(&Spec::new(victim).arg("stay"), place)?;
    ensure!(program.line()? == "ready", "the victim is not ready");
    Ok(program)
}

/// Its code is its file's, and its sum is right.
fn right(program: &mut Program) -> Result<()> {
    text_is_untouched(program.pid())?;
    program.send("+")?;
    program.close_stdin();
    let said = program.line()?;
    ensure!(said == "right", "the sum is {said}");
    Ok(())
}

/// A program of nobody that ends at once, says that it has a key-log point at the middle of the victim's sum, and is
/// another file as soon as it was opened.
fn tries(stage: &Stage, victim: &Path) -> Result<()> {
    let folder = stage.lab.path("programs");
    std::fs::create_dir(&folder)?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777))?;
    let mut opened = 0;
    for number in 0..repeat(TRIES) {
        let path: PathBuf = folder.join(format!("program-{number}"));
        // Slow to search, and too large to be hashed: whoever opens it looks for points.
        let fake = Fake {
            point: 0x2_0000 + number as u64,
            data: 24 << 20,
            length: 600 << 20,
            number: number as u64,
        };
        fake.write(&path)?;
        let spec = Spec::new(fixtures::python()?)
            .arg(stage.lab.path("swap.py"))
            .args([&path, victim])
            .arg(OPENS[number % OPENS.len()].to_string());
        let (_, said) = run(&spec, &stage.lab.inside_as(NOBODY))?;
        opened += usize::from(said.last().is_some_and(|count| count != "0"));
        known::settled(&stage.agent);
        let mut fresh = start(victim, &stage.lab.outside())?;
        right(&mut fresh).with_context(|| format!("try {number}"))?;
    }
    say(&format!("renamed: {opened} programs were opened"));
    Ok(())
}
