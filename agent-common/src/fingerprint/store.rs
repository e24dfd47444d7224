//! The key file on disk.
//!
//! Checks are made on the opened file, never on its path, so that what was checked is what is read. Writing is to a
//! new file beside it that is flushed, renamed over the old one, and its folder flushed: after a crash either the old
//! or the new ring is there, whole.
//!
//! Invariant: a key file is never readable by group or others, not for a moment.

use super::keyfile::KeyfileError;
use super::keyring::{Keyring, KeyringError};
use super::name::Kid;
use rustix::process::geteuid;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A key file's largest size in bytes.
pub(super) const SIZE_MAX: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {verb} {}: {error}", path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        error: io::Error,
    },
    #[error("{} exists already: a new key would cut every fingerprint off from the old ones (to add a key to it, rotate)", .0.display())]
    Exists(PathBuf),
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    #[error("{path} may be used by others (mode {mode:04o}): chmod 600 {path}", path = path.display())]
    Mode { path: PathBuf, mode: u32 },
    #[error("{path} belongs to user {owner}, neither to root nor to user {user} who runs this: chown {user} {path}", path = path.display())]
    Owner {
        path: PathBuf,
        owner: u32,
        user: u32,
    },
    #[error("{}: {error}", path.display())]
    Content { path: PathBuf, error: KeyfileError },
    #[error(transparent)]
    Keyring(#[from] KeyringError),
}

impl Keyring {
    /// Reads a key file. It must be a regular file (symbolic links are followed) that nobody but its owner may use,
    /// and the owner must be root or the user who runs this.
    pub fn load(path: &Path) -> Result<Self, StoreError> {
        read(&open(path)?, path)
    }

    /// Makes a new key file of mode 0600 with one key that is valid from `now_unix` on.
    pub fn create(path: &Path, now_unix: i64) -> Result<Self, StoreError> {
        let keyring = Self::generate(now_unix)?;
        write_new(path, &keyring)?;
        sync_folder(path)?;
        Ok(keyring)
    }

    /// Adds a key to the file; the old ones stay valid for `overlap_seconds` (30 days: `DEFAULT_OVERLAP_SECONDS`).
    /// Two rotations at once do not lose a key: the file is locked (`flock`) meanwhile.
    pub fn rotate(
        path: &Path,
        now_unix: i64,
        overlap_seconds: u64,
    ) -> Result<(Self, Kid), StoreError> {
        // A symbolic link stays one: what it points to is replaced.
        let path = path
            .canonicalize()
            .map_err(|error| io_error("find", path, error))?;
        let path = path.as_path();
        let file = lock(path)?;
        let mut keyring = read(&file, path)?;
        let kid = keyring.add_key(now_unix, overlap_seconds)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".new-{kid}"));
        let beside = path.with_file_name(name);
        write_new(&beside, &keyring)?;
        if let Err(error) = std::fs::rename(&beside, path) {
            let _ = std::fs::remove_file(&beside);
            return Err(io_error("replace", path, error));
        }
        sync_folder(path)?;
        Ok((keyring, kid))
    }
}

fn io_error(verb: &'static str, path: &Path, error: io::Error) -> StoreError {
    StoreError::Io {
        verb,
        path: path.to_owned(),
        error,
    }
}

/// Without blocking on a FIFO that stands where the file should.
fn open(path: &Path) -> Result<File, StoreError> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    opened.map_err(|error| io_error("open", path, error))
}

/// The locked file that `path` names now: who waited for the lock may hold one that was replaced meanwhile.
fn lock(path: &Path) -> Result<File, StoreError> {
    loop {
        let file = open(path)?;
        file.lock().map_err(|error| io_error("lock", path, error))?;
        let held = file
            .metadata()
            .map_err(|error| io_error("read", path, error))?;
        let named = std::fs::metadata(path).map_err(|error| io_error("read", path, error))?;
        if (held.dev(), held.ino()) == (named.dev(), named.ino()) {
            return Ok(file);
        }
    }
}

