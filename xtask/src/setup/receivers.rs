//! Programs that receive events in tests: an OpenTelemetry Collector, rsyslog and syslog-ng, in the cache.
//!
//! Debian's two syslog daemons exclude each other, and each would become the machine's own log. So their packages are
//! downloaded and unpacked (`daemons/NAME`), with those of their libraries that the system lacks, and nothing is
//! installed: the tests start them from there, with configurations of their own.
//!
//! The collector (`otelcol/otelcol`) is built from its Go modules by its own builder; that takes minutes, once.
//!
//! Invariant: nothing of the system changes.

use super::{Missing, apt};
use crate::process;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

const MANIFEST: &str = include_str!("../../fixtures/otelcol.yaml");
const BUILDER: &str = "go.opentelemetry.io/collector/cmd/builder";

struct Daemon {
    name: &'static str,
    packages: &'static [&'static str],
    program: &'static str,
}

const DAEMONS: [Daemon; 2] = [
    Daemon {
        name: "rsyslog",
        packages: &["rsyslog", "rsyslog-gnutls"],
        program: "usr/sbin/rsyslogd",
    },
    Daemon {
        name: "syslog-ng",
        packages: &["syslog-ng-core"],
        program: "usr/sbin/syslog-ng",
    },
];

pub fn ensure(workspace: &Workspace) -> Result<Vec<Missing>> {
    let mut missing = Vec::new();
    for daemon in &DAEMONS {
        let folder = workspace.fixtures().join("daemons").join(daemon.name);
        if folder.join(daemon.program).exists() {
            continue;
        }
        if let Err(error) = unpack(workspace, daemon, &folder) {
            missing.push(Missing {
                what: format!("{} (a receiver in tests)", daemon.name),
                command: format!(
                    "apt-get download {} and their libraries, then `dpkg-deb -x` each into {}",
                    daemon.packages.join(" "),
                    folder.display()
                ),
                cause: Some(format!("{error:#}")),
                optional: false,
            });
        }
    }
    let folder = workspace.fixtures().join("otelcol");
    let built = fs::read_to_string(folder.join("built.yaml")).unwrap_or_default();
    if built != MANIFEST
        && let Err(error) = build_collector(workspace, &folder)
    {
        missing.push(Missing {
            what: "an OpenTelemetry Collector (a receiver in tests)".to_owned(),
            command: format!(
                "cd {} && go run {BUILDER}@v{} --config manifest.yaml && cp build/otelcol . && cp manifest.yaml built.yaml",
                folder.display(),
                version(MANIFEST)
            ),
            cause: Some(format!("{error:#}")),
            optional: false,
        });
    }
    Ok(missing)
}

/// Into a folder beside, which is renamed when it is whole.
fn unpack(workspace: &Workspace, daemon: &Daemon, folder: &Path) -> Result<()> {
    ensure!(
        apt::is_there(),
        "this system has no apt-get to download Debian's packages with"
    );
    if apt::may_install() {
        apt::update(workspace)?;
    }
    let plan = process::output(
        Command::new("apt-get")
            .args(["-s", "-q", "install", "--no-install-recommends"])
            .args(daemon.packages),
    )?;
    let mut packages = planned(&plan);
    for package in daemon.packages {
        // One that is installed already is not in the plan.
        if !packages.iter().any(|planned| planned == package) {
            packages.push((*package).to_owned());
        }
    }
    let making = folder.with_extension("making");
    if making.exists() {
        fs::remove_dir_all(&making).context("cannot remove what was left half made")?;
    }
    let downloads = making.join("packages");
    fs::create_dir_all(&downloads)
        .with_context(|| format!("cannot make {}", downloads.display()))?;
    let log = workspace.logs().join(format!("{}.log", daemon.name));
    process::logged(
        &format!("{}: download of {} packages", daemon.name, packages.len()),
        Command::new("apt-get")
            .args(["download", "-q"])
            .args(&packages)
            .current_dir(&downloads),
        &log,
    )?;
    for package in fs::read_dir(&downloads).context("cannot list what was downloaded")? {
        process::output(
            Command::new("dpkg-deb")
                .arg("-x")
                .arg(package?.path())
                .arg(&making),
        )?;
    }
    fs::remove_dir_all(&downloads).context("cannot remove what was unpacked")?;
    if !making.join(daemon.program).exists() {
        bail!("its packages hold no {}", daemon.program);
    }
    fs::rename(&making, folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// The packages that `apt-get -s install` would install.
fn planned(plan: &str) -> Vec<String> {
    plan.lines()
        .filter_map(|line| line.strip_prefix("Inst "))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect()
}

fn build_collector(workspace: &Workspace, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    fs::write(folder.join("manifest.yaml"), MANIFEST).context("cannot write its manifest")?;
    process::logged(
        "OpenTelemetry Collector",
        Command::new("go")
            .arg("run")
            .arg(format!("{BUILDER}@v{}", version(MANIFEST)))
            .args(["--config", "manifest.yaml"])
            .env("GOTOOLCHAIN", "local")
            .current_dir(folder),
        &workspace.logs().join("otelcol.log"),
    )?;
    fs::rename(folder.join("build/otelcol"), folder.join("otelcol"))
        .context("the builder made no program")?;
    // Written last: what was cut short has no such file.
    fs::write(folder.join("built.yaml"), MANIFEST).context("cannot note what was built")
}

fn version(manifest: &str) -> &str {
    manifest
        .lines()
        .find_map(|line| line.trim().strip_prefix("version: "))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_names_what_would_be_installed() {
        let plan = "Reading package lists...\nInst libestr0 (0.1.11-1 Debian:12 [amd64])\n\
                    Inst rsyslog (8.2302.0 Debian:12 [amd64]) []\nConf libestr0 (0.1.11-1 Debian:12 [amd64])\n";
        assert_eq!(planned(plan), ["libestr0", "rsyslog"]);
    }

    #[test]
    fn builder_and_modules_have_one_version() {
        let version = version(MANIFEST);
        assert!(!version.is_empty());
        for module in ["otlpreceiver", "otlphttpexporter"] {
            assert!(MANIFEST.contains(&format!("{module} v{version}\n")));
        }
    }
}
