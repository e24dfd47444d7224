//! Synthetic traffic from a file, through the same pipeline as the ring's: for trying a configuration, for rules and
//! receivers downstream, and for showing what an event looks like, without probes, without root.
//!
//! The format is text, one JSON object in a line, written by people and by programs that make traffic up:
//!
//! ```text
//! # Blank lines and lines that begin with # are left out.
//! {"record":"format","version":1}
//! {"record":"process","process":1,"time":0,"pid":4711,"name":"curl","uid":1000,"file":"/usr/bin/curl","arguments":["curl","-s"],"library":"openssl"}
//! {"record":"connection","connection":1,"process":1,"local":"192.0.2.7:40001","peer":"198.51.100.2:80"}
//! {"record":"chunk","connection":1,"direction":"sent","time":1000,"text":"GET / HTTP/1.1\r\nHost: api.example\r\n\r\n"}
//! {"record":"chunk","connection":1,"direction":"received","time":2500,"offset":0,"base64":"SFRUUC8xLjEgMjA0IE5vIENvbnRlbnQNCg0K"}
//! {"record":"secret","process":1,"time":1200,"label":"CLIENT_TRAFFIC_SECRET_0","base64":"..."}
//! {"record":"closed","connection":1,"time":3000}
//! {"record":"exit","process":1,"time":4000}
//! ```
//!
//! The first record is `format`. Times are microseconds since the replay's begin, 2023-11-14T22:13:20Z; records are
//! taken in the order of the file, so that a file can say what overtook what. Numbers of processes and connections are
//! the file's own names for them. What each key means stands with its field in [`line`].
//!
//! There is no writer of this format. The ring's records cannot be turned into it: a [`Payload`](crate::flow::Payload) has neither `Debug`
//! nor `Serialize`, and nothing here implements `Serialize`.
//!
//! Invariant: nothing of this machine is in an event: `/proc` is an empty folder, the host is called `replay`, and the
//! executables that a file names are not opened.
//! Invariant: what is not understood ends the replay with its line; no error quotes a string of the file.

mod empty;
mod line;
#[cfg(test)]
mod tests;

use crate::{
    credential::{self, Observer},
    flow::{Direction, Nanos},
    identity::{self, Clock, ProcessTable},
    kernel::{
        keylog::PointKind,
        points::{Attached, Mapped, Points, State},
        record::{
            Arguments, Caller, Chunk, Closed, ConnectionKey, FileId, PointId, ProcessKey,
            ProcessRecord, Record, SecretRecord,
        },
    },
    pipeline::{Counters, Limits, Numbering, Pipeline},
};
use agent_common::{
    event::{Envelope, Hook, Host},
    fingerprint::Keyring,
};
use empty::EmptyProc;
use line::Line;
use std::{
    collections::HashMap,
    io::{BufRead, Read as _},
    sync::Arc,
    time::Duration,
};
use zeroize::Zeroizing;

/// The version of the format.
pub const VERSION: u32 = 1;
/// Bytes of a line, without its end.
const LINE: usize = 4 << 20;
/// Processes, and connections, of a file.
const NUMBERS: usize = 65_536;
/// The replay's begin, as wall-clock time: 2023-11-14T22:13:20Z.
const BEGIN: i128 = 1_700_000_000_000_000_000;
/// Boot time of the replay's begin: processes have started before.
const BOOTED: Nanos = 1_000_000_000;
/// As often as the agent lets time pass in the pipeline.
const TICK: Nanos = 250_000_000;
/// A long pause passes in steps; of a longer one, only the last steps matter to what waits.
const TICKS: u64 = 4_096;

