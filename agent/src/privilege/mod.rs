//! Least privilege: two processes, what each may do, and the narrow pipe between them.
//!
//! Threads share memory, so what parses bytes of strangers is a process of its own. The *privileged* one, the one that
//! was started, loads and attaches the probes, opens files to attach to and to hash, and sees other processes' programs
//! in `/proc`. The *worker*, which it starts from its own executable, drains the ring, opens TLS records, parses HTTP,
//! fingerprints credentials and delivers events. Before the worker reads one record it locks itself down
//! ([`lockdown::worker`]); the privileged process gives up what it does not need any more before it looks at the first
//! file ([`lockdown::privileged`]).
//!
//! | | privileged process | worker |
//! |---|---|---|
//! | user | as started, root usually | `agent.user`, or as started |
//! | capabilities | [`capabilities::KEPT`] | none, in no set |
//! | no new privileges, not dumpable, no core | yes | yes |
//! | system calls | all but those that no part of it needs ([`filter::privileged`]) | a list, all others refused ([`filter::worker`]) |
//! | files | as the capabilities allow | Landlock: reads `/proc` and the cgroup tree, writes the folders of its outputs |
//! | network | Unix sockets | Landlock: TCP to the configured ports, where the kernel can (ABI 4) |
//! | holds | configuration, for a moment the fingerprint keys | payloads, traffic secrets, fingerprint keys |
//!
//! Files are searched for key-log points by processes that have fewer rights still than the worker: see
//! [`crate::kernel::keylog::process`], with their lists in [`filter`] and their lockdown in [`lockdown::finder`].
//!
//! What a worker that was taken over could still do: read what it is given (that is its work), use its outputs, read
//! what `/proc` shows to everybody, ask through the pipe which program a process runs and for the digest of a file that
//! may be executed, and drop key-log points. It cannot read other files, start programs, or change its rights. Landlock
//! is not for the privileged process: a process in a Landlock domain may not look into `/proc/PID/exe` of processes
//! outside of it (`hook_ptrace_access_check`, security/landlock/task.c).
//!
//! Invariant: the worker takes no record before [`lockdown::worker`] has returned.
//! Invariant: what one side sends the other cannot panic it, and makes it keep no more than its tables are bounded to.

pub mod attempt;
pub mod capabilities;
pub mod filter;
pub mod folders;
pub mod keeper;
pub mod lockdown;
pub mod message;
pub mod pipe;
pub mod remote;

/// Entry points for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    pub use super::message::fuzz::messages;
}