fn read(mut file: &File, path: &Path) -> Result<Keyring, StoreError> {
    let metadata = file
        .metadata()
        .map_err(|error| io_error("read", path, error))?;
    if !metadata.is_file() {
        return Err(StoreError::NotAFile(path.to_owned()));
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StoreError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    let (owner, user) = (metadata.uid(), geteuid().as_raw());
    if owner != 0 && owner != user {
        return Err(StoreError::Owner {
            path: path.to_owned(),
            owner,
            user,
        });
    }
    // One byte more than allowed tells too long from just right, and the buffer never grows (and leaves copies).
    let mut bytes = Zeroizing::new(vec![0; SIZE_MAX + 1]);
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(len) => filled += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error("read", path, error)),
        }
    }
    let content = |error| StoreError::Content {
        path: path.to_owned(),
        error,
    };
    let text = std::str::from_utf8(&bytes[..filled]).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let newlines = before.iter().filter(|&&byte| byte == b'\n').count();
        content(KeyfileError::Form { line: newlines + 1 })
    })?;
    Keyring::parse(text).map_err(content)
}

/// A new file of mode 0600, flushed; removed again if it cannot be written whole.
fn write_new(path: &Path, keyring: &Keyring) -> Result<(), StoreError> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    let mut file = match created {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(StoreError::Exists(path.to_owned()));
        }
        Err(error) => return Err(io_error("create", path, error)),
    };
    let written = file
        .write_all(keyring.serialize().as_bytes())
        .and_then(|()| file.sync_all());
    written.map_err(|error| {
        let _ = std::fs::remove_file(path);
        io_error("write", path, error)
    })
}

/// Makes a new or renamed entry of the file's folder durable.
fn sync_folder(path: &Path) -> Result<(), StoreError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|error| io_error("flush the folder", folder, error))
}

#[cfg(test)]
mod tests {
    use super::super::Secret;
    use super::*;

