//! The configuration: a TOML file, every key documented and defaulted, unknown keys refused.
//!
//! Made of [`agent_common::config`], which says how.
//!
//! Invariant: [`Config::show`] parses back to the same configuration.
//! Invariant: a file that others may write is not read: it decides what a privileged process observes.

mod example;
mod reload;
#[cfg(test)]
mod tests;

pub use agent_common::config::{
    Error, Key, PowerOfTwo, Ranged, Section, refuse_writable_by_others,
};

use agent_common::section;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub agent: Agent,
    pub capture: Capture,
    pub limits: Limits,
    pub budget: Budget,
    pub credential: Credential,
    pub identity: Identity,
    pub spool: Spool,
    pub stdout: Stdout,
    pub file: File,
    pub coverage: Coverage,
    pub otlp: Otlp,
    pub http: Http,
    pub syslog: Syslog,
}

section! {
    /// What the agent observes, and the key of its fingerprints.
    pub struct Agent {
        /// What may be observed, as with --scope: "cgroup:PATH", "unit:NAME", "pid:N", "container:ID" or "host".
        /// The command line's --scope replaces it. Without either the agent does not start.
        pub scope: Vec<String> = Vec::new(),
        /// File with the fingerprint key (made by `tokentrail-agent keygen`). Without it a key is made for the run,
        /// and the fingerprints join with nothing.
        pub fingerprint_key: Option<PathBuf> = None,
        /// User (name or number) that the worker runs as: the process that parses traffic and writes the outputs. Its
        /// outputs' folders must be writable by that user. Without it the worker stays the user that started the
        /// agent, usually root, with no capability: files of that user are then kept from it by Landlock alone.
        pub user: Option<String> = None,
        /// What is logged to standard error: "error", "warn", "info", "debug" or "trace". The variable TOKENTRAIL_LOG
        /// goes before it.
        pub log: String = "info".to_owned(),
        /// Seconds between two reports of the agent's counters (audit and loss events).
        pub report_seconds: Ranged<1, 86_400> = Ranged::new(60),
    }
}

section! {
    /// What the probes copy.
    pub struct Capture {
        /// Kernel hooks for sockets: "auto" (the best that this kernel takes), "fentry" or "raw_tracepoint".
        pub hook: Hook = Hook::Auto,
        /// How key-log points of TLS libraries are attached: "auto" (hardware breakpoints, and uprobes bound to the process
        /// where those are refused), "breakpoint", "uprobe" (bound to the process, libraries only), or "uprobe-host".
        /// The last puts breakpoints into every process of the host that maps the file, in the scope or not, which ends
        /// programs that copy or translate their own code: never chosen by itself. "off" attaches none.
        pub points: Points = Points::Auto,
        /// Size of the ring buffer between kernel and agent, in bytes: a power of two.
        pub ring_bytes: PowerOfTwo<65_536, 1_073_741_824> = PowerOfTwo::new(8 * 1024 * 1024),
        /// Bytes copied of a connection after each change of its direction: heads and the begin of bodies.
        pub turn_bytes: Ranged<1_024, 1_048_576> = Ranged::new(16 * 1024),
        /// Bytes copied in a second of each direction of a connection with HTTP/2, where heads follow bodies of other
        /// streams; and a quarter of them, once, of each TLS connection until its protocol is known.
        pub multiplexed_bytes: Ranged<0, 1_073_741_824> = Ranged::new(1024 * 1024),
        /// Whether TLS connections that were open before the agent are read, through probes at the entry and return of
        /// their library's functions, for their processes alone and while they are open. Not for programs that change
        /// stacks within such a call (coroutines over blocking sockets): their returns are not where they began.
        pub bridge: bool = true,
        /// Whether files are searched for key-log points before they are executed, so that the first handshake of a
        /// program is read: what a process of the scope makes executable, and, as the scope's processes see them,
        /// programs in the usual folders of PATH, in /usr/local and /opt, beside an executed one and in
        /// node_modules/.bin, and libraries named like TLS in virtual environments and node_modules. It lists those
        /// folders, reads the first two arguments of what is executed for such folders, and the content of ELF files; no
        /// other file's beyond the four bytes that tell it from one, and no environment.
        pub search_ahead: bool = true,
    }
}

