//! `cargo xtask setup`: what is missing is installed, what cannot be is named with the command that would do it.
//!
//! A step looks first and works only if it must, so that a second run takes a moment and every other command can
//! call this before it starts. What a step installs for this project alone goes into the cache; system packages come
//! from Debian's `apt-get`, and elsewhere are named by the program that is missing.
//!
//! Invariant: nothing is removed or upgraded, no service is started or enabled, no boot loader is touched.

mod apt;
mod engines;
mod fixtures;
mod machine;
mod packages;
mod probes;
mod receivers;
mod s3;

pub use engines::python as engines_python;
pub use fixtures::{python, system_python};
pub use machine::{Machine, kernel_images, virtme};
pub use packages::{add_probe_clippy, add_rust_components};

use crate::say;
use crate::workspace::Workspace;
use anyhow::Result;
use std::time::Instant;

/// What a command is going to do, and so what must be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Build probes and agent.
    pub build: bool,
    /// The programs of the demo.
    pub demo: bool,
    /// The programs and fixtures of the tests.
    pub test: bool,
    /// What makes load.
    pub bench: bool,
    /// Programs of the tests, as far as they can be had.
    pub programs: bool,
    /// What the collector is compared with.
    pub engines: bool,
    /// What makes packages.
    pub dist: bool,
    /// Kernels, QEMU and virtme-ng, and what makes a Debian root.
    pub vm: bool,
}

impl Needs {
    pub const BUILD: Self = Self {
        build: true,
        demo: false,
        test: false,
        bench: false,
        programs: false,
        engines: false,
        dist: false,
        vm: false,
    };
    pub const DEMO: Self = Self {
        demo: true,
        ..Self::BUILD
    };
    pub const TEST: Self = Self {
        test: true,
        dist: true,
        ..Self::DEMO
    };

    pub fn with_dist(self) -> Self {
        Self { dist: true, ..self }
    }

    pub fn with_vm(self, vm: bool) -> Self {
        Self {
            vm: self.vm || vm,
            ..self
        }
    }
}

/// Something that could not be set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What, and what is not possible without it.
    pub what: String,
    /// The command that would do it.
    pub command: String,
    /// What went wrong when it was tried, if it was.
    pub cause: Option<String>,
    /// The rest can be used without it.
    pub optional: bool,
}

/// Every step that `needs` asks for; what is returned is still missing.
pub fn ensure(workspace: &Workspace, needs: Needs) -> Result<Vec<Missing>> {
    let mut missing = packages::ensure(workspace, needs)?;
    if needs.build {
        missing.extend(probes::ensure(workspace)?);
    }
    if needs.demo || needs.test {
        missing.extend(fixtures::ensure(workspace, needs.test)?);
    }
    if needs.programs && !needs.test {
        missing.extend(fixtures::programs(workspace));
    }
    if needs.test {
        missing.extend(receivers::ensure(workspace)?);
        missing.extend(s3::ensure(workspace));
    }
    if needs.engines {
        missing.extend(engines::ensure(workspace));
    }
    if needs.vm {
        missing.extend(machine::ensure(workspace)?);
    }
    Ok(missing)
}

/// Prints what is missing; an error if something is that cannot be done without.
pub fn require(workspace: &Workspace, needs: Needs) -> Result<()> {
    let missing = ensure(workspace, needs)?;
    tell(&missing);
    let needed: Vec<&str> = missing
        .iter()
        .filter(|missing| !missing.optional)
        .map(|missing| missing.what.as_str())
        .collect();
    anyhow::ensure!(needed.is_empty(), "not set up: {}", needed.join("; "));
    Ok(())
}

pub fn tell(missing: &[Missing]) {
    for missing in missing {
        let mark = if missing.optional { "-" } else { "!" };
        say::line(&format!(" {mark} missing: {}", missing.what));
        if let Some(cause) = &missing.cause {
            for line in cause.lines() {
                say::line(&format!("     {line}"));
            }
        }
        say::line(&format!("   do: {}", missing.command));
    }
}

/// The command itself.
pub fn run(workspace: &Workspace, needs: Needs) -> Result<()> {
    let start = Instant::now();
    say::heading("setup");
    require(workspace, needs)?;
    say::line(&format!(
        " + everything is there ({})",
        say::elapsed(start.elapsed())
    ));
    Ok(())
}
