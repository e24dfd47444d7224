//! A clean Debian 12 as a disk image: systemd, a kernel, a web server and curl, and nothing of this machine.
//!
//! Made once by mmdebstrap from the mirror that this machine's apt uses, and kept with the fixtures; it takes a few
//! minutes, which go into downloads. The machine that boots it never writes to it ([`super::trial`]). Its one unit of
//! ours unpacks the second disk, a tar archive, and runs the script in it.
//!
//! Invariant: an image that is there is whole and of this [`recipe`]: the folder gets its name last.

use crate::process;
use crate::workspace::Workspace;
use anyhow::{Context, Result, ensure};
use rustix::process::geteuid;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SUITE: &str = "bookworm";
const PACKAGES: &[&str] = &[
    "systemd-sysv",
    "dbus",
    "udev",
    "kmod",
    "linux-image-amd64",
    "nginx-light",
    "curl",
];
const SIZE: &str = "1500M";
const UNIT: &str = "\
[Unit]
Description=the trial of a package
After=multi-user.target

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'mkdir -p /run/trial && tar -x -f /dev/vdb -C /run/trial && exec sh /run/trial/run.sh'
ExecStopPost=/bin/systemctl poweroff --no-block
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0

[Install]
WantedBy=multi-user.target
";
const UNIT_NAME: &str = "trial.service";

/// A machine's disk, and what boots it.
pub struct Root {
    pub image: PathBuf,
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

/// What an image is made of: another one is made when this changes.
fn recipe() -> String {
    format!("{SUITE} {SIZE} {}\n{UNIT}", PACKAGES.join(" "))
}

/// The image, made if it is not there.
pub fn ensure(workspace: &Workspace) -> Result<Root> {
    let folder = workspace.fixtures().join("debian-12");
    let root = Root {
        image: folder.join("root.img"),
        kernel: folder.join("vmlinuz"),
        initrd: folder.join("initrd"),
    };
    if fs::read_to_string(folder.join("recipe.txt")).is_ok_and(|text| text == recipe()) {
        return Ok(root);
    }
    ensure!(
        geteuid().is_root(),
        "only root can make a Debian root (chroot, mounts)"
    );
    let partial = folder.with_extension("partial");
    for folder in [&folder, &partial] {
        if folder.exists() {
            fs::remove_dir_all(folder)
                .with_context(|| format!("cannot remove {}", folder.display()))?;
        }
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    bootstrap(workspace, &partial.join("tree"))?;
    finish(workspace, &partial)?;
    fs::write(partial.join("recipe.txt"), recipe())?;
    fs::rename(&partial, &folder)?;
    Ok(root)
}

fn bootstrap(workspace: &Workspace, tree: &Path) -> Result<()> {
    let targets = process::output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(COMPONENT)",
        "Created-By: Packages",
    ]))?;
    let sources = sources(&targets);
    ensure!(
        !sources.is_empty(),
        "apt knows no Debian {SUITE} here: the trial's root is made from its mirror"
    );
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--mode=root", "--variant=minbase"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .arg("--aptopt=APT::Install-Recommends \"false\"");
    for left_out in ["doc", "man", "locale"] {
        command.arg(format!("--dpkgopt=path-exclude=/usr/share/{left_out}/*"));
    }
    command.arg(SUITE).arg(tree).args(&sources);
    process::logged(
        "a clean Debian 12 for the trial (some minutes, once)",
        &mut command,
        &workspace.logs().join("mmdebstrap.log"),
    )
}

/// Lines for sources.list of what apt has of this suite: `apt-get indextargets` in the format above.
fn sources(targets: &str) -> Vec<String> {
    let mut lines: Vec<String> = targets
        .lines()
        .filter_map(|line| {
            let mut fields = line.split('|');
            let (origin, name) = (fields.next()?, fields.next()?);
            let (uri, component) = (fields.next()?, fields.next()?);
            let ours = origin == "Debian"
                && component == "main"
                && [SUITE, "bookworm-updates", "bookworm-security"].contains(&name);
            ours.then(|| format!("deb {uri} {name} {component}"))
        })
        .collect();
    lines.dedup();
    lines
}

/// From a tree to an image, with the kernel beside it.
fn finish(workspace: &Workspace, folder: &Path) -> Result<()> {
    let tree = folder.join("tree");
    let units = tree.join("etc/systemd/system");
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    fs::write(units.join(UNIT_NAME), UNIT)?;
    std::os::unix::fs::symlink(format!("../{UNIT_NAME}"), wants.join(UNIT_NAME))?;
    fs::write(tree.join("etc/hostname"), "trial\n")?;
    // Empty: a new one is made at each boot (machine-id(5)).
    fs::write(tree.join("etc/machine-id"), "")?;
    for (prefix, name) in [("vmlinuz-", "vmlinuz"), ("initrd.img-", "initrd")] {
        let file = fs::read_dir(tree.join("boot"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                path.file_name()
                    .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
            })
            .with_context(|| format!("the new Debian root has no /boot/{prefix}*"))?;
        fs::copy(&file, folder.join(name))?;
    }
    let mke2fs = process::which("mke2fs").context("no mke2fs")?;
    let mut command = Command::new(mke2fs);
    command.args(["-q", "-F", "-t", "ext4", "-L", "root", "-d"]);
    command.arg(&tree).arg(folder.join("root.img")).arg(SIZE);
    process::logged(
        "its disk image",
        &mut command,
        &workspace.logs().join("mke2fs.log"),
    )?;
    fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_those_of_this_debian() {
        let targets = "\
Debian|bookworm|http://mirror.invalid/debian/|main
Debian|bookworm-security|http://mirror.invalid/security/|main
Debian|bookworm|http://mirror.invalid/debian/|contrib
Debian|trixie|http://mirror.invalid/debian/|main
. nodistro|nodistro|https://other.invalid|main
";
        assert_eq!(
            sources(targets),
            [
                "deb http://mirror.invalid/debian/ bookworm main",
                "deb http://mirror.invalid/security/ bookworm-security main"
            ]
        );
        assert!(sources("").is_empty());
    }
}
