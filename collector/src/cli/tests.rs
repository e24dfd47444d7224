//! The commands, against the API on loopback.

use super::ask::{self, Format, SearchArguments, StatsArguments, TailArguments};
use super::client::ServerArguments;
use super::trail::{TrailArguments, trail};
use crate::api::tests::Server;
use crate::search::engine::Limits;
use crate::search::testing::{BEGIN, fingerprint};
use clap::Parser;
use expect_test::expect;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
struct Search {
    #[command(flatten)]
    arguments: SearchArguments,
}

#[derive(Parser)]
struct Stats {
    #[command(flatten)]
    arguments: StatsArguments,
}

#[derive(Parser)]
struct Trail {
    #[command(flatten)]
    arguments: TrailArguments,
}

struct Keys {
    folder: tempfile::TempDir,
}

impl Keys {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn file(&self, key: &str, mode: u32) -> PathBuf {
        let path = self.folder.path().join(format!("{key}-{mode:o}"));
        std::fs::write(&path, format!("{key}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn options(&self, server: &Server, key: &str) -> Vec<String> {
        let file = self.file(key, 0o600).display().to_string();
        vec![
            "--server".into(),
            server.address.clone(),
            "--key-file".into(),
            file,
        ]
    }
}

/// A terminal's other end.
fn run<T: Send + 'static>(
    work: impl FnOnce(&mut Vec<u8>) -> anyhow::Result<T> + Send + 'static,
) -> impl Future<Output = Result<String, String>> {
    let done = tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        work(&mut out).map_err(|error| format!("{error:#}"))?;
        Ok(String::from_utf8(out).unwrap())
    });
    async { done.await.unwrap() }
}

fn arguments<T: Parser>(words: &[&str], options: Vec<String>) -> T {
    let words = ["test"].iter().chain(words).map(|word| (*word).to_owned());
    T::try_parse_from(words.chain(options)).unwrap_or_else(|error| panic!("{error}"))
}

async fn search(words: &[&str], options: Vec<String>) -> Result<String, String> {
    let Search { arguments } = arguments(words, options);
    run(move |out| ask::search(&arguments, out)).await
}

async fn stats(words: &[&str], options: Vec<String>) -> Result<String, String> {
    let Stats { arguments } = arguments(words, options);
    run(move |out| ask::stats(&arguments, out)).await
}

