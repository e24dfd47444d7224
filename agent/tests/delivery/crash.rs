//! `kill -9` at random points, 200 times and more.

use super::chance::Chance;
use super::child::{output, spawn};
use super::verdict::{Got, holes_are_losses, unclean};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

const KILLS: u64 = 220;
/// Between two looks at everything.
const LOOK: u64 = 55;
const SEED: u64 = 20_261_122;
/// Until a child has begun its run.
const BEGUN: Duration = Duration::from_secs(120);

#[test]
fn nothing_durable_is_lost_by_kills() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut chance = Chance(SEED);
    for kill in 1..=KILLS {
        let begun = runs(folder.path());
        let mut child = spawn(folder.path(), chance.next(), false);
        // Most are killed while they work, some while they start.
        if chance.below(10) > 0 {
            let end = Instant::now() + BEGUN;
            while runs(folder.path()) == begun {
                assert!(Instant::now() < end && child.try_wait().unwrap().is_none());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        std::thread::sleep(Duration::from_micros(chance.below(120_000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&status),
            Some(9)
        );
        if kill % LOOK == 0 {
            let mut drain = spawn(folder.path(), 0, true);
            assert!(drain.wait().unwrap().success(), "after kill {kill}");
            check(folder.path());
        }
    }
}

fn runs(folder: &Path) -> usize {
    durable(folder).len()
}

/// By epoch, what was seen to be durable.
fn durable(folder: &Path) -> BTreeMap<u64, u64> {
    let text = std::fs::read_to_string(folder.join("durable")).unwrap_or_default();
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .map(|line| {
            let (epoch, sequence) = line.trim().split_once(' ').unwrap();
            (epoch.parse().unwrap(), sequence.parse().unwrap())
        })
        .collect()
}

fn check(folder: &Path) {
    let file = Got::read(&output(folder, "file"));
    let faulty = Got::read(&output(folder, "faulty"));
    let durable = durable(folder);
    let ends = unclean(&file.losses);
    let (mut refused, mut rejected) = (0, 0);
    let (last, _) = durable.last_key_value().unwrap();
    for (epoch, sequence) in &durable {
        let lost = holes_are_losses("file", &file, &file.losses, *epoch, *sequence);
        refused += lost;
        // What the faulty one refused for good is told of in events that it may have refused: the file has them all.
        rejected += holes_are_losses("faulty", &faulty, &file.losses, *epoch, *sequence) - lost;
        // Drained runs ended cleanly; the last run is such a one.
        if let Some(end) = ends.get(epoch)
            && let Some((key, time)) = file
                .times
                .range((*epoch, 0)..=(*epoch, u64::MAX))
                .next_back()
        {
            assert_eq!(end.from.unix_nanos(), *time, "{key:?}");
            assert_eq!(end.events.as_ref().unwrap().first, key.1 + 1);
        }
    }
    assert!(!ends.contains_key(last));
    // Those that were killed between their begin and their first sign are ended, too.
    let unclean = durable
        .keys()
        .filter(|epoch| ends.contains_key(epoch))
        .count() as u64;
    let drains = (durable.len() as u64).saturating_sub(unclean);
    println!(
        "{} runs: {} ended by a kill and told of, {drains} cleanly; {} events, refused {refused}, rejected {rejected}, \
         twice {} and {}, cut {} and {}",
        durable.len(),
        ends.len(),
        file.times.len(),
        file.twice,
        faulty.twice,
        file.cut,
        faulty.cut,
    );
    assert!(
        drains <= KILLS / LOOK,
        "{drains} runs ended without being told of"
    );
    assert!(
        refused > 0 && rejected > 0,
        "nothing was refused: the test tests little"
    );
}
