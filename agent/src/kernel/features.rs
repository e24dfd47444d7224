//! What this kernel allows, probed once.

use std::fmt;

/// How sockets are observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// fentry and fexit on the socket functions: below the system calls, io_uring included.
    Tracing,
    /// Raw tracepoint `sys_exit`.
    Tracepoints,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tracing => "fentry",
            Self::Tracepoints => "tracepoints",
        })
    }
}

impl std::str::FromStr for Rung {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fentry" => Ok(Self::Tracing),
            "tracepoints" => Ok(Self::Tracepoints),
            _ => Err(format!(
                "unknown rung {text:?}: expected fentry or tracepoints"
            )),
        }
    }
}

/// What was found out about this kernel and this process's rights.
#[derive(Debug, serde::Serialize)]
pub struct Report {
    pub kernel: String,
    pub architecture: &'static str,
    pub probes_built_in: bool,
    /// Path, or why there is none.
    pub type_information: Result<String, String>,
    pub offsets_present: usize,
    pub offsets_absent: Vec<&'static str>,
    pub cgroup2: Result<String, String>,
    /// Each rung with what the kernel said to it.
    pub rungs: Vec<RungReport>,
    pub chosen: Option<String>,
    /// Whether key-log points can be attached as hardware breakpoints: tried on this very process.
    pub breakpoints: Result<(), String>,
    /// What the process that holds uprobes can do: tried by starting it.
    pub keeper: Result<super::keeper::Facts, String>,
    pub user: u32,
    pub capabilities_missing: Vec<&'static str>,
    pub lockdown: Option<String>,
}

#[derive(Debug, serde::Serialize)]
pub struct RungReport {
    pub name: String,
    pub works: Result<(), String>,
    pub means: &'static str,
}

/// Capabilities that the agent asks the kernel for: number, name and use (capabilities(7)).
pub const CAPABILITIES: &[(u32, &str, &str)] = &[
    (39, "CAP_BPF", "load probes and maps"),
    (
        38,
        "CAP_PERFMON",
        "attach probes, read kernel memory in them",
    ),
    (19, "CAP_SYS_PTRACE", "read /proc of other users' processes"),
    (2, "CAP_DAC_READ_SEARCH", "read executables and libraries"),
    (
        21,
        "CAP_SYS_ADMIN",
        "load tracing programs on kernels that ask for it; given up at the start",
    ),
    (40, "CAP_CHECKPOINT_RESTORE", "follow /proc/PID/map_files"),
    (
        28,
        "CAP_LEASE",
        "be told before a file with uprobes is written to; kept by the process that holds them alone",
    ),
];

impl Report {
    /// Tries everything with an empty scope: no process is observed while it is tried.
    pub fn make() -> Self {
        let btf = super::btf::find();
        let (type_information, present, absent) = match &btf {
            Ok(found) => (
                Ok(super::btf::VMLINUX.to_owned()),
                found.present,
                found.absent.clone(),
            ),
            Err(error) => (Err(error.to_string()), 0, Vec::new()),
        };
        let rungs: Vec<RungReport> = [Rung::Tracing, Rung::Tracepoints]
            .into_iter()
            .map(|rung| RungReport {
                name: rung.to_string(),
                works: try_rung(rung),
                means: means(rung),
            })
            .collect();
        let chosen = rungs
            .iter()
            .find(|rung| rung.works.is_ok())
            .map(|rung| rung.name.clone());
        let effective = effective_capabilities();
        Self {
            kernel: rustix::system::uname()
                .release()
                .to_string_lossy()
                .into_owned(),
            architecture: std::env::consts::ARCH,
            probes_built_in: super::probes::built_in(),
            type_information,
            offsets_present: present,
            offsets_absent: absent,
            cgroup2: super::scope::Hierarchy::find()
                .map(|hierarchy| hierarchy.mount.display().to_string())
                .map_err(|error| error.to_string()),
            rungs,
            chosen,
            breakpoints: try_points(),
            keeper: try_keeper(),
            user: rustix::process::geteuid().as_raw(),
            capabilities_missing: CAPABILITIES
                .iter()
                .filter(|(bit, ..)| effective & (1 << bit) == 0)
                .map(|(_, name, _)| *name)
                .collect(),
            lockdown: std::fs::read_to_string("/sys/kernel/security/lockdown")
                .ok()
                .map(|text| text.trim().to_owned()),
        }
    }