section! {
    /// Bounds of the agent's memory and patience. What they push out is counted.
    pub struct Limits {
        /// Connections followed at the same time.
        pub connections: Ranged<16, 4_194_304> = Ranged::new(65_536),
        /// Bytes kept of one connection while they wait for their order or for a TLS secret.
        pub connection_bytes: Ranged<65_536, 268_435_456> = Ranged::new(1024 * 1024),
        /// Bytes kept of all connections together.
        pub total_bytes: Ranged<1_048_576, 17_179_869_184> = Ranged::new(128 * 1024 * 1024),
        /// Largest head of a request or response that is read, in bytes.
        pub head_bytes: Ranged<1_024, 1_048_576> = Ranged::new(64 * 1024),
        /// Bytes of a body that are looked at for credentials in forms.
        pub body_bytes: Ranged<0, 1_048_576> = Ranged::new(16 * 1024),
        /// Milliseconds that a TLS record waits for its secret, and a secret for its record.
        pub secret_wait_ms: Ranged<10, 600_000> = Ranged::new(5_000),
        /// Milliseconds that bytes wait for earlier bytes of their connection.
        pub order_wait_ms: Ranged<1, 60_000> = Ranged::new(200),
        /// Seconds that a request waits for its response before its event is sent without one.
        pub response_wait_seconds: Ranged<1, 86_400> = Ranged::new(120),
        /// Events waiting for the outputs.
        pub queued_events: Ranged<16, 16_777_216> = Ranged::new(16_384),
    }
}

section! {
    /// What the agent itself may cost, its two processes together. Over its CPU time it reads a share of the exchanges and
    /// counts those that it skips; over its memory it gives up what waits. Where that does not help for long, the probes
    /// are detached for a while.
    pub struct Budget {
        /// CPU time, in hundredths of one core.
        pub cpu_percent: Ranged<1, 100_000> = Ranged::new(200),
        /// Resident memory, in bytes: as /proc/PID/statm has it, the ring and what both share included.
        pub memory_bytes: Ranged<33_554_432, 1_099_511_627_776> = Ranged::new(1024 * 1024 * 1024),
        /// Seconds that either may be passed, in spite of what is done about it, before the probes are detached.
        pub over_seconds: Ranged<1, 86_400> = Ranged::new(60),
        /// Seconds that they stay detached.
        pub rest_seconds: Ranged<1, 86_400> = Ranged::new(60),
    }
}

section! {
    /// Which credentials are looked for, beyond those that are known.
    pub struct Credential {
        /// Names of further request headers that hold credentials.
        pub extra_headers: Vec<String> = Vec::new(),
        /// Names of cookies that hold credentials.
        pub cookies: Vec<String> = Vec::new(),
        /// Fingerprint every password of Basic authentication, and not only those that look like tokens. A weak
        /// password can be guessed from its fingerprint by whoever holds the key.
        pub basic_passwords: bool = false,
        /// Fingerprint short API keys too. The same holds for them.
        pub short_keys: bool = false,
    }
}

section! {
    /// What is found out about processes.
    pub struct Identity {
        /// Add the SHA-256 of executables.
        pub hash_executables: bool = true,
        /// Executables larger than this are not hashed, in bytes.
        pub hash_file_bytes: Ranged<1, 68_719_476_736> = Ranged::new(512 * 1024 * 1024),
        /// Milliseconds that an event waits for its executable's hash.
        pub hash_wait_ms: Ranged<0, 10_000> = Ranged::new(200),
        /// Processes kept in memory.
        pub processes: Ranged<64, 4_194_304> = Ranged::new(65_536),
        /// Seconds that an ended process is kept.
        pub ended_seconds: Ranged<1, 3_600> = Ranged::new(60),
    }
}

