//! Power loss: the collector on a file system that loses what was not forced to it (`power/disk.py`, by FUSE), which
//! takes unsynced writes and names apart more cruelly than a real one. Everything acknowledged is there, once, and the
//! collector starts from what is left.
//!
//! `TOKENTRAIL_POWER_LOSSES` says how often (8), `TOKENTRAIL_SEED` at which random points. Needs `/dev/fuse` and what
//! `cargo xtask setup --test` brings; where they are missing it says so and is skipped.

use crate::kills::agents::Agent;
use crate::kills::phases::Moment;
use crate::support::chance::Chance;
use crate::support::events::{self, HOUR, Source};
use crate::support::serve::Site;
use crate::support::stored::Reader;
use crate::support::{PATIENCE, eventually, number, python};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;
use tokentrail::event::EventKey;

const SETTINGS: &str =
    "[inbox]\nmax_bytes = 1048576\n[store]\nseal_seconds = 1\ntidy_seconds = 1\n";

/// The file system, while it is mounted.
struct Disk {
    child: Child,
    mount: PathBuf,
}

impl Disk {
    fn mount(python: &Path, mount: &Path, image: &Path, seed: u64) -> Self {
        let device = |path: &Path| fs::metadata(path).unwrap().dev();
        let before = device(mount);
        let child = Command::new(python)
            .arg(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/serve/power/disk.py"
            ))
            .args([mount, image])
            .arg(seed.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut disk = Self {
            child,
            mount: mount.to_owned(),
        };
        eventually("the file system", || {
            let ended = disk.child.try_wait().unwrap();
            assert!(ended.is_none(), "the file system has ended: {ended:?}");
            if device(mount) == before {
                Err("not mounted".to_owned())
            } else {
                Ok(())
            }
        });
        disk
    }

    /// The image has what is on the disk then; how often something was forced to it.
    fn lose_power(mut self) -> u64 {
        let id = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(id, Signal::TERM).unwrap();
        let out = self.child.stdout.take().unwrap();
        let said = std::io::read_to_string(out).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        said.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = Command::new("fusermount3")
                .arg("-uz")
                .arg(&self.mount)
                .status();
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn agent(name: &str) -> Agent {
    let source = Source {
        agent: name.into(),
        epoch: 1,
        time: |begin, sequence| {
            begin - [2, 26][sequence as usize % 2] * HOUR + sequence as i64 * 1_000
        },
        begin: events::now() / HOUR * HOUR,
        noise: 0,
    };
    Agent::new(source, 40)
}

#[test]
fn what_is_acknowledged_survives_power_loss() {
    let Some(python) = python("mfusepy").filter(|_| Path::new("/dev/fuse").exists()) else {
        println!("skipped: no /dev/fuse, or no Python with mfusepy (cargo xtask setup --test)");
        return;
    };
    let losses = number("TOKENTRAIL_POWER_LOSSES", 8);
    let mut chance = Chance(number("TOKENTRAIL_SEED", 20_261_122));
    let folder = tempfile::tempdir().unwrap();
    let [mount, image] = ["mount", "image"].map(|name| folder.path().join(name));
    fs::create_dir(&mount).unwrap();
    fs::create_dir(&image).unwrap();
    let mut site = Site::new(folder.path(), SETTINGS);
    // Two folders that are not there yet: their names have to be forced, too.
    site.data = mount.join("lib/collector");
    let mut agents = ["one", "two", "three"].map(agent);
    let (mut forced, mut merged) = (0, 0);
    for loss in 1..=losses {
        let disk = Disk::mount(&python, &mount, &image, chance.number());
        let moment = Moment::any(&mut chance);
        let after = chance.millis(moment.most());
        let mut server = if loss == 1 {
            site.start()
        } else {
            site.begin()
        };
        if moment == Moment::Start {
            std::thread::sleep(after);
            server.kill();
        } else {
            server.wait();
            let (url, header) = (server.url.clone(), site.ingest_header());
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for agent in &mut agents {
                    let (chance, url, header, stop) =
                        (Chance(chance.number()), &url, &header, &stop);
                    scope.spawn(move || agent.deliver(url, header, chance, stop));
                }
                moment.wait(&site.data.join("store"));
                std::thread::sleep(after);
                server.kill();
                stop.store(true, Ordering::Relaxed);
            });
        }
        forced += disk.lose_power();
        fs::remove_dir_all(folder.path().join("image.before")).unwrap();
        // The reader works on copies, and knows segments by their names: one that is there is whole.
        let stored = Reader::default().read(&image.join("lib/collector"));
        for (key, count) in &stored.events {
            assert_eq!(
                *count, 1,
                "{key} is there {count} times after {loss} losses"
            );
        }
        for agent in &agents {
            let of = |sequence| EventKey {
                agent: agent.source.agent.clone(),
                epoch: agent.source.epoch,
                sequence,
            };
            let gone = (1..=agent.acknowledged)
                .filter(|sequence| !stored.events.contains_key(&of(*sequence)));
            let gone: Vec<u64> = gone.take(10).collect();
            assert!(
                gone.is_empty(),
                "{gone:?}… of {} are gone after {loss} losses",
                agent.source.agent
            );
        }
        merged += stored
            .catalog
            .live
            .iter()
            .filter(|segment| segment.level != tokentrail::store::Level::Sealed)
            .count();
    }
    // Once more, to the end: keys, too, are what they were.
    let disk = Disk::mount(&python, &mount, &image, 1);
    let mut server = site.start();
    let header = site.ingest_header();
    let start = Instant::now();
    for agent in &mut agents {
        agent.finish(&server.url, &header);
        let query = format!("producer.id:{}", agent.source.agent);
        let found = server.count(&query, "kind", &site.keys().analyst);
        assert_eq!(found, [("usage".to_owned(), agent.acknowledged)], "{query}");
    }
    assert!(start.elapsed() < 3 * PATIENCE);
    server.stop();
    disk.lose_power();
    let acknowledged: u64 = agents.iter().map(|agent| agent.acknowledged).sum();
    println!(
        "{losses} losses of power, {forced} times forced; {acknowledged} events acknowledged, all there; {merged} merged segments seen"
    );
}
