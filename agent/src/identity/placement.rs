//! What a cgroup's path says: systemd unit, container, pod.
//!
//! systemd's layout: slices, then the unit, then whatever the unit's own manager makes below it; under
//! `user@UID.service` a user's manager repeats the same (systemd src/basic/cgroup-util.c, `cg_path_get_unit` and
//! `cg_path_get_user_unit`).
//!
//! Container engines name their cgroups in two ways, by the cgroup driver in use:
//!
//! | engine | systemd driver | cgroupfs driver |
//! |---|---|---|
//! | Docker | `docker-<id>.scope` | `docker/<id>` |
//! | containerd (Kubernetes) | `cri-containerd-<id>.scope` | `kubepods/.../pod<uid>/<id>` |
//! | containerd (nerdctl) | `nerdctl-<id>.scope` | `<namespace>/<id>` |
//! | CRI-O | `crio-<id>.scope` | `crio-<id>` |
//! | Podman | `libpod-<id>.scope`, `libpod-payload-<id>` | `libpod_parent/libpod-<id>` |
//!
//! `<id>` is 64 hexadecimal digits. `*-conmon-<id>` is the engine's monitor outside the container. The innermost
//! container counts. Anyone who may make cgroups may choose such names, so this is what the path says, as
//! every other tool reads it.

use agent_common::event::{Container, ContainerRuntime, Kubernetes, Pod, Systemd};

/// A control group's path and what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Path below the hierarchy's root, `/` for the root itself.
    pub path: String,
    pub systemd: Option<Systemd>,
    pub container: Option<Container>,
    /// Pod uid, with dashes.
    pub pod: Option<String>,
}

impl Placement {
    /// Reads a path such as `/system.slice/docker-<id>.scope`.
    #[must_use]
    pub fn parse(path: &str) -> Self {
        let parts: Vec<&str> = path
            .split('/')
            .filter(|part| !part.is_empty())
            // systemd escapes names that the kernel uses itself (`cg_escape`).
            .map(|part| part.strip_prefix('_').unwrap_or(part))
            .collect();
        Self {
            path: path.to_owned(),
            systemd: systemd(&parts),
            container: container(&parts),
            pod: parts.iter().rev().find_map(|part| pod(part)),
        }
    }

    /// The pod as events have it.
    #[must_use]
    pub fn kubernetes(&self) -> Option<Kubernetes> {
        let uid = self.pod.clone()?;
        Some(Kubernetes { pod: Pod { uid } })
    }
}

const UNIT_TYPES: [&str; 7] = [
    ".service", ".scope", ".socket", ".mount", ".swap", ".timer", ".path",
];

fn is_unit(part: &str) -> bool {
    UNIT_TYPES
        .iter()
        .any(|kind| part.strip_suffix(kind).is_some_and(|name| !name.is_empty()))
}

fn systemd(parts: &[&str]) -> Option<Systemd> {
    let slices = parts
        .iter()
        .take_while(|part| part.ends_with(".slice"))
        .count();
    let slice = slices.checked_sub(1).map(|last| parts[last].to_owned());
    let unit = parts.get(slices).copied().filter(|part| is_unit(part));
    let session = unit
        .and_then(|unit| unit.strip_prefix("session-")?.strip_suffix(".scope"))
        .map(str::to_owned);
    let manager = unit.and_then(|unit| {
        unit.strip_prefix("user@")?
            .strip_suffix(".service")?
            .parse()
            .ok()
    });
    let owner_uid = manager.or_else(|| {
        let user = parts[..slices]
            .iter()
            .rev()
            .find_map(|part| part.strip_prefix("user-"))?;
        user.strip_suffix(".slice")?.parse().ok()
    });
    let user_unit = manager.and_then(|_: u32| {
        let below = &parts[slices + 1..];
        let first = below.iter().find(|part| !part.ends_with(".slice"))?;
        is_unit(first).then(|| (*first).to_owned())
    });
    let known = Systemd {
        unit: unit.map(str::to_owned),
        user_unit,
        slice,
        owner_uid,
        session,
    };
    (known != Systemd::default()).then_some(known)
}

/// (prefix, suffix) of a container's folder, with the engine.
const FORMS: [(&str, &str, &str); 8] = [
    ("docker-", ".scope", "docker"),
    ("cri-containerd-", ".scope", "containerd"),
    ("nerdctl-", ".scope", "containerd"),
    ("crio-", ".scope", "cri-o"),
    ("crio-", "", "cri-o"),
    ("libpod-", ".scope", "podman"),
    ("libpod-payload-", "", "podman"),
    ("libpod-", "", "podman"),
];