section! {
    /// Durable delivery: events wait on the disk until every output has them, whatever is killed or loses power.
    pub struct Spool {
        /// Folder of the queue, made with mode 0700; for one agent only. Without it, and without an output that needs
        /// it, nothing is kept on the disk. The table on standard output does not use it.
        pub path: Option<PathBuf> = None,
        /// Most bytes that wait, compressed.
        pub max_bytes: Ranged<1_048_576, 1_099_511_627_776> = Ranged::new(1024 * 1024 * 1024),
        /// Events that have waited for longer leave; they are counted as lost for the outputs that have them not.
        pub max_age_seconds: Ranged<60, 315_360_000> = Ranged::new(7 * 24 * 3_600),
        /// What happens when `max_bytes` wait: "refuse" (new events are counted as lost) or "drop_oldest" (the oldest
        /// are, for the outputs that have them not).
        pub when_full: WhenFull = WhenFull::Refuse,
        /// Milliseconds that an event waits for others, so that they are forced to the disk together.
        pub group_ms: Ranged<1, 1_000> = Ranged::new(100),
        /// Bytes of events kept in memory while the disk cannot be written; what is over is counted as lost.
        pub retry_bytes: Ranged<1_048_576, 1_073_741_824> = Ranged::new(8 * 1024 * 1024),
        /// Bytes of what receivers refused for good that are kept for looking at, compressed; the oldest leave.
        pub quarantine_bytes: Ranged<0, 1_073_741_824> = Ranged::new(16 * 1024 * 1024),
        /// Seconds that outputs have at the end of the agent to deliver what waits. The rest stays for the next run.
        pub stop_seconds: Ranged<0, 60> = Ranged::new(3),
    }
}

section! {
    /// Events on standard output.
    pub struct Stdout {
        /// "table" for people, "ndjson" for programs, "none" for neither. The command line's --output replaces it.
        pub format: Format = Format::Table,
    }
}

section! {
    /// Events in a file, as NDJSON.
    pub struct File {
        /// Where to write; nothing is written without it. Its folder must not be writable by others.
        pub path: Option<PathBuf> = None,
        /// Form of an event: "event" (tokentrail's own) or "ocsf" (OCSF 1.8).
        pub encoding: Encoding = Encoding::Event,
        /// A file that would grow larger than this is rotated, in bytes.
        pub rotate_bytes: Ranged<4_096, 1_099_511_627_776> = Ranged::new(128 * 1024 * 1024),
        /// Rotated files kept, as PATH.1 (the newest), PATH.2, ...
        pub keep: Ranged<0, 10_000> = Ranged::new(8),
        /// When written events are forced to the disk: "rotation" (and at the end), "second" or "event". With a spool
        /// every batch is forced there before it counts as delivered, whatever this says.
        pub sync: Sync = Sync::Rotation,
        /// Bytes of events kept in memory while the file cannot be written; what is over is counted as lost.
        pub retry_bytes: Ranged<0, 1_073_741_824> = Ranged::new(8 * 1024 * 1024),
    }
}

section! {
    /// How to look at what is read and what is not, while the agent runs.
    pub struct Coverage {
        /// Unix socket at which `tokentrail-agent coverage` asks; root and the agent's own user are answered. Without it
        /// /run/tokentrail/agent-PID.sock.
        pub socket: Option<PathBuf> = None,
        /// Address at which metrics are served for Prometheus (GET /metrics), on loopback: "127.0.0.1:9469". Nothing is
        /// served without it.
        pub metrics: Option<SocketAddr> = None,
    }
}

