//! What must not be believed any more when the probes are attached again after a rest.
//!
//! While they were detached calls ended, connections moved bytes and closed, processes forked and ended, cgroups came and went, and nobody told. What the maps hold of that is forgotten, but for the scope, which is
//! looked at anew: a stale place in a stream would be a wrong join, and a stale buffer of a call another program's bytes.
//!
//! Invariant: nothing is in the scope's maps that the scope does not name.

use super::{
    probes::{Error, Probes, ProcessValue},
    scope,
};
use agent_common::abi;
use aya::maps::MapError;
use std::io::ErrorKind;

impl Probes {
    /// Forgets what is stale and takes the scope anew; `since` is when the probes were detached, in ticks since boot.
    /// To be called while they are detached.
    pub fn renew(&mut self, since: u64) -> Result<(), Error> {
        let connections: Vec<u64> = self.connections.keys().flatten().collect();
        for sock in connections {
            gone("CONNECTIONS", self.connections.remove(&sock))?;
        }
        // fexit would take the buffer of a call whose exit nobody saw for that of the thread's present one.
        let calls: Vec<u64> = self.calls.keys().flatten().collect();
        for thread in calls {
            gone("CALLS", self.calls.remove(&thread))?;
        }
        self.bridge.clear();
        self.renew_cgroups()?;
        self.renew_processes(since)
    }

    /// Units that were started again have other cgroups now.
    fn renew_cgroups(&mut self) -> Result<(), Error> {
        self.forget_removed();
        let hierarchy = self.hierarchy.as_ref();
        let members: Vec<_> = self
            .scopes
            .iter()
            // What is not running at present is waited for.
            .filter_map(|scope| scope.resolve(hierarchy).ok())
            .flat_map(|resolved| resolved.members)
            .collect();
        for member in members {
            if !self.members.contains(&member) {
                self.add(member)?;
            }
        }
        Ok(())
    }

    /// Ended processes leave the scope, and what its processes have forked since enters it.
    fn renew_processes(&mut self, since: u64) -> Result<(), Error> {
        let known: Vec<abi::ProcessId> = self
            .processes
            .keys()
            .flatten()
            .map(|ProcessValue(process)| process)
            .collect();
        let family = scope::family(&known, since);
        for process in known.iter().filter(|process| !family.contains(process)) {
            gone("PROCESSES", self.processes.remove(&ProcessValue(*process)))?;
        }
        for process in family.iter().filter(|process| !known.contains(process)) {
            self.processes
                .insert(ProcessValue(*process), 1, 0)
                .map_err(|source| Error::Map {
                    name: "PROCESSES",
                    source,
                })?;
        }
        Ok(())
    }
}

/// What is not there any more need not be removed.
fn gone(name: &'static str, removed: Result<(), MapError>) -> Result<(), Error> {
    match removed {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == ErrorKind::NotFound => {
            Ok(())
        }
        removed => removed.map_err(|source| Error::Map { name, source }),
    }
}
