//! A Debian package, an archive of the same files for other systems, and the sums of all of them.
//!
//! A package is a tree that is laid out here from its table ([`super::packages`]) and packed by dpkg-deb, which every
//! Debian has: no further tool is built, and what lies where is one table. dpkg-deb owns the format; what a helper like
//! cargo-deb adds (dependencies looked up, conffiles, maintainer scripts generated) is four lines here, and read by
//! whoever asks what the package does as root.
//!
//! Invariant: every file belongs to root and none is writable by others; time stamps are those of the last commit, so
//! that the same sources give the same package.

use super::packages::{Origin, Package};
use crate::process;
use crate::say;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const MAN: &str = "usr/share/man/man1";
/// Below `packaging/debian/NAME`.
const SCRIPTS: &[&str] = &["preinst", "postinst", "prerm", "postrm"];

/// How hard a package is compressed: small for others, soon done for a trial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Squeeze {
    Hard,
    Soon,
}

/// Makes the package and the archive in `dist` of what lies there and in `documents`; returns the package.
pub fn make(
    workspace: &Workspace,
    package: &Package,
    dist: &Path,
    documents: &Path,
    squeeze: Squeeze,
) -> Result<PathBuf> {
    let name = package.name;
    let (debian, machine) = architecture()?;
    let tree = workspace.target.join("dist-tree");
    super::empty(&tree)?;
    fs::set_permissions(&tree, fs::Permissions::from_mode(0o755))?;
    let packaging = workspace.root.join("packaging");
    for (from, place, mode) in package.files {
        let from = match from {
            Origin::Dist(path) => dist.join(path),
            Origin::Documents(path) => documents.join(path),
            Origin::Packaging(path) => packaging.join(path),
        };
        put(&from, &tree.join(place), *mode)?;
    }
    man_pages(&documents.join("man"), &tree.join(MAN))?;
    let epoch = last_commit(workspace);
    let archive = dist.join(format!("{name}-{VERSION}-{machine}-linux-gnu.tar.gz"));
    archive_of(&tree, &archive, &epoch, squeeze)?;
    // The package's own files come after the archive is made of the rest.
    let control = tree.join("DEBIAN");
    fs::create_dir_all(&control)?;
    let text = control_file(package, debian, bytes_below(&tree)?);
    fs::write(control.join("control"), text).context("cannot write DEBIAN/control")?;
    fs::write(control.join("md5sums"), md5sums(&tree)?)?;
    for script in SCRIPTS {
        let from = packaging.join("debian").join(name).join(script);
        put(&from, &control.join(script), 0o755)?;
    }
    for file in ["control", "md5sums"] {
        fs::set_permissions(control.join(file), fs::Permissions::from_mode(0o644))?;
    }
    let file = dist.join(format!("{name}_{VERSION}_{debian}.deb"));
    let compression: &[&str] = match squeeze {
        Squeeze::Hard => &["-Zxz"],
        Squeeze::Soon => &["-Zgzip", "-z1"],
    };
    process::output(
        Command::new("dpkg-deb")
            .arg("--root-owner-group")
            .args(compression)
            .arg("--build")
            .arg(&tree)
            .arg(&file)
            .env("SOURCE_DATE_EPOCH", &epoch),
    )?;
    for file in [&archive, &file] {
        say::line(&format!(
            " + {} ({} KiB)",
            file.display(),
            fs::metadata(file)?.len() / 1024
        ));
    }
    fs::remove_dir_all(&tree)?;
    Ok(file)
}

/// The machine by Debian's name and by its own.
fn architecture() -> Result<(&'static str, &'static str)> {
    match std::env::consts::ARCH {
        "x86_64" => Ok(("amd64", "x86_64")),
        "aarch64" => Ok(("arm64", "aarch64")),
        other => bail!("no package is made for {other}"),
    }
}

