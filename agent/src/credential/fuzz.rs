//! Fuzz entry point: arbitrary exchanges and command lines.
//!
//! Invariant: deterministic; panics only if an invariant of `credential` is broken.

use super::{Config, Observer, redact};
use crate::flow::{Direction, Origin, Payload};
use crate::http::head::{
    BodyPrefix, Exchange, Headers, Outcome, RequestHead, ResponseHead, Version,
};
use agent_common::fingerprint::Keyring;
use std::sync::{Arc, LazyLock};

/// One key for all runs in a process: fuzzing does not look at fingerprints.
static OBSERVER: LazyLock<Option<Observer>> = LazyLock::new(|| {
    let config = Config {
        extra_headers: vec!["x-fuzz".into()],
        cookies: vec!["s".into()],
        basic_passwords: true,
        short_keys: true,
    };
    Keyring::ephemeral()
        .ok()
        .map(|keyring| Observer::new(config, Arc::new(keyring)))
});

/// Takes the first line as target, `Name: value` lines as headers of the request (and, after an empty line, of the
/// response) and the last line as a form body; and the whole as a command line. Asserts that what comes out is
/// printable ASCII and bounded.
pub fn fuzz(data: &[u8]) {
    for text in redact::command_line(data, data.len() % 2 == 1) {
        assert_plain(&text);
    }
    let Some(observer) = &*OBSERVER else {
        return;
    };
    let observed = observer.observe(&exchange(data), 0);
    let sanitized = &observed.sanitized;
    let texts = [&sanitized.path, &sanitized.template].into_iter();
    let options = [&sanitized.query, &sanitized.host, &sanitized.user_agent]
        .into_iter()
        .flatten();
    let maps = [&sanitized.ids, &sanitized.forwarded]
        .into_iter()
        .flat_map(|map| map.values());
    texts
        .chain(options)
        .chain(maps)
        .for_each(|text| assert_plain(text));
    assert!(observed.observations.len() <= 33);
    for observation in &observed.observations {
        assert!(observation.fingerprints.is_empty() == observation.unresolved.is_some());
        assert_plain(&observation.carrier);
    }
}

fn assert_plain(text: &str) {
    assert!(text.len() <= 8192, "{} bytes", text.len());
    assert!(
        text.bytes()
            .all(|byte| byte == b' ' || byte.is_ascii_graphic()),
        "{text:?}"
    );
}

fn exchange(data: &[u8]) -> Exchange {
    let mut lines = data.split(|&byte| byte == b'\n');
    let target = Payload::copy_from(lines.next().unwrap_or_default());
    let mut request = vec![form_type()];
    let mut response = Vec::new();
    let mut of_response = false;
    let mut last: &[u8] = b"";
    for line in lines {
        last = line;
        let Some(colon) = line.iter().position(|&byte| byte == b':') else {
            of_response |= line.is_empty();
            continue;
        };
        let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
        let headers = if of_response {
            &mut response
        } else {
            &mut request
        };
        headers.push((name, Payload::copy_from(line[colon + 1..].trim_ascii())));
    }
    let origin = Origin { wire: 0, within: 0 };
    let version = Version::Http11;
    let method = if data.len() % 16 == 7 {
        "CONNECT"
    } else {
        "POST"
    }
    .to_owned();
    Exchange {
        request_direction: Direction::Sent,
        request: RequestHead {
            time: 0,
            origin,
            version,
            method,
            target,
            headers: headers(&request),
        },
        request_body: BodyPrefix {
            bytes: Payload::copy_from(last),
            whole: data.len().is_multiple_of(3),
        },
        response: Some(ResponseHead {
            time: 0,
            origin,
            version,
            status: 200,
            headers: headers(&response),
        }),
        response_body: BodyPrefix::default(),
        grpc_status: None,
        outcome: Outcome::Answered,
        proxy_claim: None,
    }
}

fn form_type() -> (String, Payload) {
    (
        "content-type".to_owned(),
        Payload::copy_from(b"application/x-www-form-urlencoded"),
    )
}

fn headers(fields: &[(String, Payload)]) -> Headers {
    Headers::of(
        fields
            .iter()
            .map(|(name, value)| (name.as_bytes(), &**value)),
    )
}
