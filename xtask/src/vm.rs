//! Virtual machines: this machine's own file system under another kernel.
//!
//! virtme-ng boots a kernel in QEMU with the host's root as its own, read-only, with what is written to `/tmp` and
//! `/run` kept in memory; programs and test binaries built here run there as they are. Folders named as writable are
//! the host's own. Works by software emulation where there is no KVM (30 to 60 s for a boot).
//!
//! Invariant: a machine never outlives its time limit, and writes to nothing that was not named.

use crate::process::{self, quote};
use crate::say;
use crate::setup::{self, Machine};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

const MEMORY: &str = "3G";
/// virtme-init puts an empty file system over these; what lies below must be shared by name.
const HIDDEN: &[&str] = &[
    "/var/tmp",
    "/var/log",
    "/var/cache",
    "/var/lib/apt",
    "/dev/shm",
    "/run",
];

/// The status of virtme-ng when the machine gave none of its command.
const NO_STATUS: i32 = 255;
/// What is shown of what its kernel said in the end.
const LAST_WORDS: usize = 24;

/// The first line of a machine that came as far as its command.
const BEGUN: &str = "tokentrail-machine-begun";

/// What to run in a machine.
pub struct Guest<'a> {
    pub machine: &'a Machine,
    /// Program and arguments, by absolute path.
    pub command: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// Folders in which it may write; made if they are missing.
    pub writable: Vec<PathBuf>,
    /// Folders that it must see, wherever they lie.
    pub readable: Vec<PathBuf>,
    /// For the boot and the command together.
    pub limit: Duration,
}

impl Guest<'_> {
    /// Boots, runs the command, and hands on each line of its output; the status is the command's own. A machine that
    /// ends before it comes to the command is started once more.
    pub fn run(&self, workspace: &Workspace, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
        for folder in &self.writable {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let release = &self.machine.release;
        fs::create_dir_all(workspace.logs())?;
        let log = self.kernel_log(workspace);
        let mut command = self.virtme(workspace, has_kvm(), &log);
        let start = Instant::now();
        let mut again = true;
        loop {
            let mut begun = false;
            let left = self.limit.saturating_sub(start.elapsed());
            let status = process::lines(&mut command, left, |line| match line {
                BEGUN => begun = true,
                line => each(line),
            })
            .with_context(|| format!("the virtual machine with {release}"))?;
            if begun {
                let ran = say::elapsed(start.elapsed());
                say::line(&format!("   the machine with {release} ran for {ran}"));
                if status.code() == Some(NO_STATUS) {
                    let said = fs::read(&log).unwrap_or_default();
                    for line in last_words(&String::from_utf8_lossy(&said)) {
                        each(&format!("kernel: {line}"));
                    }
                }
                return Ok(status);
            }
            let ended = format!("ended ({status}) before it came to its command");
            if !std::mem::take(&mut again) {
                bail!("the virtual machine with {release} {ended}, twice");
            }
            say::line(&format!("   the machine with {release} {ended}: once more"));
        }
    }

    /// With a thread for each processor, QEMU now and then runs code that the kernel has just changed on another one: the
    /// kernel comes to a breakpoint that it has taken out again, and dies. A loop of `sysctl kernel.sched_schedstats` is
    /// enough for that.
    pub fn died_of_its_emulator(&self, workspace: &Workspace) -> bool {
        let said = fs::read(self.kernel_log(workspace)).unwrap_or_default();
        !has_kvm() && String::from_utf8_lossy(&said).contains("Oops: int3")
    }

    /// What the kernel says on a console of its own.
    fn kernel_log(&self, workspace: &Workspace) -> PathBuf {
        let release = &self.machine.release;
        workspace.logs().join(format!("kernel-{release}.log"))
    }

    fn virtme(&self, workspace: &Workspace, kvm: bool, log: &Path) -> Command {
        let (vng, folders) = setup::virtme(workspace);
        let path = env::var_os("PATH").unwrap_or_default();
        let path = folders.into_iter().chain(env::split_paths(&path));
        let mut command = Command::new(vng);
        if let Ok(path) = env::join_paths(path) {
            command.env("PATH", path);
        }
        command.arg("--run").arg(&self.machine.image);
        command.args([
            "--memory", MEMORY, "--cpus", "2", "--user", "root", "--cwd", "/",
        ]);
        if !kvm {
            command.arg("--disable-kvm");
        }
        // Warnings and worse, and what a kernel says in its end: on a console of their own.
        command.arg("--append=console=hvc0 loglevel=5");
        command.arg(format!(
            "--qemu-opts=-chardev file,id=kernel,path={} -device virtio-serial-pci -device virtconsole,chardev=kernel",
            log.display()
        ));
        for (index, folder) in self.writable.iter().enumerate() {
            command.arg(format!("--rwdir={}={}", door(index), folder.display()));
        }
        for folder in self.hidden() {
            command.arg(format!("--rodir={}", folder.display()));
        }
        command.args(["--", "sh", "-c", &self.script()]);
        command
    }

    /// Read folders that the guest would not see, without those inside of one another or of a writable one.
    fn hidden(&self) -> Vec<&Path> {
        let mut kept: Vec<&Path> = Vec::new();
        let mut folders: Vec<&Path> = self.readable.iter().map(PathBuf::as_path).collect();
        folders.sort();
        for folder in folders {
            let hidden = HIDDEN.iter().any(|hidden| folder.starts_with(hidden));
            let covered = kept.iter().any(|other| folder.starts_with(other))
                || self.writable.iter().any(|other| folder.starts_with(other));
            if hidden && !covered {
                kept.push(folder);
            }
        }
        kept
    }

    fn script(&self) -> String {
        let mut lines = vec![format!("echo {BEGUN}"), "ip link set lo up".to_owned()];
        if !has_kvm() {
            lines.push(format!("{{ {EVENT}; }}"));
        }
        for (index, folder) in self.writable.iter().enumerate() {
            // Read-only folders are mounted after writable ones: one that holds another would hide it.
            let place = quote(&folder.to_string_lossy());
            lines.push(format!("{{ [ -d {place} ] || mkdir -p {place}; }}"));
            lines.push(format!("mount --bind /{} {place}", door(index)));
        }
        let mut words = vec!["exec".to_owned(), "env".to_owned()];
        words.extend(
            self.environment
                .iter()
                .map(|(name, value)| quote(&format!("{name}={value}"))),
        );
        words.extend(self.command.iter().map(|word| quote(word)));
        lines.push(words.join(" "));
        lines.join(" && ")
    }
}