section! {
    /// Events to a receiver of OTLP/HTTP logs: tokentrail's collector, an OpenTelemetry Collector, a vendor's intake.
    pub struct Otlp {
        /// URL of the receiver, "https://HOST:4318/v1/logs"; nothing is sent without it. /v1/logs is added to a URL
        /// without a path. With "http:" everyone on the way can read the events.
        pub endpoint: Option<String> = None,
        /// Compression of what is sent: "zstd" (tokentrail's and the OpenTelemetry Collector take it), "gzip" or "none".
        pub compression: Compression = Compression::Zstd,
        /// Further headers: { name = "value" }. "file:PATH" takes the value from a file that only its owner may read,
        /// so that an API key does not stand here.
        pub headers: BTreeMap<String, String> = BTreeMap::new(),
        /// File with the certificates (PEM) that the receiver's must be signed by. Without it the system's are trusted.
        pub ca: Option<PathBuf> = None,
        /// File with the agent's own certificate and those above it (PEM), if the receiver asks for one.
        pub certificate: Option<PathBuf> = None,
        /// File with the private key of `certificate` (PEM), which only its owner may read.
        pub key: Option<PathBuf> = None,
        /// Seconds to wait for a connection, TLS included.
        pub connect_seconds: Ranged<1, 600> = Ranged::new(10),
        /// Seconds that sending a batch and its answer may take together.
        pub timeout_seconds: Ranged<1, 3_600> = Ranged::new(30),
        /// Events of a batch, at most.
        pub batch_events: Ranged<1, 65_536> = Ranged::new(1_024),
        /// Bytes of events in a batch before compression, at most.
        pub batch_bytes: Ranged<65_536, 67_108_864> = Ranged::new(4 * 1024 * 1024),
    }
}

section! {
    /// Events to any receiver of NDJSON by HTTP POST.
    pub struct Http {
        /// URL of the receiver; nothing is sent without it. With "http:" everyone on the way can read the events.
        pub endpoint: Option<String> = None,
        /// Form of an event: "event" (tokentrail's own) or "ocsf" (OCSF 1.8).
        pub encoding: Encoding = Encoding::Event,
        /// Compression of what is sent: "gzip", "zstd" or "none".
        pub compression: Compression = Compression::Gzip,
        /// Further headers: { name = "value" }. "file:PATH" takes the value from a file that only its owner may read,
        /// so that an API key does not stand here.
        pub headers: BTreeMap<String, String> = BTreeMap::new(),
        /// File with the certificates (PEM) that the receiver's must be signed by. Without it the system's are trusted.
        pub ca: Option<PathBuf> = None,
        /// File with the agent's own certificate and those above it (PEM), if the receiver asks for one.
        pub certificate: Option<PathBuf> = None,
        /// File with the private key of `certificate` (PEM), which only its owner may read.
        pub key: Option<PathBuf> = None,
        /// Seconds to wait for a connection, TLS included.
        pub connect_seconds: Ranged<1, 600> = Ranged::new(10),
        /// Seconds that sending a batch and its answer may take together.
        pub timeout_seconds: Ranged<1, 3_600> = Ranged::new(30),
        /// Events of a batch, at most.
        pub batch_events: Ranged<1, 65_536> = Ranged::new(1_024),
        /// Bytes of events in a batch before compression, at most.
        pub batch_bytes: Ranged<65_536, 67_108_864> = Ranged::new(4 * 1024 * 1024),
    }
}

section! {
    /// Events as syslog messages (RFC 5424) with JSON in them. Best effort: syslog acknowledges nothing.
    pub struct Syslog {
        /// Where to: "udp://HOST:514", "tcp://HOST:601", "tls://HOST:6514", "unix:PATH" (datagrams, as /dev/log) or
        /// "unix-stream:PATH"; nothing is sent without it.
        pub address: Option<String> = None,
        /// Form of an event: "event" (tokentrail's own) or "ocsf" (OCSF 1.8).
        pub encoding: Encoding = Encoding::Event,
        /// The facility of the messages: 13 is "log audit", 10 "security", 16 to 23 are for local use.
        pub facility: Ranged<0, 23> = Ranged::new(13),
        /// The private enterprise number in the name of the structured data, tokentrail@NUMBER. 32473 is the one for
        /// examples (RFC 5612); an organisation with its own may say so.
        pub enterprise: Ranged<1, 4_294_967_295> = Ranged::new(32_473),
        /// The largest datagram that the receiver takes, in bytes (rsyslog: 8096, syslog-ng: 65536, where nobody
        /// changed it). A larger event is put aside. For UDP, and Unix datagrams.
        pub datagram_bytes: Ranged<480, 65_507> = Ranged::new(8_096),
        /// File with the certificates (PEM) that the receiver's must be signed by. Without it the system's are trusted.
        pub ca: Option<PathBuf> = None,
        /// File with the agent's own certificate and those above it (PEM), if the receiver asks for one.
        pub certificate: Option<PathBuf> = None,
        /// File with the private key of `certificate` (PEM), which only its owner may read.
        pub key: Option<PathBuf> = None,
        /// Seconds to wait for a connection, TLS included.
        pub connect_seconds: Ranged<1, 600> = Ranged::new(10),
        /// Seconds that one write may wait for the receiver.
        pub timeout_seconds: Ranged<1, 3_600> = Ranged::new(30),
        /// Events of a batch, at most.
        pub batch_events: Ranged<1, 65_536> = Ranged::new(256),
        /// Bytes of events in a batch, at most.
        pub batch_bytes: Ranged<65_536, 67_108_864> = Ranged::new(1024 * 1024),
    }
}

