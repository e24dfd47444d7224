//! Landlock (landlock(7)): which files and ports the worker may open, whatever its user may.
//!
//! Rules are about what is at a path now: a file that is replaced later is another one. So outputs are given by their
//! folder. What a kernel cannot restrict is said ([`weaker`]), not hidden.
//!
//! Invariant: nothing is ever allowed to be executed.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    Scope,
};
use std::path::PathBuf;

/// What was tried: files as of ABI 5 (Linux 6.10), signals and abstract sockets as of ABI 6 (6.12).
const FILES: ABI = ABI::V5;
const PORTS: ABI = ABI::V4;
const SCOPES: ABI = ABI::V6;

/// What a process may open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Files, and folders with all below them. What is not there is left out.
    pub read: Vec<PathBuf>,
    /// Folders in which files may be made, written, renamed and removed. They must be there.
    pub write: Vec<PathBuf>,
    /// TCP ports that may be connected to.
    pub connect: Vec<u16>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the folder {path} cannot be given to the worker: {why}")]
    Folder { path: PathBuf, why: String },
    #[error("Landlock: {0}")]
    Ruleset(#[from] RulesetError),
}

fn reading() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

fn writing() -> BitFlags<AccessFs> {
    reading()
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}

/// Restricts the calling thread and those that it makes. Gives the ABI that the kernel has, `None` for no Landlock.
///
/// # Errors
/// If a folder to write in is not there, or the kernel refuses what it says that it has.
pub fn restrict(allowed: &Allowed) -> Result<Option<u32>, Error> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(FILES))?
        .handle_access(AccessNet::from_all(PORTS))?
        .scope(Scope::from_all(SCOPES))?
        .create()?;
    for path in &allowed.read {
        let Ok(descriptor) = PathFd::new(path) else {
            continue;
        };
        // A rule about a file must not speak of folders.
        let access = if path.is_dir() {
            reading()
        } else {
            AccessFs::ReadFile.into()
        };
        ruleset = ruleset.add_rule(PathBeneath::new(descriptor, access))?;
    }
    for path in &allowed.write {
        let descriptor = PathFd::new(path).map_err(|error| Error::Folder {
            path: path.clone(),
            why: error.to_string(),
        })?;
        ruleset = ruleset.add_rule(PathBeneath::new(descriptor, writing()))?;
    }
    for port in &allowed.connect {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    Ok(version(&ruleset.restrict_self()?))
}

fn version(status: &RestrictionStatus) -> Option<u32> {
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => Some(effective_abi as u32),
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => None,
    }
}

/// The ABI of this kernel, found out by a thread that restricts itself and ends.
#[must_use]
pub fn available() -> Option<u32> {
    std::thread::spawn(|| restrict(&Allowed::default()).ok().flatten())
        .join()
        .ok()
        .flatten()
}

/// What a kernel with this ABI cannot do, in words.
#[must_use]
pub fn weaker(abi: Option<u32>) -> Vec<String> {
    let Some(abi) = abi else {
        return vec![
            "no Landlock (Linux 5.13, and `landlock` among the kernel's security modules): the worker may open what \
             its user may, and connect anywhere"
                .to_owned(),
        ];
    };
    [
        (3, "files may be truncated that may not be written"),
        (
            4,
            "TCP connections are not restricted to the configured ports",
        ),
        (6, "signals and abstract Unix sockets are not restricted"),
    ]
    .into_iter()
    .filter(|(needed, _)| abi < *needed)
    .map(|(needed, what)| format!("Landlock has ABI {abi}, not {needed}: {what}"))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_not_allowed_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["read", "write", "other"] {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("file"), name).unwrap();
        }
        let at = |path: &str| folder.path().join(path);
        let allowed = Allowed {
            read: vec![at("read"), at("missing"), at("other/file")],
            write: vec![at("write")],
            connect: Vec::new(),
        };
        let (read, write, other) = (at("read"), at("write"), at("other"));
        std::thread::spawn(move || {
            let Some(abi) = restrict(&allowed).unwrap() else {
                println!("skipped: no Landlock here");
                return;
            };
            assert_eq!(fs::read_to_string(read.join("file")).unwrap(), "read");
            assert!(fs::write(read.join("file"), "x").is_err());
            assert!(fs::remove_file(read.join("file")).is_err());
            fs::rename(write.join("file"), write.join("file.1")).unwrap();
            fs::write(write.join("file"), "again").unwrap();
            fs::remove_file(write.join("file.1")).unwrap();
            assert_eq!(fs::read_to_string(other.join("file")).unwrap(), "other");
            assert!(fs::read_dir(&other).is_err());
            assert!(fs::write(other.join("new"), "x").is_err());
            assert!(fs::read("/etc/passwd").is_err());
            if abi >= 4 {
                let address = "127.0.0.1:9".parse().unwrap();
                let wait = std::time::Duration::from_secs(1);
                let error = std::net::TcpStream::connect_timeout(&address, wait).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
            }
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_missing_output_folder_is_named() {
        let allowed = Allowed {
            write: vec!["/no/such/folder".into()],
            ..Allowed::default()
        };
        let error = std::thread::spawn(move || restrict(&allowed).unwrap_err());
        let error = error.join().unwrap().to_string();
        assert!(error.contains("/no/such/folder"), "{error}");
    }

    #[test]
    fn weaker_kernels_are_told() {
        assert!(weaker(None)[0].contains("no Landlock"));
        assert_eq!(weaker(Some(1)).len(), 3);
        assert!(weaker(Some(4))[0].contains("abstract"));
        assert!(weaker(Some(7)).is_empty());
    }
}