/// Copies a file; the folders above it are for everyone to read, whatever this shell's umask is.
fn put(from: &Path, place: &Path, mode: u32) -> Result<()> {
    if let Some(folder) = place.parent() {
        folders(folder)?;
    }
    fs::copy(from, place)
        .with_context(|| format!("cannot copy {} to {}", from.display(), place.display()))?;
    fs::set_permissions(place, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn folders(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        folders(above)?;
    }
    fs::create_dir(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Compressed, as Debian's policy wants them (12.1), without a time stamp in them.
fn man_pages(from: &Path, to: &Path) -> Result<()> {
    for page in files(from)? {
        let place = to.join(page.file_name().unwrap_or_default());
        put(&page, &place, 0o644)?;
        process::output(Command::new("gzip").args(["-9", "-n"]).arg(&place))?;
    }
    Ok(())
}

/// The files of a folder, by name.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Seconds since 1970, for time stamps; without git, now counts.
fn last_commit(workspace: &Workspace) -> String {
    let mut git = Command::new("git");
    git.args(["log", "-1", "--format=%ct"])
        .current_dir(&workspace.root);
    let now = || {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |time| time.as_secs())
            .to_string()
    };
    match process::output(&mut git) {
        Ok(time) if !time.trim().is_empty() => time.trim().to_owned(),
        _ => now(),
    }
}

fn archive_of(tree: &Path, archive: &Path, epoch: &str, squeeze: Squeeze) -> Result<()> {
    let gzip = match squeeze {
        Squeeze::Hard => "gzip -n",
        Squeeze::Soon => "gzip -n -1",
    };
    process::output(
        Command::new("tar")
            .args(["--create", "--use-compress-program", gzip, "--sort=name"])
            .args(["--owner=0", "--group=0"])
            .args(["--numeric-owner", &format!("--mtime=@{epoch}")])
            .arg("--file")
            .arg(archive)
            .arg("--directory")
            .arg(tree)
            .arg("."),
    )?;
    Ok(())
}

/// deb-control(5).
fn control_file(package: &Package, architecture: &str, bytes: u64) -> String {
    let Package {
        name,
        summary,
        glibc,
        ..
    } = package;
    let size = bytes.div_ceil(1024);
    let description: String = package
        .description
        .iter()
        .map(|line| format!(" {}\n", if line.is_empty() { "." } else { line }))
        .collect();
    format!(
        "Package: {name}\n\
         Version: {VERSION}\n\
         Architecture: {architecture}\n\
         Maintainer: tokentrail <tokentrail@localhost>\n\
         Installed-Size: {size}\n\
         Depends: libc6 (>= {glibc}), libgcc-s1, systemd | systemd-standalone-sysusers | systemd-sysusers\n\
         Recommends: systemd\n\
         Section: admin\n\
         Priority: optional\n\
         Description: {summary}\n\
         {description}"
    )
}

fn bytes_below(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        sum += if path.is_dir() {
            bytes_below(&path)?
        } else {
            path.metadata()?.len()
        };
    }
    Ok(sum)
}

/// deb-md5sums(5): what `dpkg --verify` compares with.
fn md5sums(tree: &Path) -> Result<String> {
    process::output(
        Command::new("sh")
            .args([
                "-c",
                "find . -path ./DEBIAN -prune -o -type f -printf '%P\\0' | sort -z | xargs -0 md5sum",
            ])
            .current_dir(tree),
    )
}

/// `SHA256SUMS` of everything in `dist`, as `sha256sum --check` reads it.
pub fn sums(dist: &Path) -> Result<()> {
    let text = process::output(
        Command::new("sh")
            .args([
                "-c",
                "find . -type f ! -name SHA256SUMS -printf '%P\\0' | sort -z | xargs -0 sha256sum",
            ])
            .current_dir(dist),
    )?;
    fs::write(dist.join("SHA256SUMS"), text).context("cannot write SHA256SUMS")
}

#[cfg(test)]
mod tests {
    use super::super::packages::{AGENT, COLLECTOR};
    use super::*;

    #[test]
    fn the_control_file_has_what_dpkg_wants() {
        for package in [AGENT, COLLECTOR] {
            let text = control_file(&package, "amd64", 1025);
            assert!(text.contains("Installed-Size: 2\n"), "{text}");
            assert!(text.ends_with('\n') && !text.contains("\n\n"));
            // Lines of the long description begin with one space (deb-control(5)).
            let (_, description) = text.split_once("Description: ").unwrap();
            for line in description.lines().skip(1) {
                assert!(line.starts_with(' ') && line.len() > 1, "{line:?}");
            }
            for line in text.lines().filter(|line| !line.starts_with(' ')) {
                assert!(line.contains(": "), "{line}");
            }
        }
    }

    #[test]
    fn maintainer_scripts_are_shell() {
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/debian");
        for package in [AGENT, COLLECTOR] {
            for script in SCRIPTS {
                let path = packaging.join(package.name).join(script);
                let text = fs::read_to_string(&path).unwrap();
                assert!(
                    text.starts_with("#!/bin/sh\n") && text.contains("\nset -e\n"),
                    "{script}"
                );
                process::output(Command::new("sh").arg("-n").arg(path)).unwrap();
            }
        }
    }

    #[test]
    fn what_comes_from_packaging_is_there() {
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
        for package in [AGENT, COLLECTOR] {
            for (from, place, _) in package.files {
                if let Origin::Packaging(file) = from {
                    assert!(packaging.join(file).is_file(), "{place}");
                }
            }
        }
    }
}
