//! What a program made the agent hold goes with the program: descriptors, deleted files, file systems.

use super::stage::{Stage, library_in};
use crate::support::expect::stop;
use crate::support::process::{Place, Spec, run};
use crate::support::report::Cells;
use crate::support::{fixtures, known, repeat, say, seconds, turn, wait_for};
use anyhow::{Context, Result};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Files that are used once and deleted.
const FILES: usize = 25;
/// Bytes that each is longer than a library.
const MORE: usize = 8 << 20;
/// Descriptors that an agent may have more than when it was at rest, whatever has been.
const FEW: usize = 10;

#[test]
fn given_back() {
    let Some(_turn) = turn("given_back") else {
        return;
    };
    let mut stage = Stage::new("given-back").unwrap();
    let mut cells = Cells::new("given_back");
    // What is opened once and for all is open by then.
    let library = stage.library("library").unwrap();
    stage.curl_until_read(&library).unwrap();
    known::settled(&stage.agent);
    match Mounted::tmpfs(&stage.lab.path("mounted")) {
        Ok(mounted) => {
            let used = used_and_deleted(&mut stage, mounted, &mut cells);
            cells.check("used-and-deleted", used);
        }
        Err(error) => cells.skip("used-and-deleted", &format!("{error:#}")),
    }
    stop(stage.agent, &mut cells);
    cells.finish();
}

/// Unmounted with the test, by its last means.
struct Mounted {
    folder: PathBuf,
    is_there: bool,
}

impl Mounted {
    fn tmpfs(folder: &Path) -> Result<Self> {
        std::fs::create_dir(folder)?;
        let spec = Spec::new(fixtures::system("/usr/bin/mount")?)
            .args(["-t", "tmpfs", "-o", "size=600m", "tokentrail-test"])
            .arg(folder);
        run(&spec, &Place::default()).context("mount a tmpfs")?;
        Ok(Self {
            folder: folder.to_owned(),
            is_there: true,
        })
    }

    /// 1 KiB blocks in use.
    fn used(&self) -> Result<u64> {
        let about = rustix::fs::statvfs(&self.folder)?;
        Ok((about.f_blocks - about.f_bfree) * about.f_frsize / 1024)
    }

    fn unmount(&mut self) -> Result<()> {
        let spec = Spec::new("/usr/bin/umount").arg(&self.folder);
        run(&spec, &Place::default())?;
        self.is_there = false;
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_there {
            let spec = Spec::new("/usr/bin/umount").arg("-l").arg(&self.folder);
            let _ = run(&spec, &Place::default());
        }
    }
}

fn used_and_deleted(stage: &mut Stage, mut mounted: Mounted, cells: &mut Cells) -> Result<()> {
    let at_rest = stage.agent.descriptors();
    let mut read = 0;
    for number in 0..repeat(FILES) {
        let folder = library_in(&mounted.folder.join(number.to_string()))?;
        // Blocks, not a hole: they show whether the file is still there.
        let file = folder.join("libssl.so.3");
        OpenOptions::new()
            .append(true)
            .open(file)?
            .write_all(&vec![1; MORE])?;
        read += usize::from(stage.curl_until_read(&folder).is_ok());
        std::fs::remove_dir_all(&folder)?;
    }
    let ended = Instant::now();
    cells.check(
        "files-were-read",
        if read == repeat(FILES) {
            Ok(())
        } else {
            Err(anyhow::anyhow!("{read} of {} files", repeat(FILES)))
        },
    );
    let back = wait_for(seconds(60), || {
        let few = stage.agent.descriptors() <= at_rest + FEW;
        (few && mounted.used().ok()? < 1024).then(|| ended.elapsed())
    });
    let took = back.with_context(|| {
        format!(
            "{} descriptors, {at_rest} at rest; {:?} KiB of deleted files are kept",
            stage.agent.descriptors(),
            mounted.used().ok()
        )
    })?;
    say(&format!(
        "given_back: descriptors and deleted files after {took:.1?} (goal: 10 s)"
    ));
    mounted.unmount().context("the file system is busy")
}
