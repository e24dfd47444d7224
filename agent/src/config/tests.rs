use super::*;
use std::path::Path;

fn check(text: &str) -> Result<Config, String> {
    parse(Path::new("t.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn nothing_means_the_defaults() {
    assert_eq!(check("").unwrap(), Config::default());
    assert_eq!(check("[limits]\n").unwrap(), Config::default());
}

#[test]
fn what_is_shown_parses_back() {
    let mut config = Config::default();
    assert_eq!(check(&config.show()).unwrap(), config);
    config.agent.scope = vec!["cgroup:/a\"b".into(), "unit:x.service".into()];
    config.agent.fingerprint_key = Some("/etc/tokentrail/key".into());
    config.capture.hook = Hook::RawTracepoint;
    config.limits.connections = Ranged::new(17);
    config.credential.extra_headers = vec!["x-my-key".into()];
    config.credential.short_keys = true;
    config.spool.path = Some("/var/lib/tokentrail/spool".into());
    config.spool.when_full = WhenFull::DropOldest;
    config.stdout.format = Format::None;
    config.file.path = Some("/var/log/tokentrail/events.ndjson".into());
    config.file.sync = Sync::Event;
    config.otlp.endpoint = Some("https://collector.example:4318".into());
    config.otlp.headers = BTreeMap::from([
        ("x scope \"".into(), "a = \"b\"".into()),
        ("authorization".into(), "file:/etc/tokentrail/otlp".into()),
    ]);
    config.http.encoding = Encoding::Ocsf;
    config.http.compression = Compression::None;
    config.syslog.address = Some("tls://[::1]:6514".into());
    assert_eq!(check(&config.show()).unwrap(), config);
}

#[test]
fn every_key_is_shown_with_its_documentation() {
    let config = Config::default();
    let shown = config.show();
    for (section, keys) in config.sections() {
        assert!(shown.contains(&format!("\n[{section}]\n")), "{section}");
        for key in keys.keys() {
            assert!(!key.doc.is_empty());
            let line = match key.value {
                Some(value) => format!("\n{} = {value}\n", key.name),
                None => format!("\n# {} is not set.\n", key.name),
            };
            let at = shown
                .find(&line)
                .unwrap_or_else(|| panic!("{} is missing", key.name));
            assert!(
                shown[..at].lines().last().unwrap().starts_with("# "),
                "{}",
                key.name
            );
        }
    }
    // The sections that serde knows are the ones that are shown.
    let known = toml::Table::try_from(&config).unwrap();
    let mut listed: Vec<_> = config
        .sections()
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    listed.sort();
    assert_eq!(listed, known.keys().cloned().collect::<Vec<_>>());
}

#[test]
fn errors_have_a_place_and_say_what_is_allowed() {
    for (text, expected) in [
        (
            "[limits]\nconections = 5\n",
            "t.toml:2:1: unknown field `conections`, expected one of `connections`, `connection_bytes`",
        ),
        (
            "[limit]\n",
            "t.toml:1:2: unknown field `limit`, expected one of `agent`, `capture`",
        ),
        ("x = 1\n", "t.toml:1:1: unknown field `x`"),
        (
            "[limits]\nhead_bytes = 5\n",
            "t.toml:2:14: invalid value: integer `5`, expected an integer from 1024 to 1048576",
        ),
        (
            "[limits]\nhead_bytes = -5\n",
            "t.toml:2:14: invalid value: integer `-5`, expected an integer from 1024",
        ),
        (
            "[limits]\nhead_bytes = \"5\"\n",
            "t.toml:2:14: invalid type: string \"5\", expected an integer from 1024",
        ),
        (
            "[capture]\nring_bytes = 65537\n",
            "t.toml:2:14: invalid value: integer `65537`, expected a power of two from 65536",
        ),
        (
            "[stdout]\n# é\nformat = \"xml\"\n",
            "t.toml:3:10: unknown variant `xml`, expected one of `table`, `ndjson`, `none`",
        ),
        (
            "[capture]\nhook = \"best\"\n",
            "t.toml:2:8: unknown variant `best`, expected one of `auto`, `fentry`, `raw_tracepoint`",
        ),
        (
            "[agent]\nscope = \"host\"\n",
            "t.toml:2:9: invalid type: string \"host\", expected a sequence",
        ),
        ("[file\n", "t.toml:1:6: "),
        ("[file]\nkeep = 1\nkeep = 2\n", "t.toml:3:1: duplicate key"),
    ] {
        let error = check(text).unwrap_err();
        assert!(
            error.starts_with(expected),
            "{text:?}\n found {error}\n expected {expected}"
        );
        assert!(!error.contains('\n'), "one line: {error:?}");
    }
}

#[test]
fn what_may_change_is_taken_over_and_nothing_else() {
    let mut ours = Config::default();
    ours.agent.fingerprint_key = Some("/key".into());
    ours.credential.cookies = vec!["a".into()];
    let mut read = ours.clone();
    read.agent.scope = vec!["host".into()];
    read.agent.fingerprint_key = None;
    read.agent.log = "debug".into();
    read.capture.hook = Hook::Fentry;
    read.limits.head_bytes = Ranged::new(2_048);
    read.limits.connections = Ranged::new(17);
    read.credential.cookies = Vec::new();
    assert_eq!(
        ours.changes(&read),
        [
            "agent.scope",
            "agent.fingerprint_key",
            "agent.log",
            "capture.hook",
            "limits.connections",
            "limits.head_bytes",
            "credential.cookies"
        ]
    );
    let taken = ours.with_reloadable(&read).unwrap();
    let mut expected = read.clone();
    expected.agent.scope = Vec::new();
    expected.capture.hook = Hook::Auto;
    expected.limits.connections = ours.limits.connections;
    assert_eq!(taken, expected);
    assert!(taken.changes(&taken).is_empty());
    assert_eq!(ours.with_reloadable(&ours).unwrap(), ours);
}

/// A name that is no key would silently never be taken over.
#[test]
fn reloadable_names_are_keys() {
    let config = Config::default();
    for name in reload::RELOADABLE {
        let known = config.sections().into_iter().any(|(section, keys)| {
            let mut keys = keys.keys().into_iter();
            *name == section || keys.any(|key| *name == format!("{section}.{}", key.name))
        });
        assert!(known, "{name}");
    }
}

#[test]
fn every_cut_is_harmless() {
    let text = Config::default().show();
    for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
        let _ = check(&text[..end]);
    }
}

#[test]
fn files_that_others_may_change_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.toml");
    std::fs::write(&path, "[limits]\nconnections = 99\n").unwrap();
    for (mode, fits) in [
        (0o600, true),
        (0o644, true),
        (0o664, false),
        (0o646, false),
        (0o777, false),
    ] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        match load(&path) {
            Ok(config) => {
                assert!(fits, "{mode:o}");
                assert_eq!(config.limits.connections.get(), 99);
            }
            Err(error) => {
                assert!(!fits, "{mode:o}");
                assert!(
                    error.to_string().contains(&format!("(mode {mode:04o})")),
                    "{error}"
                );
            }
        }
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        assert!(matches!(
            load(&path),
            Err(Error::Owner { owner: 12_345, .. })
        ));
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(load(folder.path()), Err(Error::NotAFile { .. })));
    let missing = folder.path().join("missing.toml");
    assert!(
        load(&missing)
            .unwrap_err()
            .to_string()
            .contains("missing.toml")
    );
    let pipe = folder.path().join("pipe");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &pipe,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    assert!(matches!(load(&pipe), Err(Error::NotAFile { .. })));
    let large = folder.path().join("large.toml");
    std::fs::write(&large, "#".repeat(1024 * 1024 + 1)).unwrap();
    assert!(matches!(load(&large), Err(Error::TooLarge { .. })));
}
