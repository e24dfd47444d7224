//! A disk that is full: a tmpfs of 24 MiB in a mount namespace of its own.

use super::chance::Chance;
use super::child::{event, lines, options, output};
use super::verdict::{Got, holes_are_losses};
use agent_common::event::{Body, LossReason};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokentrail_agent::sink::RotatingFile;
use tokentrail_agent::sink::batch::{Batch, Limits, Outcome, Receiver};
use tokentrail_agent::sink::delivery::Delivery;
use tokentrail_agent::sink::lines::Lines;

const FOLDER: &str = "TOKENTRAIL_TEST_FULL";
/// A disk that was full is tried every 5 s, and again and again on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_full_disk_loses_nothing_silently() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: a tmpfs needs root");
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::create_dir(folder.path().join("small")).unwrap();
    let status = Command::new("unshare")
        .args(["--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=24m none \"$1\" && exec \"$2\" --exact full::run_on_full_disk --ignored --nocapture")
        .arg("sh")
        .arg(folder.path().join("small"))
        .arg(std::env::current_exe().unwrap())
        .env(FOLDER, folder.path())
        .status()
        .unwrap();
    assert!(status.success(), "{status}");
}

/// Takes nothing until it is opened.
struct Gated {
    lines: Lines<RotatingFile>,
    open: Arc<AtomicBool>,
}

impl Receiver for Gated {
    fn name(&self) -> &str {
        "file"
    }

    fn limits(&self) -> Limits {
        self.lines.limits()
    }

    fn send(&mut self, batch: &Batch) -> Outcome {
        if self.open.load(Ordering::Relaxed) {
            self.lines.send(batch)
        } else {
            Outcome::Retry {
                after: None,
                reason: "not yet".into(),
            }
        }
    }
}

#[test]
#[ignore = "it is what the other test starts"]
fn run_on_full_disk() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = Path::new(&folder);
    let small = folder.join("small");
    let open = Arc::new(AtomicBool::new(false));
    let receiver = Gated {
        lines: lines(folder, "file"),
        open: Arc::clone(&open),
    };
    let mut delivery =
        Delivery::start(options(&small, 1 << 30), vec![Box::new(receiver)], "a", 1).unwrap();
    let epoch = delivery.epoch();
    let mut sequence = 0;
    let give = |delivery: &mut Delivery, loss, sequence: &mut u64| {
        *sequence += 1;
        let mut event = event(epoch, *sequence, loss);
        if let Body::Audit(audit) = &mut event.body {
            let mut chance = Chance(*sequence);
            audit.audit.detail = Some((0..60).map(|_| format!("{:016x}", chance.next())).collect());
        }
        delivery.take(&event);
        delivery.tend();
        *sequence
    };
    // Far more than the disk and memory hold.
    for _ in 0..30_000 {
        give(&mut delivery, None, &mut sequence);
    }
    std::thread::sleep(Duration::from_millis(50));
    assert!(delivery.losses().is_empty(), "nothing can be told of now");
    // Others take what is left of it, and keep it.
    let others = std::fs::write(small.join("others"), vec![0; 24 << 20]);
    assert!(others.is_err(), "the disk has room: the test tests nothing");
    open.store(true, Ordering::Relaxed);
    // Delivery makes room; what waits in memory follows, then the loss.
    let end = Instant::now() + PATIENCE;
    let mut told = 0;
    let last = loop {
        assert!(Instant::now() < end, "it has not recovered");
        let losses = delivery.losses();
        for loss in losses {
            assert_eq!(loss.reason, LossReason::SpoolFailed);
            told += loss.count.unwrap();
            give(&mut delivery, Some(loss), &mut sequence);
        }
        std::thread::sleep(Duration::from_millis(20));
        let last = give(&mut delivery, None, &mut sequence);
        if told > 0 {
            break last;
        }
    };
    assert_eq!(delivery.close(PATIENCE), []);
    let got = Got::read(&output(folder, "file"));
    let lost = holes_are_losses("file", &got, &got.losses, epoch, last);
    println!("{last} events, {lost} counted as lost, {} twice", got.twice);
    assert!(lost > 0 && lost == told && lost < last);
}
