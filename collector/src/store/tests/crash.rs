//! kill -9 of a process that seals, merges and drops, at random points: nothing lost, nothing twice.
//!
//! The child is this test binary again, with an inbox of plain files. It says on its standard output which events it
//! has acknowledged; the parent kills it, looks at what is there, and starts it again on the same folder.

use super::load::{Load, Random};
use super::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path as FilePath, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const FOLDER: &str = "TOKENTRAIL_CRASH_FOLDER";
const SEED: &str = "TOKENTRAIL_CRASH_SEED";
/// Kills of one run of the test; CI sets more.
const KILLS: &str = "TOKENTRAIL_KILLS";

/// An inbox of one file per entry. A kill leaves the page cache, so that nothing has to be forced to the disk.
struct Files {
    folder: PathBuf,
    entries: Mutex<BTreeMap<i64, Arc<Entry>>>,
}

impl Files {
    fn open(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        let mut entries = BTreeMap::new();
        for file in fs::read_dir(&folder).unwrap() {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if let Ok(id) = name.parse() {
                let text = fs::read_to_string(&path).unwrap();
                let events = text
                    .lines()
                    .map(|line| Event::parse(Bytes::from(line.to_owned())).unwrap())
                    .collect();
                entries.insert(id, entry(id, events));
            }
        }
        Self {
            folder,
            entries: Mutex::new(entries),
        }
    }

    fn append(&self, id: i64, events: Vec<Event>) {
        let staged = self.folder.join("staged");
        let mut file = fs::File::create(&staged).unwrap();
        for event in &events {
            file.write_all(&event.json).unwrap();
            file.write_all(b"\n").unwrap();
        }
        fs::rename(staged, self.folder.join(id.to_string())).unwrap();
        self.entries.lock().unwrap().insert(id, entry(id, events));
    }
}

fn entry(id: i64, events: Vec<Event>) -> Arc<Entry> {
    Arc::new(Entry {
        id,
        received: 0,
        origin: "test".into(),
        events,
    })
}

impl Pending for Files {
    fn pending(&self) -> Vec<Arc<Entry>> {
        self.entries.lock().unwrap().values().cloned().collect()
    }

    fn remove(&self, through: i64) -> Result<(), PendingError> {
        let mut entries = self.entries.lock().unwrap();
        let later = entries.split_off(&(through + 1));
        for id in std::mem::replace(&mut *entries, later).into_keys() {
            fs::remove_file(self.folder.join(id.to_string()))?;
        }
        Ok(())
    }
}

async fn on(folder: &FilePath) -> (Store, Arc<Files>) {
    let objects: Arc<dyn ObjectStore> = Arc::new(Directory::open(&folder.join("data")).unwrap());
    let catalog: Arc<dyn Catalog> =
        Arc::new(SqliteCatalog::open(&folder.join("catalog.db")).unwrap());
    let inbox = Arc::new(Files::open(folder.join("inbox")));
    let store = Store::open(objects, catalog, inbox.clone(), settings())
        .await
        .unwrap();
    (store, inbox)
}

/// Events of hours that are old enough to be dropped by age.
const OLD: i64 = MIDNIGHT - 100 * 24 * HOUR;

fn is_old(event: &Event) -> bool {
    event.time < OLD + 24 * HOUR
}

