//! Where the socket and lifecycle probes are attached, and how they are detached and attached again.
//!
//! A program is loaded once; while the agent rests (`crate::budget`) only its link is dropped, so that coming back needs
//! neither the object nor the verifier, and costs a call for each probe.
//!
//! Invariant: probes are attached all or not at all, but those that only tell of files before they are executed.

use super::{
    features::Rung,
    probes::{Error, Probes, program},
};
use aya::{
    Btf,
    programs::{
        FEntry, FExit, RawTracePoint, fentry::FEntryLink, fexit::FExitLink,
        raw_trace_point::RawTracePointLink,
    },
};
use tracing::debug;

pub(super) const TRACING: &[(&str, &str, bool)] = &[
    ("inet_sendmsg_enter", "inet_sendmsg", true),
    ("inet_sendmsg_exit", "inet_sendmsg", false),
    ("inet6_sendmsg_enter", "inet6_sendmsg", true),
    ("inet6_sendmsg_exit", "inet6_sendmsg", false),
    ("inet_recvmsg_enter", "inet_recvmsg", true),
    ("inet_recvmsg_exit", "inet_recvmsg", false),
    ("inet6_recvmsg_enter", "inet6_recvmsg", true),
    ("inet6_recvmsg_exit", "inet6_recvmsg", false),
    ("unix_stream_sendmsg_enter", "unix_stream_sendmsg", true),
    ("unix_stream_sendmsg_exit", "unix_stream_sendmsg", false),
    ("unix_stream_recvmsg_enter", "unix_stream_recvmsg", true),
    ("unix_stream_recvmsg_exit", "unix_stream_recvmsg", false),
    ("vm_mmap_pgoff_exit", "vm_mmap_pgoff", false),
];

/// Where files are made executable. Not every kernel has each of them, or lets it be attached to: what is not told is
/// searched when it is executed.
const MADE: &[(&str, &str)] = &[
    ("open_exit", "__x64_sys_open"),
    ("creat_exit", "__x64_sys_creat"),
    ("chmod_exit", "__x64_sys_chmod"),
    ("fchmod_exit", "__x64_sys_fchmod"),
    ("openat_exit", "__x64_sys_openat"),
    ("fchmodat_exit", "__x64_sys_fchmodat"),
    ("openat2_exit", "__x64_sys_openat2"),
    ("fchmodat2_exit", "__x64_sys_fchmodat2"),
];

pub(super) const LIFECYCLE: &[&str] = &[
    "inet_sock_set_state",
    "tcp_destroy_sock",
    "sched_process_exec",
    "sched_process_fork",
    "sched_process_exit",
    "cgroup_mkdir",
    "cgroup_attach_task",
];

/// One attached probe; dropping it detaches it.
pub(super) enum Hook {
    Tracepoint { _link: RawTracePointLink },
    Entry { _link: FEntryLink },
    Exit { _link: FExitLink },
}

impl Probes {
    /// Attaches the socket rung and the process and socket lifecycle, for the first time or again.
    pub fn attach(&mut self, rung: Rung) -> Result<(), Error> {
        let attached = self.attach_all(rung);
        if attached.is_err() {
            self.detach();
        }
        attached
    }

    /// Detaches them. Programs, maps and counters stay.
    pub fn detach(&mut self) {
        self.hooks.clear();
    }

    pub fn is_attached(&self) -> bool {
        !self.hooks.is_empty()
    }

    fn attach_all(&mut self, rung: Rung) -> Result<(), Error> {
        for name in LIFECYCLE {
            self.attach_tracepoint(name)?;
        }
        match rung {
            Rung::Tracing => {
                let btf = Btf::from_sys_fs().map_err(|error| Error::Load(error.into()))?;
                for (name, function, entry) in TRACING {
                    self.attach_tracing(name, function, *entry, &btf)?;
                }
                for (name, function) in if self.tell_made { MADE } else { &[] } {
                    if let Err(error) = self.attach_tracing(name, function, false, &btf) {
                        debug!(%error, "some files that are made executable are not searched then");
                    }
                }
                Ok(())
            }
            Rung::Tracepoints => self.attach_tracepoint("sys_exit"),
        }
    }

    fn attach_tracepoint(&mut self, name: &'static str) -> Result<(), Error> {
        let program: &mut RawTracePoint = program(&mut self.ebpf, name)?;
        let failed = |source| Error::Program { name, source };
        if program.fd().is_err() {
            program.load().map_err(failed)?;
        }
        let id = program.attach(name).map_err(failed)?;
        let _link = program.take_link(id).map_err(failed)?;
        self.hooks.push(Hook::Tracepoint { _link });
        Ok(())
    }

    fn attach_tracing(
        &mut self,
        name: &'static str,
        function: &str,
        entry: bool,
        btf: &Btf,
    ) -> Result<(), Error> {
        let failed = |source| Error::Program { name, source };
        let hook = if entry {
            let program: &mut FEntry = program(&mut self.ebpf, name)?;
            if program.fd().is_err() {
                program.load(function, btf).map_err(failed)?;
            }
            let id = program.attach().map_err(failed)?;
            let _link = program.take_link(id).map_err(failed)?;
            Hook::Entry { _link }
        } else {
            let program: &mut FExit = program(&mut self.ebpf, name)?;
            if program.fd().is_err() {
                program.load(function, btf).map_err(failed)?;
            }
            let id = program.attach().map_err(failed)?;
            let _link = program.take_link(id).map_err(failed)?;
            Hook::Exit { _link }
        };
        self.hooks.push(hook);
        Ok(())
    }
}