fn container(parts: &[&str]) -> Option<Container> {
    let (index, id, runtime) = parts.iter().enumerate().rev().find_map(|(index, part)| {
        if is_id(part) {
            return Some((index, *part, None));
        }
        // Where the systemd driver's `slice:prefix:id` met the cgroupfs driver, it became a folder's name.
        let last = part.rsplit(':').next().unwrap_or(part);
        if last != *part && is_id(last) {
            let runtime = part.contains(":cri-containerd:").then_some("containerd");
            return Some((index, last, runtime));
        }
        FORMS.iter().find_map(|(prefix, suffix, runtime)| {
            let id = part.strip_prefix(prefix)?.strip_suffix(suffix)?;
            is_id(id).then_some((index, id, Some(*runtime)))
        })
    })?;
    let parent = index.checked_sub(1).map(|parent| parts[parent]);
    let runtime = runtime.or(match parent {
        Some("docker") => Some("docker"),
        Some("libpod_parent") => Some("podman"),
        // containerd's namespaces of nerdctl and of Kubernetes.
        Some("default" | "k8s.io") => Some("containerd"),
        _ => None,
    });
    Some(Container {
        id: id.to_owned(),
        runtime: runtime.map(|name| ContainerRuntime {
            name: name.to_owned(),
        }),
    })
}