/// How key-log points are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Points {
    #[default]
    Auto,
    Breakpoint,
    Uprobe,
    UprobeHost,
    Off,
}

/// Which kernel hooks to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    Auto,
    Fentry,
    RawTracepoint,
}

/// What happens when the spool is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    Refuse,
    DropOldest,
}

/// Form of the events on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    Table,
    Ndjson,
    None,
}

/// When written events are forced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sync {
    Rotation,
    Second,
    Event,
}

/// Compression of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    Zstd,
    Gzip,
    None,
}

/// Form of an event outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// The envelope's canonical JSON.
    Event,
    /// OCSF 1.8.
    Ocsf,
}

impl Config {
    /// Every section by its name, in the order in which they are shown.
    #[must_use]
    pub fn sections(&self) -> [(&'static str, &dyn Section); 13] {
        [
            ("agent", &self.agent),
            ("capture", &self.capture),
            ("limits", &self.limits),
            ("budget", &self.budget),
            ("credential", &self.credential),
            ("identity", &self.identity),
            ("spool", &self.spool),
            ("stdout", &self.stdout),
            ("file", &self.file),
            ("coverage", &self.coverage),
            ("otlp", &self.otlp),
            ("http", &self.http),
            ("syslog", &self.syslog),
        ]
    }

    /// Every key with its documentation and its effective value, as TOML that parses back to the same.
    #[must_use]
    pub fn show(&self) -> String {
        agent_common::config::show(&self.sections())
    }
}

/// Reads and parses a file that only root or the agent's own user may write.
///
/// # Errors
/// If it cannot be read, may be written by others, or is not a valid configuration.
pub fn load(path: &Path) -> Result<Config, Error> {
    agent_common::config::load(path)
}

/// What [`load`] returns, or every default where no file was named.
///
/// # Errors
/// As [`load`].
pub fn load_or_default(path: Option<&Path>) -> Result<Config, Error> {
    agent_common::config::load_or_default(path)
}

/// Parses a configuration; `path` is for messages.
///
/// # Errors
/// [`Error::Parse`] at the first place that is not understood, with what would be.
pub fn parse(path: &Path, text: &str) -> Result<Config, Error> {
    agent_common::config::parse(path, text)
}

/// Entry point for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    use std::path::Path;

    /// Whatever a file holds, it is refused with a place in it, or what it says is shown so that it means the same.
    pub fn fuzz(data: &[u8]) {
        let text = String::from_utf8_lossy(data);
        match super::parse(Path::new("fuzz"), &text) {
            Ok(config) => {
                let again = super::parse(Path::new("shown"), &config.show());
                assert!(
                    again.as_ref().is_ok_and(|again| *again == config),
                    "{again:?}"
                );
            }
            Err(super::Error::Parse { line, column, .. }) => {
                assert!(line <= text.matches('\n').count() + 1 && line > 0 && column > 0);
            }
            Err(error) => panic!("not an error of a text: {error}"),
        }
    }
}
