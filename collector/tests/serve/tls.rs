//! TLS as real clients see it: curl with and without certificates, `tokentrail` with its CA option, and the agent's own
//! output.

use crate::certificates::Certificates;
use crate::support::events::{self, HOUR, Source};
use crate::support::serve::{Site, tokentrail};
use crate::support::{agent, curl};
use std::path::Path;
use tokentrail_agent::config;
use tokentrail_agent::sink::batch::{Outcome, Receiver as _};
use tokentrail_agent::sink::otlp;

/// curl's exit statuses.
const BAD_CA: i32 = 60;
const NO_HANDSHAKE: i32 = 35;

#[test]
fn certificates_say_who_delivers_and_keys_who_asks() {
    let folder = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(folder.path());
    let mut site = Site::new(folder.path(), "");
    site.start().stop();
    let keys = site.keys().clone();
    let path = |path: &Path| path.display().to_string();
    let (pem, key) = (
        |name: &str| path(&certificates.certificate(name)),
        |name: &str| path(&certificates.key(name)),
    );
    site.settings = format!(
        "[tls]\ncertificate = {:?}\nkey = {:?}\nclient_ca = {:?}\n",
        pem("server"),
        key("server"),
        pem("ca")
    );
    let server = site.start();
    assert!(
        server.url.starts_with("https://127.0.0.1:"),
        "{}",
        server.url
    );
    let (events, search) = (
        format!("{}/v1/events", server.url),
        format!("{}/v1/search", server.url),
    );
    let ca = pem("ca");
    let (agent_pem, agent_key) = (pem("agent"), key("agent"));
    let with = ["--cacert", &ca, "--cert", &agent_pem, "--key", &agent_key];
    let ndjson = [
        "-H",
        "content-type: application/x-ndjson",
        "--data-binary",
        "@-",
    ];
    let good = include_str!("../fixtures/events.ndjson")
        .lines()
        .next()
        .unwrap();
    let body = format!("{good}\nno event\n");

    // A certificate of the authority is enough to deliver, and for nothing else.
    let (code, answer) = curl(&[&with[..], &ndjson, &[&events]].concat(), body.as_bytes());
    assert!(
        code == 0 && answer.contains("\"accepted\":1"),
        "{code} {answer}"
    );
    let (_, answer) = curl(&[&with[..], &[&search]].concat(), b"");
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    for version in ["1.2", "1.3"] {
        let versions = ["--tls-max", version];
        let arguments = [&with[..], &ndjson, &versions, &[&events]].concat();
        let (code, answer) = curl(&arguments, body.as_bytes());
        assert!(
            code == 0 && answer.contains("\"duplicates\":1"),
            "{version}: {code} {answer}"
        );
    }
    // Without one a key is needed, and enough.
    let without = ["--cacert", &ca];
    let (_, answer) = curl(
        &[&without[..], &ndjson, &[&events]].concat(),
        body.as_bytes(),
    );
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let bearer = format!("authorization: Bearer {}", keys.ingest);
    let by_key = ["-H", &bearer];
    let (_, answer) = curl(
        &[&without[..], &ndjson, &by_key, &[&events]].concat(),
        body.as_bytes(),
    );
    assert!(answer.contains("\"duplicates\":1"), "{answer}");
    // A certificate of another authority, an authority that is not the collector's, too old a TLS, and none.
    let (other_pem, other_key) = (pem("stranger"), key("stranger"));
    let stranger = ["--cacert", &ca, "--cert", &other_pem, "--key", &other_key];
    let (code, answer) = curl(
        &[&stranger[..], &ndjson, &by_key, &[&events]].concat(),
        body.as_bytes(),
    );
    assert!(
        code != 0 && !answer.contains("HTTP/1.1 2"),
        "{code} {answer}"
    );
    let other_ca = pem("other-ca");
    let (code, answer) = curl(&["--cacert", &other_ca, &search], b"");
    assert_eq!(code, BAD_CA, "{answer}");
    let old = [
        "--ciphers",
        "DEFAULT:@SECLEVEL=0",
        "--tls-max",
        "1.1",
        "--tlsv1.0",
    ];
    let (code, answer) = curl(&[&without[..], &old, &[&search]].concat(), b"");
    assert_eq!(code, NO_HANDSHAKE, "{answer}");
    let (code, answer) = curl(&[&search.replace("https:", "http:")], b"");
    assert!(
        code != 0 && !answer.contains("HTTP/1.1 2"),
        "{code} {answer}"
    );

    // The command trusts the certificates that it is told to, and no others.
    let analyst = site.secret("analyst.key", &keys.analyst);
    let found = tokentrail(
        &["search", "--format", "ndjson", "--ca-file", &ca],
        &analyst,
        &server.url,
        &[],
    );
    let text = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(
        found.status.success() && text.contains("collector_started"),
        "{found:?}"
    );
    for wrong in [vec![("TOKENTRAIL_CA_FILE", &*other_ca)], Vec::new()] {
        let failed = tokentrail(&["search"], &analyst, &server.url, &wrong);
        let said = String::from_utf8_lossy(&failed.stderr).into_owned();
        assert_eq!(failed.status.code(), Some(1), "{said}");
        assert!(said.contains("certificate"), "{said}");
    }
    // Who delivered is known by the name in the certificate.
    let admin = site.secret("admin.key", &keys.admin);
    let list = tokentrail(&["quarantine", "--ca-file", &ca], &admin, &server.url, &[]);
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.contains("certificate:agent.test"), "{list}");

    // The agent's own output.
    let source = Source {
        agent: "by-certificate".into(),
        epoch: 1,
        time: |begin, sequence| begin + sequence as i64,
        begin: events::now() - HOUR,
        noise: 0,
    };
    let config = config::Otlp {
        endpoint: Some(server.url.replace("127.0.0.1", "localhost")),
        ca: Some(certificates.certificate("ca")),
        certificate: Some(certificates.certificate("agent")),
        key: Some(certificates.key("agent")),
        ..config::Otlp::default()
    };
    agent::deliver(&config, &source, 1, 300, 100);
    let query = [
        "stats",
        "producer.id:by-certificate",
        "--format",
        "ndjson",
        "--ca-file",
        &ca,
    ];
    let counted = tokentrail(&query, &analyst, &server.url, &[]);
    let text = String::from_utf8_lossy(&counted.stdout).into_owned();
    assert!(text.contains("\"count\":300"), "{counted:?}");
    let nobody = config::Otlp {
        certificate: None,
        key: None,
        ..config.clone()
    };
    let stranger = config::Otlp {
        certificate: Some(certificates.certificate("stranger")),
        key: Some(certificates.key("stranger")),
        ..config.clone()
    };
    let other_ca = config::Otlp {
        ca: Some(certificates.certificate("other-ca")),
        ..config
    };
    for (what, config) in [
        ("nobody", nobody),
        ("stranger", stranger),
        ("another authority", other_ca),
    ] {
        let outcome = otlp::from_config(&config)
            .unwrap()
            .unwrap()
            .send(&source.batch(301, 301));
        assert!(
            !matches!(outcome, Outcome::Accepted { .. }),
            "{what}: {outcome:?}"
        );
    }
}
