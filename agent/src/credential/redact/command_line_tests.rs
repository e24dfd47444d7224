use super::command_line;
use proptest::prelude::*;

fn check(arguments: &[&str], expected: &[&str]) {
    let joined = arguments.join("\0");
    assert_eq!(
        command_line(joined.as_bytes(), false),
        expected,
        "{arguments:?}"
    );
    assert_eq!(
        command_line(format!("{joined}\0").as_bytes(), false),
        expected,
        "{arguments:?}"
    );
}

#[test]
fn programs_options_urls_paths_and_scripts_stay() {
    check(
        &[
            "curl",
            "-sS",
            "--header",
            "Authorization: Bearer abc",
            "https://api.test/v1/users?page=2",
        ],
        &[
            "curl",
            "-sS",
            "--header",
            "*",
            "https://api.test/v1/users?page=2",
        ],
    );
    check(
        &[
            "/usr/bin/python3",
            "-u",
            "/srv/app/main.py",
            "--port",
            "8080",
            "--verbose",
        ],
        &["/usr/bin/python3", "-u", "*", "--port", "*", "--verbose"],
    );
    check(
        &["python3", "/srv/app/main.py", "worker"],
        &["python3", "/srv/app/main.py", "*"],
    );
    check(
        &["node", "server.js", "./lib/run.mjs"],
        &["node", "server.js", "./lib/run.mjs"],
    );
    check(
        &["java", "-Xmx512m", "-jar", "app.jar", "-Dkey=value"],
        &["java", "-X*", "-jar", "app.jar", "-D*"],
    );
    check(
        &["tar", "-xzf", "/tmp/a.tar"],
        &["tar", "-x*", "/tmp/a.tar"],
    );
    check(&["nginx: worker process"], &["nginx: *"]);
    check(&["-bash"], &["-bash"]);
    check(
        &["ls", "-la", "--", "-secret", "/etc/hosts"],
        &["ls", "-la", "--", "*", "/etc/hosts"],
    );
}

#[test]
fn values_code_and_credentials_go() {
    check(&["sh", "-c", "curl -u a:b https://x"], &["sh", "-c", "*"]);
    check(&["sh", "-c", "/usr/bin/true"], &["sh", "-c", "*"]);
    check(&["perl", "-e", "/etc/x"], &["perl", "-e", "*"]);
    check(
        &["mysql", "-psecret", "-pab", "-u", "root", "-p"],
        &["mysql", "-p*", "-p*", "-u", "*", "-p"],
    );
    check(
        &["app", "--password=/etc/hunter", "--api-key", "/etc/x"],
        &["app", "--password=*", "--api-key", "*"],
    );
    check(
        &["app", "--config=/etc/app.toml", "--name=x"],
        &["app", "--config=/etc/app.toml", "--name=*"],
    );
    check(&["env", "TOKEN=x", "cmd"], &["env", "*", "*"]);
    check(
        &[
            "git",
            "clone",
            "https://user:hunter2@git.test/a/b.git?private_token=x#frag",
        ],
        &[
            "git",
            "*",
            "https://{secret}@git.test/a/b.git?private_token={secret}",
        ],
    );
    check(
        &["cat", "/secrets/abc", "/tmp/aB3dE6gH9jK2mN5pQ8sT"],
        &["cat", "*", "/tmp/{opaque}"],
    );
    check(
        &["app", "--aB3dE6gH9jK2mN5pQ8sT", "--"],
        &["app", "--*", "--"],
    );
    let webhook = format!(
        "https://hooks.slack.com/services/T{0}/B{0}/{1}",
        "A1B2C3D4",
        "abcdefgh".repeat(3)
    );
    check(
        &["curl", &webhook],
        &[
            "curl",
            "https://hooks.slack.com/services/{secret}/{secret}/{secret}",
        ],
    );
}

#[test]
fn a_cut_end_is_never_recorded() {
    let args = b"curl\0https://api.test/v1/secr";
    assert_eq!(command_line(args, true), ["curl", "*"]);
    assert_eq!(
        command_line(b"curl\0https://api.test/\0", true),
        ["curl", "https://api.test/", "{cut}"]
    );
    assert_eq!(command_line(b"", false), Vec::<String>::new());
    let many = "a\0".repeat(200);
    let recorded = command_line(many.as_bytes(), false);
    assert_eq!(
        (recorded.len(), recorded.last().map(String::as_str)),
        (65, Some("{cut}"))
    );
}

proptest! {
    #[test]
    fn a_random_secret_in_any_place_is_not_recorded(secret in "[A-Za-z0-9]{20,40}", place in 0usize..12) {
        let places = [
            format!("app\0{secret}"),
            format!("app\0--token\0{secret}"),
            format!("app\0--token={secret}"),
            format!("app\0-p{secret}"),
            format!("app\0-H\0X-Key: {secret}"),
            format!("app\0https://{secret}@host.test/"),
            format!("app\0https://a:{secret}@host.test/"),
            format!("app\0https://host.test/?key={secret}"),
            format!("app\0https://host.test/?{secret}"),
            format!("app\0KEY={secret}"),
            format!("app\0--data\0a={secret}"),
            format!("app --token {secret}"),
        ];
        let recorded = command_line(places[place].as_bytes(), false).join(" ");
        prop_assert!(!recorded.contains(&secret[..12]), "{recorded}");
    }

    #[test]
    fn arbitrary_bytes_come_out_bounded_and_printable(args: Vec<u8>, truncated: bool) {
        for text in command_line(&args, truncated) {
            prop_assert!(text.len() <= 520);
            prop_assert!(text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{text}");
        }
    }
}