fn is_id(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// `pod<uid>` (cgroupfs) or `kubepods-burstable-pod<uid>.slice`, where dashes of the uid became underscores.
fn pod(part: &str) -> Option<String> {
    let name = part.split(':').next().unwrap_or(part);
    let name = name.strip_suffix(".slice").unwrap_or(name);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid,
        None if name.starts_with("kubepods-") => name.rsplit_once("-pod")?.1,
        None => return None,
    };
    let uid = uid.replace('_', "-");
    let dashes = [8, 13, 18, 23];
    let well_formed = uid.len() == 36
        && uid.bytes().enumerate().all(|(index, byte)| {
            if dashes.contains(&index) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        });
    // Static pods have a hash of 32 digits instead of a uid; it is not one, and is left out.
    well_formed.then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f3c2b1a00112233445566778899aabbccddeeff00112233445566778899aabb";
    const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

    /// `path` (with ID, UID and UID_ replaced) gives "unit user_unit slice owner session", runtime, pod.
    fn check(path: &str, systemd: &str, container: Option<&str>, pod: bool) {
        let path = path
            .replace("UID_", &UID.replace('-', "_"))
            .replace("UID", UID)
            .replace("ID", ID);
        let placement = Placement::parse(&path);
        let unit = placement.systemd.clone().unwrap_or_default();
        let dash = |part: Option<String>| part.unwrap_or_else(|| "-".into());
        let found = [
            dash(unit.unit),
            dash(unit.user_unit),
            dash(unit.slice),
            dash(unit.owner_uid.map(|uid| uid.to_string())),
            dash(unit.session),
        ]
        .join(" ");
        assert_eq!(found, systemd, "{path}");
        let engine = placement.container.as_ref().map(|container| {
            assert_eq!(container.id, ID, "{path}");
            container
                .runtime
                .as_ref()
                .map_or("?", |runtime| runtime.name.as_str())
        });
        assert_eq!(engine, container, "{path}");
        assert_eq!(placement.pod.as_deref(), pod.then_some(UID), "{path}");
        assert_eq!(placement.path, path);
    }

    #[test]
    fn systemd_forms() {
        for (path, systemd) in [
            ("/", "- - - - -"),
            ("", "- - - - -"),
            ("/init.scope", "init.scope - - - -"),
            (
                "/system.slice/nginx.service",
                "nginx.service - system.slice - -",
            ),
            (
                "/system.slice/nginx.service/worker",
                "nginx.service - system.slice - -",
            ),
            (
                "/system.slice/system-getty.slice/getty@tty1.service",
                "getty@tty1.service - system-getty.slice - -",
            ),
            (
                "/user.slice/user-1000.slice/session-3.scope",
                "session-3.scope - user-1000.slice 1000 3",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-term-1.scope",
                "user@1000.service app-term-1.scope user-1000.slice 1000 -",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/init.scope",
                "user@1000.service init.scope user-1000.slice 1000 -",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service",
                "user@1000.service - user-1000.slice 1000 -",
            ),
            (
                "/system.slice/run-r1.scope/x.service",
                "run-r1.scope - system.slice - -",
            ),
            (
                "/system.slice/_cpu.service",
                "cpu.service - system.slice - -",
            ),
            (
                "/system.slice/var-lib.mount",
                "var-lib.mount - system.slice - -",
            ),
            ("/tokentrail-demo", "- - - - -"),
            ("/.service", "- - - - -"),
            ("/custom.slice", "- - custom.slice - -"),
        ] {
            check(path, systemd, None, false);
        }
    }

    #[test]
    fn container_forms() {
        let none = "- - - - -";
        for (path, systemd, runtime, pod) in [
            (
                "/system.slice/docker-ID.scope",
                "docker-ID.scope - system.slice - -",
                "docker",
                false,
            ),
            ("/docker/ID", none, "docker", false),
            ("/docker/ID/sub", none, "docker", false),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID_.slice/cri-containerd-ID.scope",
                "cri-containerd-ID.scope - kubepods-burstable-podUID_.slice - -",
                "containerd",
                true,
            ),
            (
                "/kubepods.slice/kubepods-podUID_.slice/crio-ID.scope",
                "crio-ID.scope - kubepods-podUID_.slice - -",
                "cri-o",
                true,
            ),
            ("/kubepods/burstable/podUID/ID", none, "?", true),
            ("/kubepods/podUID/crio-ID", none, "cri-o", true),
            (
                "/system.slice/containerd.service/kubepods-burstable-podUID_.slice:cri-containerd:ID",
                "containerd.service - system.slice - -",
                "containerd",
                true,
            ),
            (
                "/system.slice/nerdctl-ID.scope",
                "nerdctl-ID.scope - system.slice - -",
                "containerd",
                false,
            ),
            ("/default/ID", none, "containerd", false),
            ("/k8s.io/ID", none, "containerd", false),
            (
                "/machine.slice/libpod-ID.scope",
                "libpod-ID.scope - machine.slice - -",
                "podman",
                false,
            ),
            (
                "/machine.slice/libpod-ID.scope/container",
                "libpod-ID.scope - machine.slice - -",
                "podman",
                false,
            ),
            ("/libpod_parent/libpod-ID", none, "podman", false),
            (
                "/system.slice/web.service/libpod-payload-ID",
                "web.service - system.slice - -",
                "podman",
                false,
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                "user@1000.service libpod-ID.scope user-1000.slice 1000 -",
                "podman",
                false,
            ),
            (
                "/system.slice/docker-ID.scope/docker/ID",
                "docker-ID.scope - system.slice - -",
                "docker",
                false,
            ),
        ] {
            let systemd = systemd
                .replace("UID_", &UID.replace('-', "_"))
                .replace("ID", ID);
            check(path, &systemd, Some(runtime), pod);
        }
    }

    #[test]
    fn pods_in_nested_names_are_found() {
        // The pod's slice is within the last component here.
        let path = format!("/x/kubepods-podUID_.slice:cri-containerd:{ID}")
            .replace("UID_", &UID.replace('-', "_"));
        assert_eq!(Placement::parse(&path).pod.as_deref(), Some(UID));
    }

    #[test]
    fn monitors_and_short_ids_are_no_containers() {
        for path in [
            "/machine.slice/libpod-conmon-ID.scope",
            "/kubepods.slice/crio-conmon-ID.scope",
            "/system.slice/docker-0123456789ab.scope",
            "/docker/buildkit/abc",
            "/docker",
            "/system.slice/docker.service",
            "/system.slice/docker-IDa.scope",
        ] {
            let path = path.replace("ID", ID);
            assert_eq!(Placement::parse(&path).container, None, "{path}");
        }
        assert_eq!(
            Placement::parse(&format!("/docker/{}", ID.to_uppercase())).container,
            None
        );
    }

    #[test]
    fn every_cut_is_harmless() {
        let path = format!("/kubepods.slice/kubepods-pod{UID}.slice/cri-containerd-{ID}.scope/é/x");
        for end in 0..=path.len() {
            super::super::fuzz::placement(&path.as_bytes()[..end]);
            super::super::fuzz::texts(&path.as_bytes()[..end]);
        }
    }
}
