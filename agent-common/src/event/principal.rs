//! The local actor: process, user, container, unit.

use super::{Sha256, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who did it on this host: process with its user and ancestors, container, unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Principal {
    /// The process whose socket it was.
    pub process: Process,
    /// The container that the process runs in, from its cgroup's path. Absent outside containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// The systemd unit that the process runs in, from its cgroup's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<Systemd>,
    /// The Kubernetes pod that the process runs in, from its cgroup's path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k8s: Option<Kubernetes>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Process {
    /// Process id in the host's pid namespace.
    pub pid: u32,
    /// When the process was created. With `pid` and `host.boot_id` it names the process.
    pub creation: ProcessCreation,
    /// The process that forked it. Stays when the parent is gone and the child has been handed to another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_pid: Option<u32>,
    /// The program that it ran at the time of the event.
    pub executable: Executable,
    /// The arguments as handed to exec, secrets replaced, cut at what the probe copies. Absent if not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command_args: Option<Vec<String>>,
    /// The arguments were longer than what was copied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub command_args_truncated: bool,
    /// The real user at the time of the call.
    pub real_user: User,
    /// The real group's id at the time of the call, in the host's user namespace.
    pub real_group_id: u32,
    /// The control group.
    pub linux: Cgroup,
    /// The processes that it descends from, nearest first, at most 16. Each with the program that it ran when
    /// it forked the next. Ends early where no more is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
}

/// A process's creation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessCreation {
    /// The start time by the host's wall clock.
    pub time: Time,
}

/// The program that a process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Executable {
    /// Path in the process's own mount namespace: of the opened file where it could still be found, else as it
    /// was handed to exec (which for a script is the script). Absent if neither is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The file had been removed when the agent looked, or never had a name (memfd).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Digest of the file's content, only where the opened file is the one that exec recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
    /// Why there is no digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash_absent: Option<HashAbsent>,
}

/// Digests of a file (ECS `hash.*`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Hash {
    /// SHA-256.
    pub sha256: Sha256,
}

/// Why an executable has no digest.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum HashAbsent {
    /// Not computed in time; later events of the same program have it.
    Pending,
    /// The process had ended and no path led to the file any more.
    Gone,
    /// The file found is not the one that exec recorded (replaced, or a file system whose numbers differ).
    Mismatch,
    /// Larger than the configured limit.
    TooLarge,
    /// The file could not be opened or read, or changed meanwhile.
    Unreadable,
    /// Too many files were waiting.
    Busy,
    /// Hashing is switched off.
    Disabled,
    /// No record says which file it was.
    Unknown,
}

/// A user of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct User {
    /// Id in the host's user namespace.
    pub id: u32,
    /// Name in the host's `/etc/passwd`. Absent in containers and other user namespaces, where the host's
    /// name would be another account's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// The control group of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cgroup {
    /// Path in the cgroup v2 hierarchy, `/` for its root. Absent if the group was gone before its path was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// The cgroup's id: the inode number of its folder.
    pub cgroup_id: u64,
    /// Inode number of the process's network namespace (as in `/proc/PID/ns/net`).
    pub network_namespace: u32,
}

/// A process that another one descends from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ancestor {
    /// Process id in the host's pid namespace.
    pub pid: u32,
    /// When the process was created.
    pub creation: ProcessCreation,
    /// The program that it ran when it forked the next one: its path.
    pub executable: Executable,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Thread {
    /// Thread id in the host's pid namespace.
    pub id: u32,
    /// `comm` of the thread, at most 15 bytes: what it calls itself, which it can change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Container {
    /// The engine's id of the container, 64 hexadecimal digits.
    pub id: String,
    /// The engine, where the cgroup's name says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<ContainerRuntime>,
}

/// A container engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ContainerRuntime {
    /// `docker`, `containerd`, `cri-o` or `podman`.
    pub name: String,
}

/// A systemd unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Systemd {
    /// The system manager's unit: a service, scope or other unit, for example `nginx.service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The unit within a user's manager, for example `app-terminal.scope`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_unit: Option<String>,
    /// The innermost slice that the system manager's unit is in, for example `system.slice`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slice: Option<String>,
    /// User id of the user's manager, or of the login session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner_uid: Option<u32>,
    /// The login session's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

/// Kubernetes facts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Kubernetes {
    /// The pod.
    pub pod: Pod,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pod {
    /// The pod's uid.
    pub uid: String,
}

/// Where the knowledge of a process came from.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum IdentitySource {
    /// The kernel's record of its exec.
    Exec,
    /// The kernel's record of its fork: it runs its parent's program.
    Fork,
    /// `/proc`, when the agent started or met the process first.
    Proc,
    /// Only what the call itself carried.
    Call,
}
