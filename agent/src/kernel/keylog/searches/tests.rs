//! The queue at work, with a finder that does as the test says.

use super::super::process::SearchError;
use super::super::tests::{Compiled, LIBRARY, look as search_bytes};
use super::*;
use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

type Act = dyn Fn(&File, Option<&Found>) -> Result<Found, SearchError> + Send + Sync;

/// A finder, and the sizes of the files that it was given, in order.
struct Fake {
    given: Sender<u64>,
    act: Box<Act>,
}

impl Search for Fake {
    fn search(&self, file: &File, hint: Option<&Found>, _: Class) -> Result<Found, SearchError> {
        let _ = self.given.send(file.metadata().unwrap().len());
        (self.act)(file, hint)
    }
}

fn really(mut file: &File) -> Found {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    search_bytes(&bytes).unwrap()
}

struct World {
    searches: Searches,
    answers: Receiver<Searched>,
    given: Receiver<u64>,
    folder: TempDir,
}

impl World {
    fn new(
        act: impl Fn(&File, Option<&Found>) -> Result<Found, SearchError> + Send + Sync + 'static,
    ) -> Self {
        Self::with(Cache::in_memory(), Shares::default(), act)
    }

    fn with(
        cache: Cache,
        shares: Shares,
        act: impl Fn(&File, Option<&Found>) -> Result<Found, SearchError> + Send + Sync + 'static,
    ) -> Self {
        let (given, given_to) = channel();
        let (answer, answers) = channel();
        let fake = Fake {
            given,
            act: Box::new(act),
        };
        let answer = Mutex::new(answer);
        let searches = Searches::start(fake, cache, shares, move |searched| {
            let _ = answer.lock().unwrap().send(searched);
        });
        Self {
            searches: searches.unwrap(),
            answers,
            given: given_to,
            folder: tempfile::tempdir_in("/var/tmp").unwrap(),
        }
    }

    /// A file that the privileged process's own reader takes for a program.
    fn file(&self, name: &str, size: u64) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, headers()).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(size).unwrap();
        path
    }

    fn ask(&self, token: u64, owner: &str, path: &Path) {
        let path = path.to_owned();
        self.ask_open(token, owner, Class::Prompt, move || Ok(File::open(path)?));
    }

    fn ask_open(
        &self,
        token: u64,
        owner: &str,
        class: Class,
        open: impl FnOnce() -> Result<File, LookError> + Send + 'static,
    ) {
        self.searches.ask(Job {
            token,
            owner: Owner::named(owner),
            class,
            open: Box::new(open),
        });
    }

    fn answer(&self) -> Searched {
        self.answers.recv_timeout(PATIENCE).unwrap()
    }
}

/// An ELF header with no program headers.
fn headers() -> Vec<u8> {
    let mut bytes = vec![0; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[54] = 56;
    bytes
}

fn nothing(file: &File) -> Found {
    Found {
        size: file.metadata().unwrap().len(),
        ..Found::default()
    }
}

#[test]
fn a_file_is_searched_once_in_one_state() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: files that only root may write are needed");
        return;
    }
    let world = World::new(|file, _| Ok(nothing(file)));
    let path = world.file("a", 100);
    // Young: its state says too little. A machine may stop this test until it is not.
    let young = (0..100).any(|number| {
        world.file("a", 100);
        world.ask(number, "o", &path);
        !world.answer().cacheable
    });
    assert!(young);
    while world.given.try_recv().is_ok() {}
    std::thread::sleep(Duration::from_millis(300));
    world.ask(2, "o", &path);
    let second = world.answer();
    assert!(second.cacheable && !second.known, "{second:?}");
    world.ask(3, "o", &path);
    let third = world.answer();
    assert!(third.known && third.token == 3, "{third:?}");
    assert!(world.searches.known(&third.state.unwrap()).is_some());
    assert_eq!(world.given.try_iter().count(), 1);
    // Changed.
    world.file("a", 101);
    world.ask(4, "o", &path);
    assert!(!world.answer().known);
}

#[test]
fn a_file_that_changes_meanwhile_has_no_answer() {
    let (begun, begins) = channel();
    let (go, goes) = channel::<()>();
    let (begun, goes) = (Mutex::new(begun), Mutex::new(goes));
    let world = World::new(move |file, _| {
        begun.lock().unwrap().send(()).unwrap();
        goes.lock().unwrap().recv().unwrap();
        Ok(nothing(file))
    });
    let path = world.file("a", 100);
    world.ask(1, "o", &path);
    begins.recv_timeout(PATIENCE).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    std::fs::write(&path, headers()).unwrap();
    go.send(()).unwrap();
    let searched = world.answer();
    assert!(
        matches!(searched.outcome, Err(Reason::Changed)),
        "{searched:?}"
    );
    assert!(!searched.cacheable);
}

/// One user's many files of 1 GB, and another's of 8 MB: that one is among the first.
#[test]
fn many_large_files_of_one_owner_hold_no_other() {
    let (go, goes) = channel::<()>();
    let goes = Mutex::new(goes);
    let world = World::new(move |file, _| {
        goes.lock().unwrap().recv().unwrap();
        Ok(nothing(file))
    });
    let large = 100 << 20;
    for number in 0..40 {
        let path = world.file(&format!("large{number}"), large);
        world.ask(number, "one", &path);
    }
    // All threads that the owner may have are busy.
    for _ in 0..Shares::default().fresh_of_owner {
        assert_eq!(world.given.recv_timeout(PATIENCE), Ok(large));
    }
    let small = world.file("small", 8 << 20);
    world.ask(100, "other", &small);
    // One of the owner's may have been let in by a clock that runs fast.
    let first = [(); 4].map(|()| world.given.recv_timeout(Duration::from_secs(10)));
    assert!(first.contains(&Ok(8 << 20)), "{first:?}");
    for _ in 0..41 {
        go.send(()).unwrap();
    }
    let answered: Vec<u64> = (0..41).map(|_| world.answer().token).collect();
    assert!(answered.contains(&100));
    assert_eq!(world.searches.waiting(), 0);
}