/// Why a replay ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("line {line}: {problem}")]
    Line { line: u64, problem: Problem },
    #[error(
        "the file has no record: its first one says {{\"record\":\"format\",\"version\":{VERSION}}}"
    )]
    Empty,
    #[error("line {line} cannot be read: {source}")]
    Read { line: u64, source: std::io::Error },
    #[error("no empty folder could be made for processes: {0}")]
    Folder(std::io::Error),
    #[error(transparent)]
    Identity(#[from] identity::Error),
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("longer than {LINE} bytes")]
    TooLong,
    #[error("not UTF-8")]
    NotText,
    /// serde_json's message, without the strings in it.
    #[error("column {column}: {message}")]
    Json { column: usize, message: String },
    #[error("the first record is {{\"record\":\"format\",\"version\":{VERSION}}}")]
    FormatFirst,
    #[error("version {0} of the format; this agent reads {VERSION}")]
    Version(u32),
    #[error("{what} {number} was not introduced before")]
    Unknown { what: &'static str, number: u32 },
    #[error("{what} {number} was introduced before")]
    Twice { what: &'static str, number: u32 },
    #[error("more than {NUMBERS} {0}")]
    TooMany(&'static str),
    #[error("{0}")]
    Value(&'static str),
}

struct Process {
    caller: Caller,
    point: PointId,
}

struct Connection {
    process: u32,
    key: ConnectionKey,
    endpoints: crate::kernel::record::Endpoints,
    /// TCP sequence numbers of the first byte sent and received.
    sequence: [u32; 2],
    /// Where the next chunk begins that does not say.
    next: [u64; 2],
}

/// Reads lines, keeps the file's names, drives the pipeline.
pub struct Replay {
    pipeline: Pipeline,
    points: Points,
    /// Attached so far.
    attached: u32,
    processes: HashMap<u32, Process>,
    connections: HashMap<u32, Connection>,
    format: bool,
    lines: u64,
    now: Nanos,
    ticked: Nanos,
    /// Removed when the replay is over.
    _proc: EmptyProc,
}

impl Replay {
    /// # Errors
    /// [`Error::Folder`] if there is no place for an empty `/proc`.
    pub fn new(
        limits: Limits,
        credential: credential::Config,
        keyring: Arc<Keyring>,
    ) -> Result<Self, Error> {
        let proc = EmptyProc::make().map_err(Error::Folder)?;
        let mut options = identity::Options::new(credential::redact::command_line);
        options.proc = proc.path().to_owned();
        options.passwd = options.proc.join("passwd");
        options.hash.enabled = false;
        // Waited for, so that the same file gives the same events: there is no such process, which is soon found out.
        options.hash_wait = Duration::from_secs(5);
        let host = Host {
            id: None,
            name: "replay".into(),
            boot_id: "00000000-0000-0000-0000-000000000000".into(),
        };
        let points = Points::default();
        let pipeline = Pipeline::new(
            limits,
            Observer::new(credential, keyring),
            ProcessTable::new(options)?,
            points.clone(),
            Clock::fixed(BEGIN - i128::from(BOOTED)),
            Hook::Fentry,
            Numbering::new("replay".into(), 1, host),
        );
        Ok(Self {
            pipeline,
            points,
            attached: 0,
            processes: HashMap::new(),
            connections: HashMap::new(),
            format: false,
            lines: 0,
            now: BOOTED,
            ticked: BOOTED,
            _proc: proc,
        })
    }

    /// Reads to the end of `input` and hands each event to `each`.
    ///
    /// # Errors
    /// At the first line that is not understood; the events before it were handed out.
    pub fn run(
        &mut self,
        mut input: impl BufRead,
        mut each: impl FnMut(Envelope),
    ) -> Result<(), Error> {
        let mut line = Zeroizing::new(Vec::new());
        loop {
            line.clear();
            let number = self.lines + 1;
            let read = input
                .by_ref()
                .take(LINE as u64 + 2)
                .read_until(b'\n', &mut line)
                .map_err(|source| Error::Read {
                    line: number,
                    source,
                })?;
            if read == 0 {
                break;
            }
            self.line(&line)?;
            self.hand_out(&mut each);
        }
        if !self.format {
            return Err(Error::Empty);
        }
        self.pipeline.finish(self.now);
        self.hand_out(&mut each);
        Ok(())
    }

    /// An event is observed when the record was read that made it, on the replay's own clock.
    fn hand_out(&mut self, mut each: impl FnMut(Envelope)) {
        let observed = self.pipeline.wall(self.now);
        for event in self.pipeline.take_events() {
            each(Envelope {
                observed_time: observed,
                ..event
            });
        }
    }

    /// One line, with its end or without.
    fn line(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.lines += 1;
        self.take(bytes).map_err(|problem| Error::Line {
            line: self.lines,
            problem,
        })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        if bytes.len() > LINE {
            return Err(Problem::TooLong);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| Problem::NotText)?;
        let text = text.trim_ascii();
        if text.is_empty() || text.starts_with('#') {
            return Ok(());
        }
        match (line::parse(text)?, self.format) {
            (Line::Format { version: VERSION }, false) => {
                self.format = true;
                Ok(())
            }
            (Line::Format { version }, false) => Err(Problem::Version(version)),
            (_, false) => Err(Problem::FormatFirst),
            (Line::Format { .. }, true) => Err(Problem::Value("a second record `format`")),
            (Line::Process(process), true) => self.process(process),
            (Line::Connection(connection), true) => self.connection(&connection),
            (Line::Chunk(chunk), true) => self.chunk(chunk),
            (Line::Secret(secret), true) => self.secret(secret),
            (Line::Closed { connection, time }, true) => {
                let connection = known(&self.connections, "connection", connection)?.key;
                let time = self.pass(time);
                self.pipeline
                    .record(Record::Closed(Closed { time, connection }));
                Ok(())
            }
            (Line::Exit { process, time }, true) => {
                let process = known(&self.processes, "process", process)?.caller.process;
                let time = self.pass(time);
                self.pipeline
                    .record(Record::Process(ProcessRecord::Exit { time, process }));
                Ok(())
            }
        }
    }

    /// A record's time on the boot clock; lets what was waited for in between come due.
    fn pass(&mut self, micros: u64) -> Nanos {
        let time = line::nanos(micros).saturating_add(BOOTED);
        if time.saturating_sub(self.ticked) > TICK.saturating_mul(TICKS) {
            self.ticked = time - TICK * TICKS;
        }
        while time.saturating_sub(self.ticked) >= TICK {
            self.ticked += TICK;
            self.pipeline.tick(self.ticked);
        }
        // Files are not looked at here: what would be looked for is what the file says.
        self.pipeline.take_demands();
        self.now = self.now.max(time);
        time
    }

    fn process(&mut self, said: line::Process) -> Result<(), Problem> {
        let number = said.process;
        vacant(&self.processes, "process", "processes", number)?;
        let time = self.pass(said.time);
        let key = ProcessKey {
            pid: said.pid,
            start: time,
        };
        let parent = match said.parent {
            Some(parent) => known(&self.processes, "process", parent)?.caller.process,
            None => ProcessKey { pid: 1, start: 0 },
        };
        let caller = Caller {
            process: key,
            thread: said.pid,
            uid: said.uid,
            gid: said.gid.unwrap_or(said.uid),
            cgroup: 1,
            network_namespace: said.network_namespace,
            comm: said.name,
        };
        let mut arguments = Zeroizing::new(Vec::new());
        for argument in &said.arguments {
            arguments.extend_from_slice(argument.as_str().as_bytes());
            arguments.push(0);
        }
        self.pipeline.record(Record::Process(ProcessRecord::Exec {
            time,
            caller: caller.clone(),
            parent,
            filename: said.file.clone(),
            executable: FileId {
                device: 0,
                inode: u64::from(number),
            },
            arguments: Arguments {
                bytes: arguments,
                truncated: false,
            },
        }));
        let point = PointId(self.attached);
        if let Some(library) = said.library {
            let path = std::path::PathBuf::from(said.file);
            let attached = Attached {
                path: path.clone(),
                library,
                version: None,
                kind: PointKind::KeyLog,
                file_offset: 0,
                state: State::Candidate,
                since: 0,
            };
            self.points.add(point, attached);
            self.points.map(
                key,
                Mapped {
                    library,
                    path,
                    attached: Some(0),
                    point: Some(point),
                    why: None,
                },
            );
            self.attached += 1;
        }
        self.processes.insert(number, Process { caller, point });
        Ok(())
    }

    fn connection(&mut self, said: &line::Connection) -> Result<(), Problem> {
        let number = said.connection;
        vacant(&self.connections, "connection", "connections", number)?;
        known(&self.processes, "process", said.process)?;
        let connection = Connection {
            process: said.process,
            key: ConnectionKey {
                sock: 0xffff_8880_0000_0000 + u64::from(number),
                inode: u64::from(number),
            },
            endpoints: said.endpoints()?,
            sequence: [said.sequence.sent, said.sequence.received],
            next: [0; 2],
        };
        self.connections.insert(number, connection);
        Ok(())
    }

    fn chunk(&mut self, said: line::Chunk) -> Result<(), Problem> {
        let bytes = said.bytes()?;
        let time = self.pass(said.time);
        let connection = self
            .connections
            .get_mut(&said.connection)
            .ok_or(Problem::Unknown {
                what: "connection",
                number: said.connection,
            })?;
        let process = said.process.unwrap_or(connection.process);
        let caller = known(&self.processes, "process", process)?.caller.clone();
        let direction = Direction::from(said.direction);
        let place = &mut connection.next[direction.index()];
        let offset = said.offset.unwrap_or(*place);
        *place = offset
            .checked_add(bytes.len() as u64)
            .ok_or(Problem::Value("`offset` and bytes go past 2^64"))?;
        // As TCP does: modulo 2^32.
        let sequence = connection.sequence[direction.index()].wrapping_add(offset as u32);
        let chunk = Chunk {
            time,
            connection: connection.key,
            endpoints: connection.endpoints.clone(),
            caller,
            direction,
            offset,
            skipped: said.skipped,
            bytes,
            sequence,
            from_start: said.from_start,
            kernel_tls: false,
            end: said.end,
        };
        self.pipeline.record(Record::Chunk(chunk));
        Ok(())
    }

    fn secret(&mut self, said: line::Secret) -> Result<(), Problem> {
        let secret = said.bytes()?;
        let client_random = said.client_random()?;
        let time = self.pass(said.time);
        let process = known(&self.processes, "process", said.process)?;
        self.pipeline.record(Record::Secret(SecretRecord {
            time,
            caller: process.caller.clone(),
            point: process.point,
            label: said.label,
            secret,
            client_random,
        }));
        Ok(())
    }

    pub fn counters(&self) -> &Counters {
        self.pipeline.counters()
    }
}

fn known<'a, T>(
    map: &'a HashMap<u32, T>,
    what: &'static str,
    number: u32,
) -> Result<&'a T, Problem> {
    map.get(&number).ok_or(Problem::Unknown { what, number })
}

fn vacant<T>(
    map: &HashMap<u32, T>,
    what: &'static str,
    many: &'static str,
    number: u32,
) -> Result<(), Problem> {
    if map.contains_key(&number) {
        Err(Problem::Twice { what, number })
    } else if map.len() >= NUMBERS {
        Err(Problem::TooMany(many))
    } else {
        Ok(())
    }
}

/// Entry point for fuzzing.
#[doc(hidden)]
pub mod fuzz {
    use super::{Replay, line};
    use crate::{credential, pipeline};
    use agent_common::fingerprint::Keyring;
    use std::sync::Arc;

    /// Whatever a file holds, it is replayed or refused with a line, and no error shows a string of it.
    pub fn fuzz(data: &[u8]) {
        let Ok(keyring) = Keyring::ephemeral() else {
            return;
        };
        let limits = pipeline::synthetic::limits(8);
        let Ok(mut replay) = Replay::new(limits, credential::Config::default(), Arc::new(keyring))
        else {
            return;
        };
        let result = replay.run(data, drop);
        if let Err(error) = result {
            let error = error.to_string();
            for text in line::fuzz_strings(data) {
                assert!(!error.contains(&text), "{error}");
            }
        }
    }
}
