//! Debian's packages, installed so that nothing but files changes.
//!
//! Debian starts the service of a package as it is installed and enables it for the next boot; a web server that
//! listens on port 80 is not what someone asked for who wants to see a demo. `policy-rc.d` is Debian's own way to
//! say so (invoke-rc.d(8)); a unit that this installation enabled is disabled again.
//!
//! Invariant: a `policy-rc.d` that was there before is left as it is, ours is gone afterwards.

use crate::process;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use rustix::process::geteuid;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

const POLICY: &str = "/usr/sbin/policy-rc.d";
const UNITS: &[&str] = &[
    "nginx.service",
    "haproxy.service",
    "podman.socket",
    "podman-auto-update.timer",
];

/// The lists are fetched once in a run.
static LISTS_ARE_FRESH: AtomicBool = AtomicBool::new(false);

pub fn is_there() -> bool {
    process::which("apt-get").is_some()
}

pub fn may_install() -> bool {
    is_there() && geteuid().is_root()
}

/// The command for a person.
pub fn install_command(packages: &[&str]) -> String {
    let root = if geteuid().is_root() { "" } else { "sudo " };
    format!(
        "{root}apt-get update && {root}apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("NEEDRESTART_SUSPEND", "1");
    command
}

pub fn update(workspace: &Workspace) -> Result<()> {
    if LISTS_ARE_FRESH.load(Ordering::Relaxed) {
        return Ok(());
    }
    process::logged(
        "apt-get update",
        apt_get().arg("update"),
        &workspace.logs().join("apt-update.log"),
    )?;
    LISTS_ARE_FRESH.store(true, Ordering::Relaxed);
    Ok(())
}

pub fn install(workspace: &Workspace, packages: &[&str]) -> Result<()> {
    update(workspace)?;
    let _quiet = Quiet::begin()?;
    let enabled_before: Vec<&str> = UNITS.iter().copied().filter(|u| is_enabled(u)).collect();
    let outcome = process::logged(
        &format!("apt-get install {}", packages.join(" ")),
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(packages),
        &workspace.logs().join("apt-install.log"),
    );
    for unit in UNITS {
        if !enabled_before.contains(unit) && is_enabled(unit) {
            // It stays enabled at worst; the packages are there all the same.
            let _ = process::output(Command::new("systemctl").args(["disable", unit]));
        }
    }
    outcome
}

fn is_enabled(unit: &str) -> bool {
    process::output(Command::new("systemctl").args(["is-enabled", unit]))
        .is_ok_and(|state| state.trim() == "enabled")
}

/// Downloads a package's file into `folder` and returns nothing of the system changed.
pub fn download(workspace: &Workspace, package: &str, folder: &Path) -> Result<()> {
    update(workspace)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    process::logged(
        &format!("apt-get download {package}"),
        // The download runs as root: the sandbox user `_apt` may not write into the cache.
        apt_get()
            .args(["-o", "APT::Sandbox::User=root", "download", package])
            .current_dir(folder),
        &workspace.logs().join("apt-download.log"),
    )
}

/// What a metapackage stands for: its first dependency whose name begins with `prefix`.
pub fn dependency(package: &str, prefix: &str) -> Result<String> {
    let text = process::output(Command::new("apt-cache").args(["depends", package]))?;
    first_dependency(&text, prefix)
        .with_context(|| format!("the package {package} depends on no {prefix}*"))
}

fn first_dependency(depends: &str, prefix: &str) -> Option<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}

/// While it lives no service is started by an installation.
struct Quiet {
    ours: bool,
}

impl Quiet {
    fn begin() -> Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o755)
            .open(POLICY);
        match file {
            Ok(mut file) => {
                let quiet = Self { ours: true };
                file.write_all(b"#!/bin/sh\n# by cargo xtask setup, while it installs\nexit 101\n")
                    .with_context(|| format!("cannot write {POLICY}"))?;
                Ok(quiet)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Ok(Self { ours: false })
            }
            Err(error) => Err(error).with_context(|| format!("cannot write {POLICY}")),
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.ours {
            let _ = fs::remove_file(POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metapackage_names_its_kernel() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Suggests: x\n";
        assert_eq!(
            first_dependency(text, "linux-image-"),
            Some("linux-image-6.1.0-56-amd64".into())
        );
        assert_eq!(first_dependency(text, "linux-headers-"), None);
    }
}
