//! Whose a process is, where shares are given out: of searches, of points, of descriptors.
//!
//! Not its user: a container's root and the host's are the same number, and one user may have a hundred names. What
//! counts is the cgroup at which somebody else than root takes over (systemd delegates `user@1000.service`, rootless
//! engines their own folders), else the unit or the container, else the cgroup.
//!
//! Invariant: who may make cgroups below their own, or move processes between these, has one share for all of them: the
//! outermost element that fits decides, and that one only root could have made.

use super::scope::Hierarchy;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Longest `/proc/PID/cgroup` that is read.
const TEXT: u64 = 16 * 1024;
/// Elements of a path that are looked at.
const DEPTH: usize = 64;
/// Digits of a container's id.
const ID: usize = 64;

/// See the module. Equal for all processes of one owner.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(Arc<str>);

impl Owner {
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(name.into())
    }

    /// Of a process. One that is gone, or whose cgroup is not shown, has the owner `unknown`, with all others like it.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        static HIERARCHY: OnceLock<Option<Hierarchy>> = OnceLock::new();
        let hierarchy = HIERARCHY.get_or_init(|| Hierarchy::find().ok());
        let mount = hierarchy.as_ref().map(|hierarchy| &*hierarchy.mount);
        match cgroup(pid) {
            Ok(path) => Self::at(&path, |below| {
                Some(fs::symlink_metadata(mount?.join(below)).ok()?.uid())
            }),
            Err(_) => Self::named("unknown"),
        }
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Of a cgroup's path; `user_of` gives the owner of the folder at a path below the hierarchy's mount.
    fn at(path: &str, user_of: impl Fn(&Path) -> Option<u32>) -> Self {
        let elements = || path.split('/').filter(|element| !element.is_empty());
        // Outside of this process's own cgroup namespace nothing can be looked at.
        let inside = elements().all(|element| element != "..");
        let mut below = String::new();
        let mut unit = None;
        for element in elements().take(DEPTH) {
            if !below.is_empty() {
                below.push('/');
            }
            below.push_str(element);
            if inside && user_of(Path::new(&below)).is_some_and(|user| user != 0) {
                return Self::named(unit.as_deref().unwrap_or(&below));
            }
            if unit.is_none() && (is_unit(element) || is_container(element)) {
                unit = Some(below.clone());
            }
        }
        match unit {
            Some(unit) => Self::named(&unit),
            None if below.is_empty() => Self::named("/"),
            None => Self::named(&below),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The line `0::/path` of `/proc/PID/cgroup` (cgroups(7)).
fn cgroup(pid: u32) -> io::Result<String> {
    let mut text = String::new();
    File::open(format!("/proc/{pid}/cgroup"))?
        .take(TEXT)
        .read_to_string(&mut text)?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"));
    let path = path.ok_or(io::ErrorKind::NotFound)?;
    // The kernel says so of a group that was removed.
    Ok(path.strip_suffix(" (deleted)").unwrap_or(path).to_owned())
}

fn is_unit(element: &str) -> bool {
    [".service", ".scope"].iter().any(|kind| {
        element
            .strip_suffix(kind)
            .is_some_and(|name| !name.is_empty())
    })
}

/// The engines' names for containers' cgroups: `<id>`, `crio-<id>`, `libpod-<id>`.
fn is_container(element: &str) -> bool {
    let id = element.rsplit(['-', ':']).next().unwrap_or(element);
    id.len() == ID && id.bytes().all(|digit| digit.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(path: &str, delegated: &[&str]) -> String {
        let user_of = |below: &Path| {
            let theirs = delegated.iter().any(|folder| below.starts_with(folder));
            Some(if theirs { 1000 } else { 0 })
        };
        Owner::at(path, user_of).name().to_owned()
    }

    #[test]
    fn the_outermost_that_fits_decides() {
        let user = "user.slice/user-1000.slice/user@1000.service";
        let id = "a".repeat(64);
        let cases = [
            ("/".to_owned(), "/".to_owned()),
            (
                "/system.slice/nginx.service".into(),
                "system.slice/nginx.service".into(),
            ),
            (
                "/system.slice/nginx.service/a/b.service".into(),
                "system.slice/nginx.service".into(),
            ),
            (
                "/user.slice/user-0.slice/session-1.scope/x".into(),
                "user.slice/user-0.slice/session-1.scope".into(),
            ),
            (
                format!("/docker/{id}/inner/docker/{id}"),
                format!("docker/{id}"),
            ),
            (
                format!("/machine.slice/docker-{id}.scope/a"),
                format!("machine.slice/docker-{id}.scope"),
            ),
            (
                format!("/kubepods/burstable/pod1/crio-{id}/x"),
                format!("kubepods/burstable/pod1/crio-{id}"),
            ),
            ("/test/one".into(), "test/one".into()),
            (format!("/{user}/app.slice/app.service/x"), user.into()),
            (format!("/{user}"), user.into()),
            ("/../other/x".into(), "../other/x".into()),
        ];
        for (path, expected) in cases {
            assert_eq!(owner(&path, &[user]), expected, "{path}");
        }
    }

    /// Whoever was given a folder has one share, whatever they make in it.
    #[test]
    fn splitting_gains_nothing() {
        let names: Vec<String> = (0..9)
            .map(|n| owner(&format!("/delegated/part{n}/x.service"), &["delegated"]))
            .collect();
        assert!(names.iter().all(|name| name == "delegated"), "{names:?}");
        // Also in a unit that gave them a folder of its own.
        assert_eq!(
            owner("/x.service/theirs/1", &["x.service/theirs"]),
            "x.service"
        );
    }

    #[test]
    fn processes_have_owners() {
        let own = Owner::of(std::process::id());
        assert_eq!(own, Owner::of(std::process::id()));
        assert!(!own.name().is_empty());
        assert_eq!(Owner::of(u32::MAX), Owner::named("unknown"));
    }
}