    /// How key-log points are attached: rows for people.
    fn points(&self, row: &mut impl FnMut(&str, String)) {
        let chosen = "  <- chosen";
        row(
            "points breakpoint",
            match &self.breakpoints {
                Ok(()) => format!(
                    "works{chosen}: TLS of OpenSSL 3, BoringSSL, GnuTLS, Go and rustls is read; no text is changed"
                ),
                Err(why) => format!("refused: {why}"),
            },
        );
        let facts = match &self.keeper {
            Ok(facts) => facts,
            Err(why) => {
                row(
                    "points uprobe",
                    format!("refused: {why}; connections that were open before stay unread"),
                );
                if self.breakpoints.is_err() {
                    row(
                        "",
                        "no key-log point can be attached: TLS is listed as unread".into(),
                    );
                }
                return;
            }
        };
        row(
            "points uprobe",
            format!(
                "works{}: libraries alone, bound to the process, by {}, under a lease on the file, with {}",
                match self.breakpoints {
                    Ok(()) => "",
                    Err(_) => chosen,
                },
                facts.way,
                facts.capabilities.join(" ")
            ),
        );
        if let Some(why) = &facts.no_multi {
            row("", format!("not by uprobe_multi: {why}"));
        }
        for what in &facts.weaker {
            row("", format!("weaker: {what}"));
        }
        row(
            "points uprobe-host",
            "only if capture.points asks for it: it changes text of every process of the host"
                .into(),
        );
    }

    /// For people.
    pub fn text(&self) -> String {
        use std::fmt::Write as _;
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{name:<18} {value}");
        };
        let shown = |result: &Result<String, String>| match result {
            Ok(found) => found.clone(),
            Err(why) => format!("NO: {why}"),
        };
        row("kernel", format!("{} ({})", self.kernel, self.architecture));
        row(
            "probes",
            if self.probes_built_in {
                "built in".into()
            } else {
                "NO: build with `cargo xtask build`".into()
            },
        );
        row("type information", shown(&self.type_information));
        row(
            "offsets",
            format!(
                "{} found, {} absent",
                self.offsets_present,
                self.offsets_absent.len()
            ),
        );
        for absent in &self.offsets_absent {
            row("", format!("absent: {absent}"));
        }
        row("cgroup v2", shown(&self.cgroup2));
        for rung in &self.rungs {
            let chosen = if self.chosen.as_ref() == Some(&rung.name) {
                "  <- chosen"
            } else {
                ""
            };
            match &rung.works {
                Ok(()) => row(
                    &format!("rung {}", rung.name),
                    format!("works{chosen}: {}", rung.means),
                ),
                Err(why) => row(&format!("rung {}", rung.name), format!("refused: {why}")),
            }
        }
        self.points(&mut row);
        row("user", self.user.to_string());
        row(
            "capabilities",
            if self.capabilities_missing.is_empty() {
                "all there".into()
            } else {
                format!("missing: {}", self.capabilities_missing.join(", "))
            },
        );
        if let Some(lockdown) = &self.lockdown {
            row("lockdown", lockdown.clone());
        }
        row(
            "verdict",
            match &self.chosen {
                Some(rung) => format!("this host can be observed, on rung {rung}"),
                None => "this host cannot be observed: see the refusals above".into(),
            },
        );
        text
    }
}

fn try_rung(rung: Rung) -> Result<(), String> {
    let options = options(Some(rung));
    super::probes::start(&[nobody()], &options)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// Stops this process at a breakpoint of its own, then loads the programs of key-log points and of the bridge.
fn try_points() -> Result<(), String> {
    super::attach::breakpoint::self_test()?;
    let tried =
        super::probes::Probes::load(vec![nobody()], &options(None)).and_then(|mut probes| {
            probes.load_points()?;
            probes.load_bridge()
        });
    tried.map_err(|error| error.to_string())
}

/// Starts the keeper with the probes' programs, and ends it.
fn try_keeper() -> Result<super::keeper::Facts, String> {
    let mut probes = super::probes::Probes::load(vec![nobody()], &options(None))
        .map_err(|error| error.to_string())?;
    // What is refused is left out, and shown in another row.
    let _ = probes.load_points();
    let _ = probes.load_bridge();
    let programs = probes
        .keeper_programs()
        .map_err(|error| error.to_string())?;
    super::keeper::Started::start(std::path::Path::new("/proc/self/exe"), &programs)
        .map(|started| started.facts().clone())
        .map_err(|error| error.to_string())
}

/// No process is in this scope.
fn nobody() -> super::scope::Scope {
    super::scope::Scope::Processes(Vec::new())
}

fn options(rung: Option<Rung>) -> super::probes::Options {
    super::probes::Options {
        rung,
        ring_bytes: 256 * 1024,
        copy_bytes: 0,
        multiplexed_bytes: 0,
        connections: 16,
        worker: None,
        tell_made: false,
    }
}

fn means(rung: Rung) -> &'static str {
    match rung {
        Rung::Tracing => {
            "socket functions; io_uring is seen; sendfile and splice leave gaps of known size"
        }
        Rung::Tracepoints => {
            "system calls; io_uring is not seen (counted); sendfile and splice leave gaps of known size"
        }
    }
}

/// `CapEff` of `/proc/self/status`.
fn effective_capabilities() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(0)
}
