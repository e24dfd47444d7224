//! The cache: remembers, is checked, and is never believed when others could have written it.

use super::compiled::LIBRARY;
use super::{Compiled, write};
use crate::kernel::keylog::cache::CacheProblem;
use crate::kernel::keylog::finder::Counts;
use crate::kernel::keylog::{Cache, Finder, Found};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tempfile::TempDir;

const NAME: &str = "key-log-points.json";

fn compiled() -> Compiled {
    let arguments = [
        "-shared",
        "-fPIC",
        "-O2",
        "-Wl,-Bsymbolic",
        "-Wl,--build-id=sha1",
    ];
    Compiled::new(LIBRARY, "c", &arguments)
}

fn look(finder: &mut Finder, path: &Path) -> Found {
    finder.look_at_file(&File::open(path).unwrap()).unwrap()
}

fn counts(searched: u64, from_cache: u64) -> Counts {
    Counts {
        searched,
        from_cache,
        failed: 0,
    }
}

fn cache_in(folder: &TempDir) -> Finder {
    let (cache, problem) = Cache::open(&folder.path().join("cache"));
    assert!(problem.is_none(), "{problem:?}");
    Finder::new(cache)
}

#[test]
fn a_file_is_searched_once() {
    let compiled = compiled();
    let folder = tempfile::tempdir().unwrap();
    let empty = write(
        folder.path(),
        "empty",
        &Compiled::new("int x;", "c", &["-shared"]).stripped,
    );
    let mut finder = cache_in(&folder);
    let found = look(&mut finder, &compiled.stripped_path);
    assert_eq!(found.key_log_points().count(), 1);
    assert!(look(&mut finder, &empty).is_empty());
    assert_eq!(finder.counts(), counts(2, 0));
    assert_eq!(look(&mut finder, &compiled.stripped_path), found);
    assert!(look(&mut finder, &empty).is_empty());
    assert_eq!(finder.counts(), counts(2, 2));

    // Another copy of the build, by its build id; of a file that holds nothing it would not be believed.
    let copy = write(folder.path(), "copy", &compiled.stripped);
    let copy_of_empty = write(folder.path(), "copy-of-empty", &fs::read(&empty).unwrap());
    assert_eq!(look(&mut finder, &copy), found);
    assert_eq!(finder.counts(), counts(2, 3));
    look(&mut finder, &copy_of_empty);
    assert_eq!(finder.counts(), counts(3, 3));

    // After a restart.
    finder.cache_mut().save().unwrap();
    let mode = fs::metadata(folder.path().join("cache").join(NAME))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut finder = cache_in(&folder);
    assert_eq!(look(&mut finder, &compiled.stripped_path), found);
    assert!(look(&mut finder, &empty).is_empty());
    assert_eq!(finder.counts(), counts(0, 2));

    // Changed.
    fs::write(&empty, &compiled.stripped).unwrap();
    assert_eq!(look(&mut finder, &empty), found);
}

/// A file with the build id and size of another must not decide where that one is probed.
#[test]
fn a_forged_build_id_is_not_believed() {
    let compiled = compiled();
    let folder = tempfile::tempdir().unwrap();
    let other = LIBRARY.replace(
        "int master(",
        "int before(struct state *s) { return s->version * 77; }\nint master(",
    );
    let arguments = [
        "-shared",
        "-fPIC",
        "-Os",
        "-Wl,-Bsymbolic",
        "-Wl,--build-id=sha1",
    ];
    let other = Compiled::new(&other, "c", &arguments);
    let mut forged = other.stripped.clone();
    let id_of = |file: &[u8]| {
        let found = super::look(file).unwrap();
        let text = found.build_id.unwrap().as_str().to_owned();
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect::<Vec<u8>>()
    };
    let (true_id, own_id) = (id_of(&compiled.stripped), id_of(&forged));
    let at = memchr::memmem::find(&forged, &own_id).unwrap();
    forged[at..at + true_id.len()].copy_from_slice(&true_id);
    let size = forged.len().max(compiled.stripped.len());
    forged.resize(size, 0);
    let mut genuine = compiled.stripped.clone();
    genuine.resize(size, 0);
    let forged = write(folder.path(), "forged", &forged);
    let genuine = write(folder.path(), "genuine", &genuine);

    let mut finder = Finder::new(Cache::in_memory());
    let wrong = look(&mut finder, &forged);
    let right = look(&mut finder, &genuine);
    assert_eq!(wrong.build_id, right.build_id);
    assert_eq!(finder.counts(), counts(2, 0));
    assert_ne!(
        wrong.points[0].virtual_address,
        right.points[0].virtual_address
    );
    assert_eq!(
        right.points[0].virtual_address,
        compiled.place("log_secret").0
    );
}

