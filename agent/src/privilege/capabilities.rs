//! Capabilities: which are kept, and how the rest is given up for good.
//!
//! Source: capabilities(7); the checks named in [`KEPT`] are those of Linux 6.18.
//!
//! Invariant: what is given up is in no set of the thread afterwards, the bounding set included where it may be changed,
//! and threads that are made later have no more.

use rustix::io::Errno;
use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits,
};

/// A capability of the privileged process, and why.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    pub capability: CapabilitySet,
    pub name: &'static str,
    pub why: &'static str,
    pub when: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    /// The kernel asks for it to attach breakpoints, or there is no `CAP_CHECKPOINT_RESTORE` (before Linux 5.9).
    PointsAskForIt,
    /// The worker has a user of its own.
    OtherUser,
}

/// What the privileged process keeps after its probes are attached.
pub const KEPT: &[Kept] = &[
    Kept {
        capability: CapabilitySet::PERFMON,
        name: "CAP_PERFMON",
        why: "breakpoints at key-log points of processes that are met later (perf_event_open)",
        when: When::Always,
    },
    Kept {
        capability: CapabilitySet::SYS_PTRACE,
        name: "CAP_SYS_PTRACE",
        why: "look at /proc/PID/exe, ns, maps and root of other users' and more privileged processes",
        when: When::Always,
    },
    Kept {
        capability: CapabilitySet::DAC_READ_SEARCH,
        name: "CAP_DAC_READ_SEARCH",
        why: "open executables and libraries that only others may read, to search and to hash them",
        when: When::Always,
    },
    Kept {
        capability: CapabilitySet::CHECKPOINT_RESTORE,
        name: "CAP_CHECKPOINT_RESTORE",
        why: "follow /proc/PID/map_files, which names the very file that is mapped, deleted or not",
        when: When::Always,
    },
    Kept {
        capability: CapabilitySet::BPF,
        name: "CAP_BPF",
        why: "raw_tracepoint_open attaches the other probes after a rest; before Linux 5.19 also to use maps that are \
              open already",
        when: When::Always,
    },
    Kept {
        capability: CapabilitySet::SYS_ADMIN,
        name: "CAP_SYS_ADMIN",
        why: "attach key-log points on kernels that do not take CAP_PERFMON for it; tried at the start, and elsewhere it \
              is given up",
        when: When::PointsAskForIt,
    },
    Kept {
        capability: CapabilitySet::KILL,
        name: "CAP_KILL",
        why: "end a worker that has a user of its own and does not end by itself",
        when: When::OtherUser,
    },
];

/// The highest capability that a kernel may have (a `u64` has 64 bits); unknown ones are refused by the kernel.
const LAST: u32 = 63;

/// What this thread has now.
///
/// # Errors
/// Those of `capget`.
pub fn effective() -> Result<CapabilitySet, Errno> {
    Ok(capabilities(None)?.effective)
}

/// What this thread may have.
///
/// # Errors
/// Those of `capget`.
pub fn permitted() -> Result<CapabilitySet, Errno> {
    Ok(capabilities(None)?.permitted)
}

/// Switches capabilities of this thread off and on again, within those that it is permitted.
///
/// # Errors
/// Those of `capset`.
pub fn set_effective(effective: CapabilitySet) -> Result<(), Errno> {
    let now = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective, ..now })
}

/// Takes everything that was not given from the bounding, ambient and inheritable sets, and has the kernel treat user 0
/// as any other. Where the thread may not change these, it says so: then they hold nothing that could be used without
/// starting a program, which is forbidden otherwise.
pub fn close_sources(kept: CapabilitySet) -> Vec<String> {
    let mut weaker = Vec::new();
    let mut failed = |what: &str, result: Result<(), Errno>| {
        if let Err(error) = result {
            weaker.push(format!("{what} cannot be changed: {error}"));
        }
    };
    failed("the ambient capabilities", clear_ambient_capability_set());
    let bounding = (0..=LAST)
        .map(|number| CapabilitySet::from_bits_retain(1 << number))
        .filter(|capability| !kept.contains(*capability))
        .map(remove_capability_from_bounding_set)
        // Not known to this kernel.
        .filter(|result| *result != Err(Errno::INVAL))
        .find(Result::is_err);
    failed("the bounding capabilities", bounding.unwrap_or(Ok(())));
    use CapabilitiesSecureBits as Bits;
    let bits = Bits::NO_ROOT
        | Bits::NO_ROOT_LOCKED
        | Bits::NO_SETUID_FIXUP
        | Bits::NO_SETUID_FIXUP_LOCKED
        | Bits::KEEP_CAPS_LOCKED
        | Bits::NO_CAP_AMBIENT_RAISE
        | Bits::NO_CAP_AMBIENT_RAISE_LOCKED;
    failed("the secure bits", set_capabilities_secure_bits(bits));
    weaker
}

/// Gives up all but `kept`.
///
/// # Errors
/// Those of `capset`.
pub fn keep(kept: CapabilitySet) -> Result<(), Errno> {
    let left = capabilities(None)?.permitted.intersection(kept);
    set_capabilities(
        None,
        CapabilitySets {
            effective: left,
            permitted: left,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Names of capabilities, of those in [`KEPT`] at least.
#[must_use]
pub fn names(set: CapabilitySet) -> Vec<&'static str> {
    KEPT.iter()
        .filter(|kept| set.contains(kept.capability))
        .map(|kept| kept.name)
        .collect()
}
