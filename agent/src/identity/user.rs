//! User names from the host's `/etc/passwd`.
//!
//! Read directly: NSS would load foreign code into a privileged process and may ask the network. Accounts that
//! live in a directory service have an id and no name here.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

const SIZE_LIMIT: u64 = 16 * 1024 * 1024;
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The accounts of one passwd file, read again when it changes.
pub struct Users {
    path: PathBuf,
    names: HashMap<u32, Arc<str>>,
    /// Of the file as read: modification time and size.
    version: Option<(SystemTime, u64)>,
    checked: Option<Instant>,
}

impl Users {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            names: HashMap::new(),
            version: None,
            checked: None,
        }
    }

    /// Name of a user id; looks at the file at most once a second.
    pub fn name(&mut self, uid: u32) -> Option<Arc<str>> {
        if self
            .checked
            .is_none_or(|checked| checked.elapsed() >= CHECK_EVERY)
        {
            self.checked = Some(Instant::now());
            self.refresh();
        }
        self.names.get(&uid).cloned()
    }

    fn refresh(&mut self) {
        let Ok(file) = File::open(&self.path) else {
            self.names.clear();
            self.version = None;
            return;
        };
        let version = file
            .metadata()
            .and_then(|metadata| Ok((metadata.modified()?, metadata.len())))
            .ok();
        if version.is_some() && version == self.version {
            return;
        }
        let mut bytes = Vec::new();
        if file.take(SIZE_LIMIT).read_to_end(&mut bytes).is_ok() {
            self.names = parse(&bytes);
            self.version = version;
        }
    }
}

/// `name:password:uid:...` (passwd(5)); of several names the first counts, as in `getpwuid`.
pub(super) fn parse(bytes: &[u8]) -> HashMap<u32, Arc<str>> {
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(bytes).lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(Ok(uid))) = (fields.next(), fields.nth(1).map(str::parse)) else {
            continue;
        };
        if !name.is_empty() && !name.starts_with(['#', '+', '-']) {
            names.entry(uid).or_insert_with(|| Arc::from(name));
        }
    }
    names
}

/// User and group id of an account, by its name or its user id.
#[must_use]
pub fn account(accounts: &[u8], wanted: &str) -> Option<(u32, u32)> {
    let text = String::from_utf8_lossy(accounts);
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let user = fields.nth(1)?;
        let group = fields.next()?;
        let fits = !name.is_empty() && (name == wanted || user == wanted);
        fits.then(|| Some((user.parse().ok()?, group.parse().ok()?)))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let names = parse(
            b"root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/:/bin/sh\n#old:x:5:5::/:/\n+nis:x:6:6::/:/\n\
              short:x\nbad:x:-1:0::/:/\n:x:7:7::/:/\nalice:x:1000:1000::/home/alice:/bin/zsh",
        );
        let mut found: Vec<_> = names
            .iter()
            .map(|(uid, name)| (*uid, name.as_ref()))
            .collect();
        found.sort_unstable();
        assert_eq!(found, [(0, "root"), (1000, "alice")]);
    }

    #[test]
    fn accounts_by_name_and_number() {
        let accounts = b"root:x:0:0::/:/\ntrail:x:990:991::/:/\nbad:x:y:1::/:/\n:x:7:7::/:/\n";
        assert_eq!(account(accounts, "trail"), Some((990, 991)));
        assert_eq!(account(accounts, "990"), Some((990, 991)));
        for nobody in ["", "7", "bad", "rail", "991", "x"] {
            assert_eq!(account(accounts, nobody), None, "{nobody}");
        }
    }

    #[test]
    fn every_cut_is_harmless() {
        let whole = b"root:x:0:0:root:/root:/bin/bash\nalice:x:1000:1000::/:/\n";
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).len() <= 2);
        }
    }

    #[test]
    fn a_changed_file_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passwd");
        let mut users = Users::new(&path);
        assert_eq!(users.name(1), None);
        std::fs::write(&path, "one:x:1:1::/:/\n").unwrap();
        users.checked = None;
        assert_eq!(users.name(1).as_deref(), Some("one"));
        std::fs::write(&path, "other:x:1:1::/:/\n").unwrap();
        assert_eq!(
            users.name(1).as_deref(),
            Some("one"),
            "not looked at again within a second"
        );
        users.checked = None;
        assert_eq!(users.name(1).as_deref(), Some("other"));
        std::fs::remove_file(&path).unwrap();
        users.checked = None;
        assert_eq!(users.name(1), None);
    }
}