/// A server that is dead: opening never ends.
#[test]
fn an_open_that_hangs_holds_nobody_else() {
    let world = World::new(|file, _| Ok(nothing(file)));
    let mut ends = Vec::new();
    for token in 0..6 {
        let (end, ended) = channel::<()>();
        ends.push(end);
        world.ask_open(token, "dead", Class::Prompt, move || {
            let _ = ended.recv();
            Err(LookError::NotAFile("folder"))
        });
    }
    let path = world.file("a", 100);
    world.ask(10, "other", &path);
    world.ask(11, "dead", &path);
    let mut first = [world.answer().token, world.answer().token];
    first.sort_unstable();
    assert_eq!(first, [10, 11]);
    drop(ends);
    for _ in 0..6 {
        assert!(matches!(world.answer().outcome, Err(Reason::Open(_))));
    }
}

#[test]
fn what_does_not_fit_is_answered_at_once_with_its_own_reason() {
    let shares = Shares {
        waiting_of_owner: 3,
        waiting: 5,
        ..Shares::default()
    };
    let (end, ended) = channel::<()>();
    let ended = Arc::new(Mutex::new(ended));
    let world = World::with(Cache::in_memory(), shares, |file, _| Ok(nothing(file)));
    let hanging = || {
        let ended = Arc::clone(&ended);
        move || {
            let _ = ended.lock().map(|ended| ended.recv());
            Err(LookError::NotAFile("folder"))
        }
    };
    for token in 0..20 {
        world.ask_open(token, "one", Class::Ahead, hanging());
    }
    for token in 20..40 {
        world.ask_open(token, "two", Class::Ahead, hanging());
    }
    for token in 40..60 {
        world.ask_open(token, "three", Class::Ahead, hanging());
    }
    let refused: Vec<Searched> = world.answers.try_iter().collect();
    let mut reasons = HashMap::new();
    for searched in &refused {
        let reason = searched.outcome.as_ref().unwrap_err();
        *reasons.entry(reason.to_string()).or_insert(0) += 1;
        assert!(searched.state.is_none());
    }
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(world.searches.waiting() <= 5);
    drop(end);
    for _ in refused.len()..60 {
        world.answer();
    }

    world.ask_open(90, "one", Class::Prompt, || {
        Err(LookError::Read(io::Error::from_raw_os_error(libc::EMFILE)))
    });
    assert!(matches!(world.answer().outcome, Err(Reason::NoDescriptor)));
}

/// A copy of a build is confirmed, not searched; one that only looks like it is searched.
#[test]
fn copies_of_a_build_are_confirmed() {
    let arguments = [
        "-shared",
        "-fPIC",
        "-O2",
        "-Wl,-Bsymbolic",
        "-Wl,--build-id=sha1",
    ];
    let compiled = Compiled::new(LIBRARY, "c", &arguments);
    let (hints, hinted) = channel();
    let hints = Mutex::new(hints);
    let world = World::new(move |file, hint| {
        hints.lock().unwrap().send(hint.cloned()).unwrap();
        Ok(really(file))
    });
    let copy = |name: &str, bytes: &[u8]| {
        let path = world.folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    world.ask(1, "o", &copy("one", &compiled.stripped));
    let first = world.answer().outcome.unwrap();
    assert_eq!(hinted.recv().unwrap(), None);
    world.ask(2, "p", &copy("two", &compiled.stripped));
    let second = world.answer().outcome.unwrap();
    assert_eq!(hinted.recv().unwrap().as_ref(), Some(&*first));
    assert!(Arc::ptr_eq(&first, &second));
    let mut longer = compiled.stripped.clone();
    longer.push(0);
    world.ask(3, "p", &copy("three", &longer));
    world.answer().outcome.unwrap();
    assert_eq!(hinted.recv().unwrap(), None);
}

#[test]
fn what_was_found_is_there_after_a_restart() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: files that only root may write are needed");
        return;
    }
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().join("cache");
    let open = || {
        let (cache, problem) = Cache::open(&folder);
        assert!(problem.is_none(), "{problem:?}");
        cache
    };
    let first = World::with(open(), Shares::default(), |file, _| Ok(nothing(file)));
    let path = first.file("a", 100);
    std::thread::sleep(Duration::from_millis(300));
    first.ask(1, "o", &path);
    assert!(first.answer().cacheable);
    let World {
        searches,
        folder: files,
        ..
    } = first;
    drop(searches);
    let second = World::with(open(), Shares::default(), |file, _| Ok(nothing(file)));
    second.ask(2, "o", &path);
    assert!(second.answer().known);
    drop(files);
}

/// What cannot be searched is not tried again and again.
#[test]
fn a_failure_is_remembered_with_the_state() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: files that only root may write are needed");
        return;
    }
    let world = World::new(|_, _| Err(Failure::Time.into()));
    let path = world.file("a", 100);
    std::thread::sleep(Duration::from_millis(300));
    for token in 0..3 {
        world.ask(token, "o", &path);
        let searched = world.answer();
        assert_eq!(searched.known, token > 0);
        assert!(searched.outcome.is_err() && !searched.cacheable);
    }
    assert_eq!(world.given.try_iter().count(), 1);
}