/// Points in the cache file that are not the file's own are not used.
#[test]
fn points_are_checked_against_the_file() {
    let compiled = compiled();
    let folder = tempfile::tempdir().unwrap();
    let mut finder = cache_in(&folder);
    let found = look(&mut finder, &compiled.stripped_path);
    finder.cache_mut().save().unwrap();
    let path = folder.path().join("cache").join(NAME);
    let text = fs::read_to_string(&path).unwrap();
    let point = &found.points[0];
    let check = |other: (u64, u64)| {
        let place =
            |(address, offset)| format!("\"file_offset\":{offset},\"virtual_address\":{address}");
        let before = place((point.virtual_address, point.file_offset));
        assert!(text.contains(&before));
        fs::write(&path, text.replace(&before, &place(other))).unwrap();
        let mut finder = cache_in(&folder);
        assert_eq!(look(&mut finder, &compiled.stripped_path), found);
        assert_eq!(finder.counts(), counts(1, 0), "{other:x?}");
    };
    for other in [
        0,
        point.virtual_address + 1,
        point.virtual_address + 16,
        u64::MAX,
    ] {
        check((other, point.file_offset));
        check((point.virtual_address, other));
    }
    // Another function of four arguments, at its true place.
    check(compiled.place("mix"));
}

#[test]
fn a_bad_cache_is_ignored_with_a_reason() {
    let compiled = compiled();
    let folder = tempfile::tempdir().unwrap();
    let mut finder = cache_in(&folder);
    look(&mut finder, &compiled.stripped_path);
    finder.cache_mut().save().unwrap();
    let cache_folder = folder.path().join("cache");
    let path = cache_folder.join(NAME);
    let whole = fs::read(&path).unwrap();
    let problem = || {
        Cache::open(&cache_folder)
            .1
            .map(|problem| problem.to_string())
            .unwrap_or_default()
    };
    assert_eq!(problem(), "");

    for end in 0..whole.len() {
        fs::write(&path, &whole[..end]).unwrap();
        assert!(
            problem().contains("corrupt, ignored"),
            "cut at {end}: {}",
            problem()
        );
    }
    let text = String::from_utf8(whole.clone()).unwrap();
    fs::write(&path, text.replacen("\"version\":6", "\"version\":7", 1)).unwrap();
    assert!(
        problem().contains("not a cache of version 6"),
        "{}",
        problem()
    );
    fs::write(&path, text.replacen("\"files\"", "\"more\":1,\"files\"", 1)).unwrap();
    assert!(problem().contains("corrupt, ignored"), "{}", problem());
    fs::write(&path, &whole).unwrap();

    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    assert!(
        problem().contains("can be written by others (mode 666)"),
        "{}",
        problem()
    );
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&cache_folder, Permissions::from_mode(0o777)).unwrap();
    let (mut cache, refused) = Cache::open(&cache_folder);
    assert!(
        matches!(refused, Some(CacheProblem::Writable { .. })),
        "{refused:?}"
    );
    // And nothing is written there either.
    fs::remove_file(&path).unwrap();
    let mut finder = Finder::new(std::mem::replace(&mut cache, Cache::in_memory()));
    look(&mut finder, &compiled.stripped_path);
    finder.cache_mut().save().unwrap();
    assert!(!path.exists());
    fs::set_permissions(&cache_folder, Permissions::from_mode(0o700)).unwrap();

    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(problem().contains("symbolic links"), "{}", problem());
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(problem().contains("ignored"), "{}", problem());
    if rustix::process::geteuid().is_root() {
        fs::remove_dir(&path).unwrap();
        fs::write(&path, &whole).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        assert!(problem().contains("belongs to user 65534"), "{}", problem());
    } else {
        eprintln!("skipped: the owner's check needs root");
    }
}

/// A search that ran out of time is not tried again on every start of the program.
#[test]
fn a_search_without_an_answer_is_not_repeated() {
    let compiled = compiled();
    let limits = crate::kernel::keylog::Limits {
        time: std::time::Duration::ZERO,
        ..Default::default()
    };
    let mut finder = Finder::with_limits(Cache::in_memory(), limits);
    let file = File::open(&compiled.stripped_path).unwrap();
    let first = finder.look_at_file(&file).unwrap_err().to_string();
    assert_eq!(first, "search stopped after 0 s");
    let again = finder.look_at_file(&file).unwrap_err().to_string();
    assert_eq!(again, format!("not tried again: {first}"));
    assert_eq!(finder.counts().searched, 1);
    assert_eq!(finder.counts().failed, 2);
}
