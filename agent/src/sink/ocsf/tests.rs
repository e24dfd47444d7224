//! What is said of each kind; that it is valid is shown by `tests/receivers` with the official schema.

use super::super::samples;
use super::{encode, event};
use serde_json::{Value, json};

fn all() -> Vec<Value> {
    samples::envelopes().iter().map(event).collect()
}

fn check(event: &Value, expected: &[(&str, Value)]) {
    for (pointer, expected) in expected {
        assert_eq!(
            event.pointer(pointer).unwrap_or(&Value::Null),
            expected,
            "{pointer}"
        );
    }
}

#[test]
fn usage_at_the_client_names_process_credential_and_operation() {
    let fingerprint = format!("tkf1:k1:{}", &"Az09_-x".repeat(7)[..43]);
    check(
        &all()[0],
        &[
            ("/class_uid", json!(6003)),
            ("/category_uid", json!(6)),
            ("/activity_id", json!(2)),
            ("/type_uid", json!(600_302)),
            ("/type_name", json!("API Activity: Read")),
            ("/severity_id", json!(1)),
            ("/time", json!(1_790_000_000_000_i64)),
            ("/metadata/version", json!("1.8.0")),
            (
                "/metadata/uid",
                json!(format!("{}/{}/1", samples::AGENT, samples::EPOCH)),
            ),
            ("/actor/process/pid", json!(4711)),
            ("/actor/process/file/hashes/0/value", json!("ab".repeat(32))),
            (
                "/actor/process/cmd_line",
                json!(r"curl -H 'a b'\''s' https://api.example"),
            ),
            ("/actor/process/ancestry/0/name", json!("bash")),
            ("/actor/user/name", json!("alice")),
            ("/actor/session/credential_uid", json!(fingerprint)),
            ("/actor/session/issuer", json!("https://issuer.example")),
            ("/api/token/uid", json!(fingerprint)),
            ("/api/token/type_id", json!(7)),
            ("/api/operation", json!("GET /v1/items/{id}")),
            ("/src_endpoint/ip", json!("127.0.0.1")),
            ("/dst_endpoint/ip", json!("192.0.2.7")),
            ("/dst_endpoint/hostname", json!("api.example")),
            ("/http_request/http_method", json!("GET")),
            (
                "/http_request/x_forwarded_for",
                json!(["192.0.2.1", "2001:db8::1"]),
            ),
            ("/status_id", json!(1)),
            ("/observables/1/type_id", json!(19)),
            ("/device/hostname", json!("build-1")),
            ("/unmapped/evidence/socket", json!("record")),
            ("/unmapped/tls/cipher", json!("TLS_AES_128_GCM_SHA256")),
        ],
    );
}

#[test]
fn usage_at_the_server_does_not_make_it_the_actor() {
    check(
        &all()[2],
        &[
            ("/activity_id", json!(99)),
            ("/activity_name", json!("POST")),
            ("/type_name", json!("API Activity: Other")),
            ("/status_id", json!(2)),
            ("/status_code", json!("401")),
            ("/actor/process", Value::Null),
            ("/actor/user", json!({ "name": "bob" })),
            ("/src_endpoint/ip", json!("2001:db8::5")),
            ("/dst_endpoint/ip", json!("::1")),
            ("/unmapped/server_process/pid", json!(4711)),
        ],
    );
}

#[test]
fn what_is_not_known_is_not_said() {
    check(
        &all()[1],
        &[
            ("/http_request/http_method", Value::Null),
            ("/actor/process/file", Value::Null),
            ("/actor/session", json!({})),
            ("/api/token/uid", Value::Null),
            ("/observables", Value::Null),
            ("/src_endpoint", json!({ "hostname": "build-1" })),
            ("/dst_endpoint", json!({ "name": "/run/engine.sock" })),
            ("/status_id", json!(0)),
            ("/unmapped/token/unresolved", json!("challenge_response")),
        ],
    );
}

#[test]
fn the_others_have_their_classes() {
    let all = all();
    check(
        &all[3],
        &[
            ("/class_uid", json!(6008)),
            ("/severity_id", json!(3)),
            ("/count", json!(12)),
            (
                "/message",
                json!("12 records lost in stage kernel: ring full"),
            ),
            ("/unmapped/loss/probe", json!("tcp_recvmsg")),
        ],
    );
    check(
        &all[4],
        &[
            ("/severity_id", json!(1)),
            ("/count", Value::Null),
            ("/unmapped/loss/count", json!(9_223_372_036_854_775_808_u64)),
        ],
    );
    check(
        &all[5],
        &[
            ("/class_uid", json!(4001)),
            ("/type_uid", json!(400_106)),
            ("/src_endpoint/port", json!(40_000)),
            ("/dst_endpoint/ip", json!("192.0.2.7")),
            ("/is_src_dst_assignment_known", json!(false)),
            ("/tls/sni", json!("api.example")),
            ("/status_code", json!("cipher_unsupported")),
            ("/actor/process/pid", json!(4711)),
        ],
    );
    check(
        &all[7],
        &[
            ("/src_endpoint", json!({ "hostname": "build-1" })),
            ("/actor", Value::Null),
            (
                "/message",
                json!("coverage of all connections: 0 seen, 0 read, 0 unread"),
            ),
        ],
    );
    let activities: Vec<&Value> = all[8..15].iter().map(|each| &each["activity_id"]).collect();
    assert_eq!(activities, [3, 99, 8, 8, 6, 7, 4]);
    assert!(all[8..15].iter().all(|each| each["class_uid"] == 6002));
}

#[test]
fn what_is_no_event_is_refused() {
    for wrong in ["", "{}", "null", r#"{"version":2}"#] {
        assert!(encode(wrong.as_bytes()).is_err(), "{wrong}");
    }
}