/// What the child does until it is killed; does nothing in an ordinary run of the tests.
#[test]
fn child() {
    let (Ok(folder), Ok(seed)) = (std::env::var(FOLDER), std::env::var(SEED)) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let (store, inbox) = on(FilePath::new(&folder)).await;
        let seed: u64 = seed.parse().unwrap();
        let mut random = Random(seed);
        // Agents of this run: their epoch, which is made of the time, is of this run alone.
        let of_run = seed as i64 % 1_000_000 * 1_000_000;
        let mut recent = Load::new(seed, 2, 8, MIDNIGHT + of_run, 1_000_000);
        let mut old = Load::new(!seed, 1, 4, OLD + of_run, 1_000_000);
        let mut id = seed as i64 * 1_000_000;
        println!("\nready");
        loop {
            for _ in 0..=random.below(2) {
                let mut events = recent.events(1 + random.below(6) as usize);
                if random.below(3) == 0 {
                    events.extend(old.events(2));
                }
                id += 1;
                inbox.append(id, events.clone());
                let mut said = String::new();
                for event in &events {
                    said += &format!("has {} {}\n", is_old(event), event.key);
                }
                print!("{said}");
                std::io::stdout().flush().unwrap();
            }
            store.seal().await.unwrap();
            if random.below(3) == 0 {
                store
                    .merge(recent.now + random.below(2) as i64 * 3 * HOUR)
                    .await
                    .unwrap();
            }
            if random.below(4) == 0 {
                let now = seal::now() + 25 * HOUR;
                let age = now - (OLD + 24 * HOUR);
                let retention = Retention {
                    age: Some(age),
                    bytes: None,
                };
                store.retain(retention, now).await.unwrap();
            }
        }
    });
}

#[test]
fn killed_at_random_points() {
    let kills: u64 = std::env::var(KILLS).map_or(12, |kills| kills.parse().unwrap());
    let seed = std::env::var(SEED).map_or(1, |seed| seed.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut random = Random(seed);
    // By key, whether it is old.
    let mut acknowledged: BTreeMap<String, bool> = BTreeMap::new();
    let (mut seen, mut merged, mut dropped) = (0, 0, 0);
    for kill in 1..=kills {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "store::tests::crash::child",
                "--exact",
                "--nocapture",
                "--test-threads=1",
            ])
            .env(FOLDER, folder.path())
            .env(SEED, kill.to_string())
            .env_remove("RUST_BACKTRACE")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let ready = lines
            .by_ref()
            .map_while(std::result::Result::ok)
            .any(|line| line == "ready");
        assert!(ready, "kill {kill}: the child did not start");
        let said = Arc::new(AtomicU64::new(0));
        let reading = std::thread::spawn({
            let said = said.clone();
            move || {
                let lines = lines.map_while(std::result::Result::ok);
                lines
                    .inspect(|_| {
                        said.fetch_add(1, Ordering::Relaxed);
                    })
                    .collect::<Vec<_>>()
            }
        });
        // By what it has done: time alone would be too short on a busy machine.
        let (enough, end) = (random.below(200), Instant::now() + Duration::from_secs(30));
        while said.load(Ordering::Relaxed) < enough && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(random.below(50_000)));
        // SIGKILL.
        child.kill().unwrap();
        child.wait().unwrap();
        for line in reading.join().unwrap() {
            // The last line may be cut.
            if let Some((old, key)) = line
                .strip_prefix("has ")
                .and_then(|rest| rest.split_once(' '))
                && key.split('/').count() == 3
            {
                acknowledged.insert(key.to_owned(), old == "true");
            }
        }
        runtime.block_on(async {
            let (store, _) = on(folder.path()).await;
            let snapshot = store.snapshot().await.unwrap();
            merged += u64::from(snapshot.segments.iter().any(|it| it.level != Level::Sealed));
            let mut found = BTreeMap::new();
            for event in events_of(&snapshot).await {
                let twice = found.insert(event.key.to_string(), is_old(&event));
                assert!(twice.is_none(), "kill {kill}: {} is there twice", event.key);
            }
            for (key, old) in &acknowledged {
                let here = found.contains_key(key);
                assert!(here || *old, "kill {kill}: {key} is lost");
                dropped += u64::from(!here);
            }
            seen = found.len();
        });
        // What was stored and not said, because the kill came between, is there from now on.
        acknowledged.retain(|_, old| !*old);
    }
    println!(
        "{kills} kills, {seen} events, {merged} looks at merged segments, {dropped} dropped by age"
    );
    assert!(kills < 10 || merged > 0 && dropped > 0);
}
