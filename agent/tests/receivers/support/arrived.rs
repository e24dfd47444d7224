//! Events as they arrived somewhere. Shared with the tests of the whole agent (`tests/matrix`).

use super::server::Request;
use agent_common::otlp::restore;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message;
use std::collections::BTreeMap;
use std::io::Read;

/// A body as it was before its content encoding.
pub fn unpacked(encoding: Option<&str>, body: &[u8]) -> Vec<u8> {
    match encoding {
        Some("zstd") => zstd::decode_all(body).unwrap(),
        Some("gzip") => {
            let mut bytes = Vec::new();
            flate2::read::GzDecoder::new(body)
                .read_to_end(&mut bytes)
                .unwrap();
            bytes
        }
        None => body.to_vec(),
        Some(other) => panic!("{other}"),
    }
}

/// The events of requests with OTLP in them.
pub fn of_otlp(requests: &[Request]) -> Vec<String> {
    let events = requests.iter().flat_map(|request| {
        let body = unpacked(request.header("content-encoding"), &request.body);
        restore::events(&ExportLogsServiceRequest::decode(&body[..]).unwrap())
    });
    events
        .map(|event| String::from_utf8(event.unwrap()).unwrap())
        .collect()
}

/// The events of requests with NDJSON in them; what their headers say of them is true of every copy.
pub fn of_http(requests: &[Request]) -> Vec<String> {
    let mut all = Vec::new();
    for request in requests {
        let body = unpacked(request.header("content-encoding"), &request.body);
        let lines: Vec<String> = String::from_utf8(body)
            .unwrap()
            .lines()
            .map(str::to_owned)
            .collect();
        for (header, line) in [("first", lines.first()), ("last", lines.last())] {
            let event: serde_json::Value = serde_json::from_str(line.unwrap()).unwrap();
            assert_eq!(
                request.header(&format!("tokentrail-{header}-sequence")),
                Some(event["producer"]["sequence"].to_string().as_str())
            );
        }
        all.extend(lines);
    }
    all
}

/// By key, the first copy of each event.
pub fn first_copies(sink: &str, has: &[String]) -> Vec<String> {
    let mut first = BTreeMap::new();
    let mut kept = Vec::new();
    for json in has {
        let event: serde_json::Value = serde_json::from_str(json).unwrap();
        let producer = &event["producer"];
        let name = ["id", "epoch", "sequence"].map(|part| producer[part].to_string());
        match first.get(&name) {
            Some(known) => assert_eq!(known, json, "{sink}: two events of one key"),
            None => {
                first.insert(name, json.clone());
                kept.push(json.clone());
            }
        }
    }
    kept
}
