//! The packages in a clean Debian with systemd, in a virtual machine: installed, started, seen to work, removed.
//!
//! The machine boots the image of [`super::root`] with its own kernel and init; a second disk holds the packages, a
//! certificate for its web server, and `trial.sh`, which does the rest and prints a line for each check. There is no
//! network but the machine's own loopback. Without KVM it is emulated, and takes some minutes.
//!
//! Invariant: the image is not written to (QEMU's `snapshot`), and the machine does not outlive [`LIMIT`].
//! Invariant: only `trial: passed` at the end, with no check failed, is a success: a machine that dies is none.

use super::root::{self, Root};
use crate::process;
use crate::say::{self, Mark, Step};
use crate::vm;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(40 * 60);
const SCRIPT: &str = include_str!("trial.sh");
const MEMORY: &str = "2G";

/// Without a collector's package the script leaves its checks out.
pub fn run(workspace: &Workspace, agent: &Path, collector: Option<&Path>) -> Result<()> {
    say::heading("trial: the packages in a clean Debian, in a virtual machine");
    let root = root::ensure(workspace)?;
    let disk = disk(workspace, agent, collector)?;
    let log = workspace.logs().join("trial.log");
    let mut step = Step::start("boot, install, observe, remove");
    let mut said = Said::default();
    // As it comes: of a machine that hangs it tells where.
    let mut console = log_file(&log)?;
    let status = process::lines(&mut machine(&root, &disk), LIMIT, |line| {
        // What cannot be logged is checked all the same.
        let _ = writeln!(console, "{}", line.trim_end());
        if let Some(note) = said.line(line) {
            step.note(&note);
        }
        step.tick(line);
    });
    let verdict = status.and_then(|_| said.verdict());
    step.done(if verdict.is_ok() {
        Mark::Done
    } else {
        Mark::Failed
    });
    verdict.with_context(|| format!("the trial (all of it: {})", log.display()))
}

fn log_file(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    File::create(log).with_context(|| format!("cannot write {}", log.display()))
}

/// The second disk: a tar archive as it is.
fn disk(workspace: &Workspace, agent: &Path, collector: Option<&Path>) -> Result<PathBuf> {
    let folder = workspace.target.join("trial");
    super::empty(&folder)?;
    fs::write(folder.join("run.sh"), SCRIPT)?;
    for (package, name) in [(Some(agent), "agent.deb"), (collector, "collector.deb")] {
        if let Some(package) = package {
            fs::copy(package, folder.join(name))
                .with_context(|| format!("cannot copy {}", package.display()))?;
        }
    }
    process::output(
        Command::new("openssl")
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
            ])
            .args([
                "-subj",
                "/CN=localhost",
                "-keyout",
                "key.pem",
                "-out",
                "cert.pem",
            ])
            .current_dir(&folder),
    )?;
    let disk = workspace.target.join("trial.tar");
    process::output(
        Command::new("tar")
            .arg("--create")
            .arg("--file")
            .arg(&disk)
            .arg("--directory")
            .arg(&folder)
            .arg("."),
    )?;
    Ok(disk)
}

fn machine(root: &Root, disk: &Path) -> Command {
    let drive = |file: &Path, more: &str| {
        // A comma ends a value unless it is doubled (qemu(1)).
        let file = file.to_string_lossy().replace(',', ",,");
        format!("file={file},if=virtio,format=raw,{more}")
    };
    let mut command = Command::new("qemu-system-x86_64");
    if vm::has_kvm() {
        command.args(["-accel", "kvm", "-cpu", "host"]);
    } else {
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]);
    }
    command
        .args(["-machine", "q35", "-smp", "2", "-m", MEMORY])
        .args(["-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio"])
        .args(["-device", "virtio-rng-pci"])
        .arg("-kernel")
        .arg(&root.kernel)
        .arg("-initrd")
        .arg(&root.initrd)
        .args([
            "-append",
            // A login on the console would hang up on the script.
            "root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 systemd.getty_auto=0",
        ])
        .args(["-drive", &drive(&root.image, "snapshot=on")])
        .args(["-drive", &drive(disk, "readonly=on")]);
    command
}

/// What the script in the machine has said.
#[derive(Default)]
struct Said {
    good: usize,
    failed: Vec<String>,
    passed: bool,
}

impl Said {
    /// Takes in one line of the console; what a person wants to read of it.
    fn line(&mut self, line: &str) -> Option<String> {
        let said = line.trim().strip_prefix("trial: ")?;
        if said.starts_with("ok ") {
            self.good += 1;
        } else if let Some(what) = said.strip_prefix("FAILED ") {
            self.failed.push(what.to_owned());
        } else if said == "passed" {
            self.passed = true;
        }
        Some(said.to_owned())
    }

    fn verdict(&self) -> Result<()> {
        if !self.failed.is_empty() {
            bail!("failed: {}", self.failed.join("; "));
        }
        if !self.passed || self.good == 0 {
            bail!(
                "the machine ended after {} checks, before the last",
                self.good
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(lines: &[&str]) -> Result<()> {
        let mut said = Said::default();
        for line in lines {
            said.line(line);
        }
        said.verdict()
    }

    #[test]
    fn only_the_last_line_is_a_success() {
        assert!(verdict(&["boot", "trial: ok a\r", "trial: passed\r"]).is_ok());
        for broken in [
            &["trial: ok a"][..],
            &["trial: passed"],
            &["trial: ok a", "trial: FAILED b", "trial: passed"],
            &["trial: ok a", "it said trial: passed"],
            &[],
        ] {
            assert!(verdict(broken).is_err(), "{broken:?}");
        }
    }

    #[test]
    fn the_script_is_shell() {
        process::output(Command::new("sh").args(["-n", "-c", SCRIPT])).unwrap();
    }
}
