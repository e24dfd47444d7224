//! One line of a replay: what each record may say. Unknown keys are refused.
//!
//! Invariant: an error tells the place and what was expected, never what stood there as a string.

use super::Problem;
use crate::{
    flow::{Direction, Nanos, Payload},
    kernel::{keylog::Library, record::Endpoints},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use std::net::SocketAddr;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Longest name that the kernel gives a process (`TASK_COMM_LEN` less its NUL).
const NAME: usize = 15;

#[derive(Deserialize)]
#[serde(tag = "record", rename_all = "snake_case", deny_unknown_fields)]
pub enum Line {
    /// The format's version: the first record.
    Format { version: u32 },
    /// A program begins.
    Process(Process),
    /// A socket of a process.
    Connection(Connection),
    /// Bytes that a call moved, or some of them.
    Chunk(Chunk),
    /// A TLS library gave a secret to its key log.
    Secret(Secret),
    /// A socket is closed.
    Closed { connection: u32, time: u64 },
    /// A process ends.
    Exit { process: u32, time: u64 },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// The file's own name for it.
    pub process: u32,
    pub time: u64,
    pub pid: u32,
    /// `comm`, at most 15 bytes.
    pub name: String,
    /// Its program's path, as it was asked for.
    pub file: String,
    #[serde(default)]
    pub arguments: Vec<Wiped>,
    #[serde(default)]
    pub uid: u32,
    /// As the user, if it is not said.
    pub gid: Option<u32>,
    /// Another process of the file.
    pub parent: Option<u32>,
    /// Inode number of its network namespace.
    #[serde(default)]
    pub network_namespace: u32,
    /// The TLS library whose key log gives its secrets, by the name that events use.
    pub library: Option<Library>,
}

/// TCP if it has `local` and `peer`, a Unix stream socket if it has `unix`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// The file's own name for it.
    pub connection: u32,
    /// Whose calls move its bytes, where a chunk does not say otherwise.
    pub process: u32,
    local: Option<SocketAddr>,
    peer: Option<SocketAddr>,
    unix: Option<String>,
    /// So that both ends of one connection can be told to be that: one's `sent` is the other's `received`.
    #[serde(default)]
    pub sequence: Sequence,
}

/// TCP sequence numbers of the first bytes.
#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sequence {
    pub sent: u32,
    pub received: u32,
}

impl Default for Sequence {
    fn default() -> Self {
        Self {
            sent: 1,
            received: 1 << 31,
        }
    }
}

impl Connection {
    pub fn endpoints(&self) -> Result<Endpoints, Problem> {
        match (self.local, self.peer, &self.unix) {
            (Some(local), Some(peer), None) => Ok(Endpoints::Tcp { local, peer }),
            (None, None, Some(path)) => Ok(Endpoints::Unix {
                path: Some(path.clone()),
                peer_inode: 0,
            }),
            _ => Err(Problem::Value(
                "a connection has either `local` and `peer` or `unix`",
            )),
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Sent,
    Received,
}

impl From<Side> for Direction {
    fn from(side: Side) -> Self {
        match side {
            Side::Sent => Self::Sent,
            Side::Received => Self::Received,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    pub connection: u32,
    pub direction: Side,
    pub time: u64,
    /// Place of the first byte in its direction; if it is not said, where the last chunk ended.
    pub offset: Option<u64>,
    /// Bytes before it that a copy policy would have left out.
    #[serde(default)]
    pub skipped: u64,
    /// Who made the call, if it is not the connection's process.
    pub process: Option<u32>,
    /// `false`: the connection was open before it was looked at.
    #[serde(default = "yes")]
    pub from_start: bool,
    /// The peer has closed this direction.
    #[serde(default)]
    pub end: bool,
    /// The bytes, as UTF-8 or as base64: one of the two.
    text: Option<Wiped>,
    base64: Option<Wiped>,
}

fn yes() -> bool {
    true
}

impl Chunk {
    pub fn bytes(&self) -> Result<Payload, Problem> {
        match (&self.text, &self.base64) {
            (Some(text), None) => Ok(Payload::copy_from(text.0.as_bytes())),
            (None, Some(base64)) => base64.decode(),
            (None, None) => Err(Problem::Value("no bytes: `text` or `base64`")),
            (Some(_), Some(_)) => Err(Problem::Value("both `text` and `base64`")),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    pub process: u32,
    pub time: u64,
    /// NSS key log label, `CLIENT_TRAFFIC_SECRET_0` for example.
    pub label: String,
    base64: Wiped,
    /// 32 bytes in base64, where a library gives it.
    client_random: Option<String>,
}

impl Secret {
    pub fn bytes(&self) -> Result<Payload, Problem> {
        self.base64.decode()
    }

    pub fn client_random(&self) -> Result<Option<[u8; 32]>, Problem> {
        let Some(text) = &self.client_random else {
            return Ok(None);
        };
        let bytes = STANDARD.decode(text).ok();
        let random = bytes.and_then(|bytes| bytes.try_into().ok());
        random
            .map(Some)
            .ok_or(Problem::Value("`client_random` is not 32 bytes in base64"))
    }
}

/// A string that may hold what is called a secret elsewhere.
#[derive(Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Wiped(String);

impl Wiped {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// RFC 4648, section 4.
    fn decode(&self) -> Result<Payload, Problem> {
        STANDARD
            .decode(self.0.as_bytes())
            .map(Payload::from)
            .map_err(|_| Problem::Value("`base64` is not base64 with padding"))
    }
}

pub fn nanos(micros: u64) -> Nanos {
    micros.saturating_mul(1_000)
}

/// A record, or what is wrong with it.
pub fn parse(text: &str) -> Result<Line, Problem> {
    let line: Line = serde_json::from_str(text).map_err(|error| Problem::Json {
        column: error.column(),
        message: without_strings(&error.to_string()),
    })?;
    if let Line::Process(process) = &line {
        if process.name.len() > NAME {
            return Err(Problem::Value("`name` has more than 15 bytes"));
        }
        if process.pid == 0 {
            return Err(Problem::Value("`pid` is 0"));
        }
    }
    Ok(line)
}

/// serde quotes what it did not expect; what it expected instead comes last. The line is told elsewhere.
fn without_strings(message: &str) -> String {
    const EXPECTED: &str = ", expected ";
    let message = message
        .rsplit_once(" at line ")
        .map_or(message, |(head, _)| head);
    match message.rsplit_once(EXPECTED) {
        Some((head, expected)) => {
            let head = head.split(['"', '`']).next().unwrap_or_default();
            format!("{}{EXPECTED}{expected}", head.trim_end())
        }
        // These quote the names of this format alone: "missing field `time`".
        None => message.to_owned(),
    }
}

/// Long strings in data that is meant as lines: what no error may show.
pub fn fuzz_strings(data: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(data);
    text.split('"')
        .filter(|part| part.len() >= 24 && part.bytes().all(|byte| byte.is_ascii_alphanumeric()))
        .map(str::to_owned)
        .collect()
}