async fn trail_of(words: &[&str], options: Vec<String>, input: &[u8]) -> Result<String, String> {
    let Trail { arguments } = arguments(words, options);
    let input = input.to_vec();
    run(move |out| trail(&arguments, &mut &input[..], out)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_and_counts() {
    let (server, keys) = (Server::new(Limits::default()).await, Keys::new());
    let options = || keys.options(&server, "reader");
    let found = search(
        &[
            "status:401 path:/admin*",
            "--fields",
            "time,status,path,fp,args",
            "--limit",
            "5",
        ],
        options(),
    );
    expect![[r#"
        TIME                      STATUS  PATH          FINGERPRINT                    ARGS
        2026-11-22T05:23:00.000Z  401     /admin        k2:__________… k1:__________…  ü\ -a"b
        2026-11-22T05:01:00.000Z  401     /admin/users  k2:__________…                 -a"b curl
        2026-11-22T05:00:00.000Z  401     /admin        k2:__________… k1:__________…  -a"b curl
        2026-11-22T04:21:00.000Z  401     /admin        k2:__________…                 ü\ --verbose
        2026-11-22T00:50:00.000Z  401     /admin/users  k2:__________…                 curl curl
    "#]]
    .assert_eq(&found.await.unwrap());
    let none = search(&["-kind:*"], options()).await;
    assert_eq!(none.unwrap(), "no events\n");
    let lines = search(&["", "--format", "ndjson", "--limit", "3"], options())
        .await
        .unwrap();
    assert_eq!(lines.lines().count(), 3);
    let csv = search(
        &[
            "kind:loss",
            "--format",
            "csv",
            "--fields",
            "kind,host",
            "--limit",
            "2",
        ],
        options(),
    )
    .await;
    assert_eq!(csv.unwrap().lines().next(), Some("kind,host.name"));
    let counted = stats(
        &["status:>=400", "--by", "status,host", "--limit", "4"],
        options(),
    )
    .await;
    expect![[r#"
        STATUS  HOST   COUNT
        403     web-1      8
        404     web-2      7
        404     web-1      6
        401     db-1       5
        57 events, and more groups (see --limit)
    "#]]
    .assert_eq(&counted.unwrap());
    let counted = stats(&["", "--by", "kind", "--every", "3h"], options()).await;
    expect![[r#"
        TIME                      KIND   COUNT
        2026-11-22T00:00:00.000Z  usage     63
        2026-11-22T00:00:00.000Z  loss       5
        2026-11-22T03:00:00.000Z  usage     47
        2026-11-22T03:00:00.000Z  loss       5
        120 events
    "#]]
    .assert_eq(&counted.unwrap());
    let explained = search(
        &["status:401 since:2026-11-22T04:00Z", "--explain"],
        options(),
    )
    .await
    .unwrap();
    let head: Vec<&str> = explained.lines().take(4).collect();
    expect![[r#"
        query     http.response.status_code:401 since:2026-11-22T04:00Z
        time      2026-11-22T04:00:00.000Z to -
        segments  4 of 12 read (8 left out by time, 0 by fingerprint)
        events    61 looked at, at most (30 of them not in a segment yet; 200000000 without --force)"#]].assert_eq(&head.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_search_goes_by_pages() {
    let (server, keys) = (Server::new(Limits::default()).await, Keys::new());
    let lines = search(
        &["", "--format", "ndjson", "--limit", "5000"],
        keys.options(&server, "reader"),
    )
    .await
    .unwrap();
    let mut events = server.events.clone();
    events.sort_by_key(|event| std::cmp::Reverse((event.time, event.key.clone())));
    let expected: Vec<String> = events
        .iter()
        .map(|event| String::from_utf8(event.json.to_vec()).unwrap())
        .collect();
    assert_eq!(lines.lines().collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_wrong_is_said() {
    let (server, keys) = (
        Server::new(Limits {
            rows: 100,
            ..Limits::default()
        })
        .await,
        Keys::new(),
    );
    let mut said = String::new();
    for (key, words) in [
        ("reader", &["stauts:401 kind:usage"][..]),
        ("reader", &["kind:usage"]),
        ("reader", &["kind:usage", "--fields", "stauts"]),
        ("nobody", &["kind:usage"]),
        ("reader", &[&format!("fp:{}", fingerprint("k2", 1))]),
        ("reader", &["fp:ghp_x"]),
    ] {
        let error = search(words, keys.options(&server, key)).await.unwrap_err();
        said += &format!("{error}\n\n");
    }
    expect![[r#"
        there is no field `stauts`
          stauts:401 kind:usage
          ^^^^^^
        expected a field: did you mean `status`?

        up to 120 events would be read, and at most 100 are without `force`: a shorter time (`since:1h`) or a fingerprint narrows it
        `--force` reads them

        there is no field `stauts` (nearest: status)

        no key (the key is read from the file of --key-file or TOKENTRAIL_KEY_FILE)

        needs analyst

        not a fingerprint
          fp:ghp_x
             ^^^^^
        expected `tkf1:<key id>:<43 characters>`, a prefix such as `tkf1:k1:*`, or `*`

    "#]].assert_eq(&said);
    let forced = search(
        &["kind:usage", "--force", "--limit", "1"],
        keys.options(&server, "reader"),
    )
    .await;
    assert!(forced.is_ok());

    // Of a key that others may read, of addresses that would give it away.
    let file = keys.file("reader", 0o640).display().to_string();
    let open = vec![
        "--server".into(),
        server.address.clone(),
        "--key-file".into(),
        file,
    ];
    let error = search(&[""], open).await.unwrap_err();
    assert!(error.contains("others may read it (mode 0640)"), "{error}");
    for (address, reason) in [
        ("http://192.0.2.1:1", "the key would be sent in cleartext"),
        (
            "https://me:secret@192.0.2.1",
            "a user or password does not belong there",
        ),
        ("ftp://127.0.0.1", "neither http: nor https:"),
        ("http://127.0.0.1:1", "was not reached"),
    ] {
        let error = search(&["", "--server", address], Vec::new())
            .await
            .unwrap_err();
        assert!(
            error.contains(reason) && !error.contains("secret"),
            "{error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_on_standard_input_is_found_by_its_fingerprints() {
    let (server, keys) = (Server::new(Limits::default()).await, Keys::new());
    let options = || keys.options(&server, "analyst");
    let print = fingerprint("k2", 3);
    let story = trail_of(&[&print, "--limit", "3"], options(), b"").await;
    expect![[r#"
        credential  k2:__________…
        first seen  2026-11-22T00:26:00.000Z
        last seen   2026-11-22T05:46:00.000Z
        uses        15

        PROCESS           COUNT  FIRST                     LAST
        /usr/bin/curl        10  2026-11-22T00:26:00.000Z  2026-11-22T05:00:00.000Z
        /usr/bin/python3      5  2026-11-22T01:08:00.000Z  2026-11-22T05:46:00.000Z

        USER  COUNT  FIRST                     LAST
        2000      7  2026-11-22T00:26:00.000Z  2026-11-22T05:46:00.000Z
        0         5  2026-11-22T00:36:00.000Z  2026-11-22T04:05:00.000Z
        1000      3  2026-11-22T00:29:00.000Z  2026-11-22T05:00:00.000Z

        HOST   COUNT  FIRST                     LAST
        web-1      8  2026-11-22T00:26:00.000Z  2026-11-22T05:46:00.000Z
        web-2      4  2026-11-22T00:29:00.000Z  2026-11-22T04:05:00.000Z
        db-1       3  2026-11-22T01:25:00.999Z  2026-11-22T05:00:00.000Z

        CONTAINER      COUNT  FIRST                     LAST
        000000000000…      4  2026-11-22T00:26:00.000Z  2026-11-22T05:46:00.000Z
        000000000000…      1  2026-11-22T05:00:00.000Z  2026-11-22T05:00:00.000Z

        PEER                        COUNT  FIRST                     LAST
        10.1.2.3  api.example  443      3  2026-11-22T04:05:00.000Z  2026-11-22T05:00:00.000Z
        192.0.2.7  10.0.0.1  443        2  2026-11-22T00:27:00.000Z  2026-11-22T05:46:00.000Z
        2001:db8::1  10.0.0.1  443      1  2026-11-22T00:26:00.000Z  2026-11-22T00:26:00.000Z
        … and more: these are the 3 most frequent (see --limit)

        OPERATION     COUNT  FIRST                     LAST
        client  GET       6  2026-11-22T00:27:00.000Z  2026-11-22T04:05:00.000Z
        client  POST      4  2026-11-22T00:29:00.000Z  2026-11-22T05:46:00.000Z
        server  GET       3  2026-11-22T00:26:00.000Z  2026-11-22T03:36:00.999Z
        … and more: these are the 3 most frequent (see --limit)

        STATUS  COUNT  FIRST                     LAST
        401         3  2026-11-22T00:26:00.000Z  2026-11-22T05:00:00.000Z
        403         3  2026-11-22T00:36:00.000Z  2026-11-22T03:36:00.999Z
        404         2  2026-11-22T01:08:00.000Z  2026-11-22T01:43:00.000Z
        … and more: these are the 3 most frequent (see --limit)

        TIMELINE
        TIME                      HOST   USER  EXE            CONTAINER      PROVIDER  METHOD  SERVER    PATH    STATUS  PEER
        2026-11-22T00:26:00.000Z  web-1  -     /usr/bin/curl  000000000000…  slack     GET     10.0.0.1  /z􏿿     401     2001:db8::1
        2026-11-22T00:27:00.000Z  web-1  -     /usr/bin/curl  000000000000…  github    GET     10.0.0.1  /       200     192.0.2.7
        2026-11-22T00:29:00.000Z  web-2  -     /usr/bin/curl  -              slack     POST    10.0.0.1  /a b/ü  401     10.1.2.3
        … and more: these are the first 3 (see --limit)
    "#]].assert_eq(&story.unwrap());

    // Named by the keys of a file: never seen, but asked for under each of them.
    let file = keys.folder.path().join("fingerprints.toml");
    agent_common::fingerprint::Keyring::create(&file, BEGIN / 1_000_000_000).unwrap();
    agent_common::fingerprint::Keyring::rotate(&file, BEGIN / 1_000_000_000 + 60, 60).unwrap();
    let file = file.display().to_string();
    let story = trail_of(
        &["--fingerprint-key", &file],
        options(),
        b"ghp_made_up_for_a_test\n",
    )
    .await
    .unwrap();
    assert!(story.ends_with("never seen\n"), "{story}");
    let asked = server.asked();
    assert_eq!(
        asked.last().unwrap().matches("tkf1:").count(),
        2,
        "{asked:?}"
    );
    assert!(!format!("{asked:?}{story}").contains("ghp_"));

    for (words, input, reason) in [
        (
            &["ghp_made_up_for_a_test"][..],
            &b""[..],
            "argument 1 is not a fingerprint",
        ),
        (
            &[],
            b"ghp_made_up_for_a_test\n",
            "needs the agents' key file",
        ),
        (
            &["--fingerprint-key", &file],
            b"\n",
            "nothing on standard input",
        ),
        (
            &["--fingerprint-key", &file],
            &[b'x'; 70_000],
            "longer than 65536 bytes",
        ),
    ] {
        let error = trail_of(words, options(), input).await.unwrap_err();
        assert!(error.contains(reason) && !error.contains("ghp_"), "{error}");
    }
    let denied = trail_of(&[&print], keys.options(&server, "reader"), b"")
        .await
        .unwrap_err();
    assert_eq!(denied, "needs analyst");
}

/// A pipe whose reader has gone, after so many bytes.
struct Gone(usize);

impl Write for Gone {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_goes_away_has_read_enough() {
    let (server, keys) = (Server::new(Limits::default()).await, Keys::new());
    for format in ["table", "ndjson", "csv"] {
        let options = keys.options(&server, "reader");
        let Search { arguments } = arguments(&["", "--format", format], options);
        let done = run(move |_| ask::search(&arguments, &mut Gone(10))).await;
        assert!(done.is_ok(), "{done:?}");
    }
    let server_arguments = ServerArguments {
        server: server.address.clone(),
        key_file: Some(keys.file("reader", 0o600)),
        ca_file: None,
    };
    let tail = TailArguments {
        query: "kind:loss".into(),
        format: Format::Ndjson,
        server: server_arguments,
    };
    let following = tokio::task::spawn_blocking(move || ask::tail(&tail, &mut Gone(100)));
    // Once it listens.
    while server.tell(&server.events) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(following.await.unwrap().unwrap(), ExitCode::SUCCESS);
}
