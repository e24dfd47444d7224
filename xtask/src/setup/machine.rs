//! What virtual machines need: kernels, virtme-ng, and a fast file server.
//!
//! Kernels are unpacked into the cache, not installed: an installed kernel would be this machine's own at its next
//! boot. One that is installed already is taken as it is.

use super::{Missing, apt, fixtures, packages};
use crate::process;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const VIRTME: &str = "virtme-ng==1.42\n";
const VIRTIOFSD: &str = "1.14.0";

/// A kernel of the matrix: the version that it must begin with, and Debian's metapackage for it.
const KERNELS: &[(&str, &str)] = &[
    ("6.1.", "linux-image-amd64"),
    ("6.12.", "linux-image-6.12-amd64"),
];

/// A kernel that a virtual machine can boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// `uname -r`.
    pub release: String,
    pub image: PathBuf,
}

/// The matrix's kernels that are there, oldest first.
pub fn kernel_images(workspace: &Workspace) -> Vec<Machine> {
    KERNELS
        .iter()
        .filter_map(|(version, _)| image(workspace, version))
        .collect()
}

fn image(workspace: &Workspace, version: &str) -> Option<Machine> {
    let unpacked = workspace.cache.join("kernels");
    let mut roots: Vec<PathBuf> = fs::read_dir(&unpacked)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    roots.push(PathBuf::from("/"));
    roots.iter().find_map(|root| newest(root, version))
}

fn newest(root: &Path, version: &str) -> Option<Machine> {
    let mut found: Vec<Machine> = fs::read_dir(root.join("boot"))
        .ok()?
        .filter_map(|entry| {
            let image = entry.ok()?.path();
            let release = image
                .file_name()?
                .to_str()?
                .strip_prefix("vmlinuz-")?
                .to_owned();
            let fits = suits(&release, version) && root.join("lib/modules").join(&release).is_dir();
            fits.then_some(Machine { release, image })
        })
        .collect();
    found.sort_by_key(|machine| numbers(&machine.release));
    found.pop()
}

/// Debian's cloud kernels lack drivers that a virtual machine's file system may need.
fn suits(release: &str, version: &str) -> bool {
    release.starts_with(version) && !release.contains("cloud") && !release.contains("-rt-")
}

fn numbers(release: &str) -> Vec<u32> {
    release
        .split(|character: char| !character.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

fn venv(workspace: &Workspace) -> PathBuf {
    workspace.cache.join("vm/venv")
}

/// `vng`, with the folders that must be in its search path.
pub fn virtme(workspace: &Workspace) -> (PathBuf, Vec<PathBuf>) {
    let bin = venv(workspace).join("bin");
    (bin.join("vng"), vec![bin, workspace.tools().join("bin")])
}

pub fn has_venv(workspace: &Workspace) -> bool {
    virtme(workspace).0.exists() || fixtures::system_python().is_some()
}

pub fn ensure(workspace: &Workspace) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    for (version, package) in KERNELS {
        if image(workspace, version).is_some() {
            continue;
        }
        let outcome = unpack(workspace, package);
        if image(workspace, version).is_none() {
            missing.push(Missing {
                what: format!("a kernel {version}x (a virtual machine of the matrix)"),
                command: apt::install_command(&[package]),
                cause: outcome.err().map(|error| format!("{error:#}")),
                optional: false,
            });
        }
    }
    let venv = venv(workspace);
    if fs::read_to_string(venv.join("installed.txt")).unwrap_or_default() != VIRTME {
        let outcome = fixtures::install(workspace, &venv, "virtme-ng", VIRTME);
        missing.extend(outcome.err().map(|error| Missing {
            what: "virtme-ng (starts the virtual machines)".to_owned(),
            command: format!(
                "python3 -m venv {venv} && {venv}/bin/pip install {}",
                VIRTME.trim(),
                venv = venv.display()
            ),
            cause: Some(format!("{error:#}")),
            optional: false,
        }));
    }
    missing.extend(file_server(workspace));
    Ok(missing)
}

fn unpack(workspace: &Workspace, metapackage: &str) -> Result<()> {
    anyhow::ensure!(apt::is_there(), "this system has no apt-get");
    apt::update(workspace)?;
    let package = apt::dependency(metapackage, "linux-image-")?;
    let downloads = workspace.target.join("downloads");
    apt::download(workspace, &package, &downloads)?;
    let file = fs::read_dir(&downloads)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(&format!("{package}_")))
        })
        .with_context(|| format!("{package} was downloaded but is not there"))?;
    let folder = workspace.cache.join("kernels").join(&package);
    let partial = folder.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    process::logged(
        &format!("unpacking {package}"),
        Command::new("dpkg-deb").arg("-x").arg(&file).arg(&partial),
        &workspace.logs().join("kernel.log"),
    )?;
    let release = package.trim_start_matches("linux-image-");
    process::output(
        Command::new(process::which("depmod").context("no depmod")?).args([
            "-a".as_ref(),
            "-b".as_ref(),
            partial.as_os_str(),
            release.as_ref(),
        ]),
    )?;
    // Renamed last: a folder of that name is whole.
    fs::rename(&partial, &folder)?;
    fs::remove_file(&file)?;
    Ok(())
}

/// Without it the machines read through 9p, ten times slower. Debian 12 has no package of it.
fn file_server(workspace: &Workspace) -> Option<Missing> {
    if workspace.tools().join("bin/virtiofsd").exists()
        || Path::new("/usr/libexec/virtiofsd").exists()
        || process::which("virtiofsd").is_some()
    {
        return None;
    }
    let libraries = ["libcap-ng-dev", "libseccomp-dev"];
    let build = || -> Result<()> {
        let headers = ["cap-ng.h", "seccomp.h"].map(|name| Path::new("/usr/include").join(name));
        if !headers.iter().all(|header| header.exists()) {
            anyhow::ensure!(apt::may_install(), "only root may install its libraries");
            apt::install(workspace, &libraries)?;
        }
        let mut command = packages::cargo_install(workspace);
        command.args(["virtiofsd", "--version", VIRTIOFSD]);
        process::logged(
            &format!("building virtiofsd {VIRTIOFSD} (a minute or two)"),
            &mut command,
            &workspace.logs().join("virtiofsd.log"),
        )
    };
    build().err().map(|error| Missing {
        what: "virtiofsd (virtual machines read files slowly without it)".to_owned(),
        command: format!(
            "{} && cargo install virtiofsd --version {VIRTIOFSD} --locked",
            apt::install_command(&libraries)
        ),
        cause: Some(format!("{error:#}")),
        optional: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
        for (release, version, expected) in [
            ("6.1.0-56-amd64", "6.1.", true),
            ("6.12.117+deb12-amd64", "6.1.", false),
            ("6.12.117+deb12-amd64", "6.12.", true),
            ("6.12.117+deb12-cloud-amd64", "6.12.", false),
            ("6.1.0-56-rt-amd64", "6.1.", false),
        ] {
            assert_eq!(suits(release, version), expected, "{release} {version}");
        }
    }

    #[test]
    fn the_newest_has_the_greatest_numbers() {
        assert!(numbers("6.1.0-56-amd64") > numbers("6.1.0-9-amd64"));
        assert!(numbers("6.12.117+deb12-amd64") > numbers("6.12.9+deb12-amd64"));
    }
}
