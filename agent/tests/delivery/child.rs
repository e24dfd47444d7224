//! The process that is killed: numbers events, spools them, and delivers them to a file and to a faulty receiver.

use super::chance::Chance;
use agent_common::event::{Body, Envelope, Loss, LossDetail, Time};
use serde_json::json;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokentrail_agent::config;
use tokentrail_agent::sink::RotatingFile;
use tokentrail_agent::sink::batch::{Batch, Limits, Outcome, Receiver};
use tokentrail_agent::sink::courier::Patience;
use tokentrail_agent::sink::delivery::{Delivery, Options};
use tokentrail_agent::sink::lines::Lines;
use tokentrail_agent::spool;

const FOLDER: &str = "TOKENTRAIL_TEST_FOLDER";
const SEED: &str = "TOKENTRAIL_TEST_SEED";
/// Without faults and new events, until everything is delivered.
const DRAIN: &str = "TOKENTRAIL_TEST_DRAIN";
/// Small, so that it is full now and then.
const MAX_BYTES: u64 = 128 * 1024;
const DRAINED: Duration = Duration::from_secs(60);

/// Events that the faulty receiver never takes.
pub fn poisonous(sequence: u64) -> bool {
    sequence % 89 == 13
}

/// Events that it leaves out of a batch that it accepts.
pub fn left_out(sequence: u64) -> bool {
    sequence % 97 == 7
}

/// Starts this binary again as the child.
pub fn spawn(folder: &Path, seed: u64, drain: bool) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child::run_as_child", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    if drain {
        command.env(DRAIN, "1");
    }
    command.spawn().unwrap()
}

#[test]
#[ignore = "it is what the other tests start"]
fn run_as_child() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let seed: u64 = std::env::var(SEED).unwrap().parse().unwrap();
    let drain = std::env::var_os(DRAIN).is_some();
    let mut feed = Feed::start(Path::new(&folder), seed, drain);
    if drain {
        feed.drain();
    } else {
        feed.feed();
    }
}

pub fn options(folder: &Path, max_bytes: u64) -> Options {
    Options {
        spool: spool::Options {
            path: folder.join("spool"),
            max_bytes,
            max_age: Duration::from_secs(3_600),
            when_full: spool::WhenFull::Refuse,
            quarantine_bytes: 64 * 1024,
        },
        group: Duration::from_millis(2),
        retry_bytes: 1 << 20,
        patience: Patience {
            first: Duration::from_millis(1),
            longest: Duration::from_millis(8),
        },
    }
}

pub fn lines(folder: &Path, name: &'static str) -> Lines<RotatingFile> {
    let config = config::File::default();
    let path = folder.join(format!("{name}.ndjson"));
    Lines::new(name, RotatingFile::open(&path, &config).unwrap(), || {})
}

pub fn event(epoch: u64, sequence: u64, body: Option<LossDetail>) -> Envelope {
    let mut event: Envelope = serde_json::from_value(json!({
        "version": 1, "kind": "audit", "time": Time::now(), "observed_time": Time::now(),
        "producer": { "id": "a", "name": "tokentrail-agent", "version": "0", "epoch": epoch, "sequence": sequence },
        "host": { "name": "h", "boot_id": "b" },
        "audit": {
            "action": "agent_report",
            // Does not compress well.
            "detail": format!("{:032x}", u128::from(Chance(epoch ^ (sequence << 20)).next()) << 64
                | u128::from(Chance(sequence).next())),
        }
    }))
    .unwrap();
    if let Some(loss) = body {
        event.body = Body::Loss(Loss { loss });
    }
    event
}

struct Feed {
    delivery: Delivery,
    chance: Chance,
    sequence: u64,
    /// What was seen to be durable: `epoch sequence` by lines. Survives the kill in the kernel's memory.
    durable: File,
    told: u64,
}