/// Keeps an event of perf for as long as the machine runs. With the first and the last one the kernel changes an
/// instruction in `__schedule`, which the emulator does not always survive: see [`Guest::died_of_its_emulator`].
const EVENT: &str = "python3 -c 'import ctypes, struct, time; a = bytearray(128); \
struct.pack_into(\"IIQQQQQIIQQ\", a, 0, 5, 128, 0, 0, 0, 0, 1 << 5 | 1 << 6, 0, 4, 4096, 8); \
ctypes.CDLL(None).syscall(298, (ctypes.c_char * 128).from_buffer(a), 0, -1, -1, 0); \
time.sleep(1e6)' & true";

/// What the kernel said of its end, from the first line on that tells of one.
fn last_words(said: &str) -> impl Iterator<Item = &str> {
    let tells = |line: &&str| {
        [
            "BUG:",
            "Oops:",
            "Kernel panic",
            "general protection fault",
            "Out of memory",
        ]
        .iter()
        .any(|mark| line.contains(mark))
    };
    let lines = said.lines().skip_while(move |line| !tells(line));
    lines.take(LAST_WORDS)
}

/// Where the guest first finds a writable folder; relative to its root, as virtme-ng wants it.
fn door(index: usize) -> String {
    format!("tmp/tokentrail-door-{index}")
}

/// The device alone is not enough: a machine may have it and not be able to use it.
pub fn has_kvm() -> bool {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpu.lines().find(|line| line.starts_with("flags"));
    let able = flags.is_some_and(|flags| {
        flags
            .split_whitespace()
            .any(|flag| matches!(flag, "vmx" | "svm"))
    });
    able && fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guest<'a>(machine: &'a Machine, writable: &[&str], readable: &[&str]) -> Guest<'a> {
        Guest {
            machine,
            command: vec!["/bin/echo".into(), "it's".into()],
            environment: vec![("A".into(), "b c".into())],
            writable: writable.iter().map(PathBuf::from).collect(),
            readable: readable.iter().map(PathBuf::from).collect(),
            limit: Duration::from_secs(1),
        }
    }

    fn machine() -> Machine {
        Machine {
            release: "6.1.0-1-amd64".into(),
            image: "/boot/vmlinuz-6.1.0-1-amd64".into(),
        }
    }

    #[test]
    fn the_script_keeps_words_whole() {
        let machine = machine();
        let script = guest(&machine, &[], &[]).script();
        assert!(
            script.ends_with(r"exec env 'A=b c' /bin/echo 'it'\''s'"),
            "{script}"
        );
    }

    #[test]
    fn the_kernels_last_words_begin_where_it_went_wrong() {
        assert_eq!(last_words("").count(), 0);
        let said = "[1] hello\n[2] BUG: unable\n[3] RIP: 0010:f\n";
        let last: Vec<&str> = last_words(said).collect();
        assert_eq!(last, ["[2] BUG: unable", "[3] RIP: 0010:f"]);
    }

    #[test]
    fn only_hidden_folders_are_shared_by_name() {
        let machine = machine();
        let guest = guest(
            &machine,
            &["/var/tmp/w/target/out"],
            &[
                "/root/x",
                "/var/tmp/w/target",
                "/var/tmp/w",
                "/var/tmp/w/target/out/deep",
                "/var/tmpfiles",
            ],
        );
        assert_eq!(guest.hidden(), [Path::new("/var/tmp/w")]);
    }
}