    const NOW: i64 = 1_790_000_000;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn create_then_load_gives_the_same_keys_at_mode_0600() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fingerprint.toml");
        let created = Keyring::create(&path, NOW).unwrap();
        assert!(Keyring::load(&path).unwrap().same_keys(&created));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert!(matches!(
            Keyring::create(&path, NOW),
            Err(StoreError::Exists(_))
        ));
        assert!(
            Keyring::load(&path).unwrap().same_keys(&created),
            "the refusal changed nothing"
        );
    }

    #[test]
    fn refuses_files_that_others_may_use_and_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        Keyring::create(&path, NOW).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777] {
            set_mode(&path, mode);
            let error = Keyring::load(&path).unwrap_err();
            assert!(
                matches!(error, StoreError::Mode { mode: found, .. } if found == mode),
                "{mode:o}"
            );
            assert!(
                error
                    .to_string()
                    .ends_with(&format!("chmod 600 {}", path.display())),
                "{error}"
            );
            assert!(Keyring::rotate(&path, NOW, 1).is_err());
        }
        for mode in [0o600, 0o400, 0o700] {
            set_mode(&path, mode);
            assert!(Keyring::load(&path).is_ok(), "{mode:o}");
        }
        if geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            assert!(matches!(
                Keyring::load(&path),
                Err(StoreError::Owner { owner: 12345, .. })
            ));
        }
    }

    #[test]
    fn refuses_what_is_no_key_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        assert!(matches!(
            Keyring::load(&path),
            Err(StoreError::Io { verb: "open", .. })
        ));
        assert!(matches!(
            Keyring::load(folder.path()),
            Err(StoreError::NotAFile(_))
        ));
        for (content, line) in [(&b"\xff"[..], 1), (b"version = 1\n\xff\xfe", 2), (b"[", 1)] {
            std::fs::write(&path, content).unwrap();
            set_mode(&path, 0o600);
            let error = Keyring::load(&path).unwrap_err();
            assert!(
                matches!(error, StoreError::Content { error: KeyfileError::Form { line: found }, .. } if found == line),
                "{error}"
            );
        }
        std::fs::write(&path, vec![b'\n'; SIZE_MAX * 2]).unwrap();
        let error = Keyring::load(&path).unwrap_err();
        assert!(
            matches!(
                error,
                StoreError::Content {
                    error: KeyfileError::TooLong(_),
                    ..
                }
            ),
            "{error}"
        );
        let missing = folder.path().join("no").join("keys");
        assert!(matches!(
            Keyring::create(&missing, NOW),
            Err(StoreError::Io { verb: "create", .. })
        ));
    }

    #[test]
    fn rotation_overlaps_and_then_only_the_new_key_names() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().join("real");
        let path = folder.path().join("link");
        let first = Keyring::create(&real, NOW).unwrap();
        std::os::unix::fs::symlink(&real, &path).unwrap();
        let old = first.current(NOW).unwrap().clone();
        let later = NOW + 1000;
        let (rotated, new) = Keyring::rotate(&path, later, 500).unwrap();
        assert!(path.is_symlink() && Keyring::load(&path).unwrap().same_keys(&rotated));
        assert_eq!(std::fs::metadata(&real).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            2,
            "no temporary file stays"
        );

        let secret = Secret::copy_from(b"synthetic");
        let kids = |now| -> Vec<Kid> {
            rotated
                .fingerprints(&secret, now)
                .into_iter()
                .map(|name| name.kid)
                .collect()
        };
        assert_eq!(kids(NOW - 1), []);
        assert_eq!(kids(later - 1), std::slice::from_ref(&old));
        assert_eq!(kids(later), [new.clone(), old.clone()]);
        assert_eq!(kids(later + 499), [new.clone(), old.clone()]);
        assert_eq!(kids(later + 500), std::slice::from_ref(&new));
        assert_eq!(rotated.fingerprints_ever(&secret).len(), 2);
        assert_eq!(
            rotated.fingerprints(&secret, later)[1],
            first.fingerprints(&secret, NOW)[0],
            "the old name is still given"
        );

        let (again, newest) = Keyring::rotate(&path, later, 500).unwrap();
        assert_eq!(
            again.current(later),
            Some(&newest),
            "even within the same second"
        );
        assert!(Keyring::load(&path).unwrap().same_keys(&again));
    }

    #[test]
    fn rotations_at_once_lose_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        Keyring::create(&path, NOW).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..4).for_each(|_| drop(Keyring::rotate(&path, NOW, 1).unwrap())));
            }
        });
        assert_eq!(Keyring::load(&path).unwrap().keys().count(), 17);
    }

    /// The MAC against an independent implementation, over lengths around every block boundary.
    #[test]
    fn fingerprints_agree_with_python() {
        let script = "import sys,hmac,hashlib,base64\n\
            for line in sys.stdin:\n\
            \x20 key,text=[bytes.fromhex(part) for part in line.split(',')]\n\
            \x20 mac=hmac.new(key,b'tkf1\\0'+text,hashlib.sha256).digest()\n\
            \x20 print(base64.urlsafe_b64encode(mac).decode().rstrip('='))\n";
        let keyring = Keyring::generate(NOW).unwrap();
        let kid = keyring.current(NOW).unwrap();
        let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
        let secrets: Vec<Vec<u8>> = (0..200)
            .chain([1000, 4096])
            .map(|len| (0..len).map(|n| (n * 31 + len) as u8).collect())
            .collect();
        let input: String = secrets
            .iter()
            .map(|secret| {
                format!(
                    "{},{}\n",
                    hex(&keyring.entries[0].material.key),
                    hex(secret)
                )
            })
            .collect();
        let python = std::process::Command::new("python3")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn();
        let mut python =
            python.expect("python3 is one of the packages that `cargo xtask setup` installs");
        let mut stdin = python.stdin.take().unwrap();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
        let output = python.wait_with_output().unwrap();
        writer.join().unwrap();
        let expected = String::from_utf8(output.stdout).unwrap();
        assert_eq!(expected.lines().count(), secrets.len());
        for (secret, mac) in secrets.iter().zip(expected.lines()) {
            let names = keyring.fingerprints(&Secret::copy_from(secret), NOW);
            assert_eq!(names.len(), 1);
            assert_eq!(
                names[0].to_string(),
                format!("tkf1:{kid}:{mac}"),
                "length {}",
                secret.len()
            );
        }
    }

    #[test]
    fn a_run_without_a_key_file_says_so_in_its_key_id() {
        let (one, other) = (Keyring::ephemeral().unwrap(), Keyring::ephemeral().unwrap());
        assert!(one.is_ephemeral() && one.current(i64::MIN).is_some());
        assert_ne!(one.current(0), other.current(0));
        assert!(one.current(0).unwrap().as_str().starts_with("run-"));
        assert!(!Keyring::generate(NOW).unwrap().is_ephemeral());
        assert!(
            Keyring::parse(&one.serialize()).is_err(),
            "never written by accident and then read"
        );
    }
}