impl Feed {
    fn start(folder: &Path, seed: u64, calm: bool) -> Self {
        let faulty = Faulty {
            lines: lines(folder, "faulty"),
            chance: Chance(seed),
            calm,
        };
        let receivers: Vec<Box<dyn Receiver>> =
            vec![Box::new(lines(folder, "file")), Box::new(faulty)];
        let epoch = u64::try_from(Time::now().unix_nanos() / 1_000_000).unwrap();
        let delivery = Delivery::start(options(folder, MAX_BYTES), receivers, "a", epoch).unwrap();
        let durable = OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("durable"))
            .unwrap();
        let mut feed = Self {
            delivery,
            chance: Chance(seed ^ 0x5eed),
            sequence: 0,
            durable,
            told: 0,
        };
        feed.tell();
        feed
    }

    fn tell(&mut self) {
        let line = format!("{} {}\n", self.delivery.epoch(), self.delivery.durable());
        self.durable.write_all(line.as_bytes()).unwrap();
        self.told = self.delivery.durable();
    }

    fn give(&mut self, loss: Option<LossDetail>) {
        self.sequence += 1;
        let event = event(self.delivery.epoch(), self.sequence, loss);
        self.delivery.take(&event);
    }

    fn tend(&mut self) {
        self.delivery.tend();
        if self.delivery.durable() != self.told {
            self.tell();
        }
    }

    fn losses(&mut self) -> usize {
        let losses = self.delivery.losses();
        let count = losses.len();
        for loss in losses {
            self.give(Some(loss));
        }
        count
    }

    /// Until it is killed.
    fn feed(&mut self) {
        loop {
            for _ in 0..self.chance.below(40) {
                self.give(None);
            }
            if self.chance.below(10) == 0 {
                self.losses();
            }
            self.tend();
            std::thread::sleep(Duration::from_micros(self.chance.below(3_000)));
        }
    }

    /// Until nothing waits any more and every loss is told of.
    fn drain(mut self) {
        let end = Instant::now() + DRAINED;
        let mut quiet = 0;
        while quiet < 3 {
            assert!(
                Instant::now() < end,
                "not drained: {} bytes",
                self.delivery.used()
            );
            let told = self.losses();
            std::thread::sleep(Duration::from_millis(5));
            self.tend();
            // Passed entries leave once a second.
            let waits = self.delivery.used() > 0 || told > 0;
            quiet = if waits { 0 } else { quiet + 1 };
        }
        assert_eq!(self.delivery.close(Duration::from_secs(10)), []);
    }
}

/// Fails in every way; what it takes it writes to a file.
struct Faulty {
    lines: Lines<RotatingFile>,
    chance: Chance,
    calm: bool,
}

impl Receiver for Faulty {
    fn name(&self) -> &str {
        "faulty"
    }

    fn limits(&self) -> Limits {
        Limits {
            events: 64,
            bytes: 16 * 1024,
        }
    }

    fn send(&mut self, batch: &Batch) -> Outcome {
        let retry = |after| Outcome::Retry {
            after,
            reason: "503".into(),
        };
        let fault = if self.calm {
            99
        } else {
            self.chance.below(100)
        };
        match fault {
            0..12 => return retry(None),
            12..16 => return retry(Some(Duration::from_millis(20))),
            16..24 if batch.events.len() > 3 => {
                return Outcome::TooLarge {
                    reason: "413".into(),
                };
            }
            24..34 => std::thread::sleep(Duration::from_millis(self.chance.below(12))),
            _ => {}
        }
        if batch.events.iter().any(|event| poisonous(event.sequence)) {
            return if batch.events.len() > 1 {
                Outcome::TooLarge {
                    reason: "413".into(),
                }
            } else {
                Outcome::Rejected {
                    reason: "400".into(),
                }
            };
        }
        let mut taken = batch.clone();
        taken.events.retain(|event| !left_out(event.sequence));
        let rejected = (batch.events.len() - taken.events.len()) as u64;
        if !taken.events.is_empty() {
            let written = self.lines.send(&taken);
            assert!(matches!(written, Outcome::Accepted { .. }), "{written:?}");
        }
        // It has them, and the answer is lost.
        if (34..40).contains(&fault) {
            return retry(None);
        }
        Outcome::Accepted {
            rejected,
            reason: None,
        }
    }
}

/// Where the sinks of a folder wrote.
pub fn output(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.ndjson"))
}
