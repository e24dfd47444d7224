use super::*;
use crate::event::Event;
use crate::search::engine::Limits;
use crate::search::testing::{self, Bench, fingerprint};
use expect_test::{expect, expect_file};
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::broadcast;

/// Keys: `reader`, `analyst`; what they asked for; events that come.
pub(crate) struct World {
    asked: Mutex<Vec<String>>,
    deaf: AtomicBool,
    live: broadcast::Sender<Arc<[Event]>>,
}

#[async_trait::async_trait]
impl Authorize for World {
    async fn authorize(&self, request: &Parts, right: Right) -> Result<Arc<str>, Denied> {
        let key = request
            .headers
            .get("authorization")
            .and_then(|value| value.to_str().ok());
        match (key, right) {
            (Some("Bearer analyst"), _) => Ok("anna".into()),
            (Some("Bearer reader"), Right::Read) => Ok("rea".into()),
            (Some("Bearer reader"), Right::Trail) => Err(Denied::Forbidden("needs analyst".into())),
            _ => Err(Denied::Unknown("no key".into())),
        }
    }
}

#[async_trait::async_trait]
impl Audit for World {
    async fn asked(&self, who: &str, asked: Asked, named: &[&str]) -> Result<(), String> {
        if self.deaf.load(Ordering::Relaxed) {
            return Err("the disk is full".into());
        }
        let line = format!("{who} {} {}", asked.name(), named.join(","));
        self.asked.lock().unwrap().push(line);
        Ok(())
    }
}

impl Live for World {
    fn subscribe(&self) -> BoxStream<'static, Fresh> {
        let receiver = self.live.subscribe();
        futures::stream::unfold(receiver, async |mut receiver| match receiver.recv().await {
            Ok(events) => Some((Fresh::Events(events), receiver)),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                Some((Fresh::Missed(missed), receiver))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        })
        .boxed()
    }
}

/// Listens on loopback, for ureq and for the commands.
pub(crate) struct Server {
    world: Arc<World>,
    pub(crate) address: String,
    pub(crate) events: Vec<Event>,
    _bench: Bench,
}

struct Answer {
    status: u16,
    headers: ureq::http::HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Server {
    pub(crate) async fn new(limits: Limits) -> Self {
        let events = testing::events(120, 21);
        let (engine, bench) = testing::engine(&events, 30, limits).await;
        let world = Arc::new(World {
            asked: Mutex::default(),
            deaf: AtomicBool::new(false),
            live: broadcast::channel(2).0,
        });
        let state = State::new(engine, world.clone(), world.clone(), world.clone());
        let router = router(Arc::new(state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self {
            world,
            address,
            events,
            _bench: bench,
        }
    }

    pub(crate) fn tell(&self, events: &[Event]) -> usize {
        self.world.live.send(events.into()).unwrap_or_default()
    }

    async fn send(&self, key: &str, target: &str, accept: &str, body: Option<String>) -> Answer {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build()
            .new_agent();
        let (uri, key) = (format!("{}{target}", self.address), format!("Bearer {key}"));
        let accept = accept.to_owned();
        let answer = tokio::task::spawn_blocking(move || match body {
            None => agent
                .get(uri)
                .header("authorization", key)
                .header("accept", accept)
                .call(),
            Some(body) => agent
                .post(uri)
                .header("authorization", key)
                .header("accept", accept)
                .send(body),
        });
        let mut answer = answer.await.unwrap().unwrap();
        Answer {
            status: answer.status().as_u16(),
            headers: answer.headers().clone(),
            body: answer.body_mut().read_to_string().unwrap(),
        }
    }

    async fn get(&self, target: &str) -> Answer {
        self.send("reader", target, "*/*", None).await
    }

    async fn trail(&self, key: &str, body: &Value) -> Answer {
        self.send(key, "/v1/trail", "*/*", Some(body.to_string()))
            .await
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.world.asked.lock().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_as_they_were_sent() {
    let server = Server::new(Limits::default()).await;
    let page = server
        .get("/v1/search?q=kind:usage&limit=2&order=oldest")
        .await;
    assert_eq!(page.status, 200, "{}", page.body);
    let cursor = page.json()["cursor"].as_str().unwrap().to_owned();
    // Byte for byte, whatever serde_json would make of them.
    let mut usage: Vec<&Event> = server
        .events
        .iter()
        .filter(|event| {
            event
                .json
                .windows(14)
                .any(|window| window == b"\"kind\":\"usage\"")
        })
        .collect();
    usage.sort_by_key(|event| (event.time, event.key.clone()));
    let text = |event: &Event| String::from_utf8(event.json.to_vec()).unwrap();
    let two = format!("{{\"events\":[{},{}],", text(usage[0]), text(usage[1]));
    assert!(page.body.starts_with(&two), "{}", page.body);

    let target =
        format!("/v1/search?q=kind:usage&limit=2&order=oldest&format=ndjson&cursor={cursor}");
    let next = server.get(&target).await;
    assert_eq!(
        next.body,
        format!("{}\n{}\n", text(usage[2]), text(usage[3]))
    );
    assert_eq!(next.headers["content-type"], "application/x-ndjson");
    assert!(next.headers.contains_key(CURSOR_HEADER));

    let body =
        json!({"q": "kind:usage", "limit": 2, "order": "oldest", "cursor": cursor}).to_string();
    let same = server
        .send("reader", "/v1/search", "application/x-ndjson", Some(body))
        .await;
    assert_eq!(same.body, next.body);

    let csv = server.send(
        "reader",
        "/v1/search?q=path:%22/a%20b/%C3%BC%22&limit=1&fields=path,status,args",
        "text/csv",
        None,
    );
    let csv = csv.await.body;
    assert!(
        csv.starts_with("url.path,http.response.status_code,process.command_args\r\n/a b/ü,"),
        "{csv}"
    );
    assert!(csv.contains("\"[\"\""), "{csv}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_in_three_forms() {
    let server = Server::new(Limits::default()).await;
    let json = server.get("/v1/stats?by=kind").await.json();
    let sum = |rows: &Value| {
        rows.as_array()
            .unwrap()
            .iter()
            .map(|row| row["count"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!(
        (json["total"].as_u64(), sum(&json["rows"])),
        (Some(120), 120)
    );
    let csv = server
        .get("/v1/stats?by=kind,host&every=6h&format=csv&q=status:401")
        .await
        .body;
    assert!(
        csv.starts_with("time,kind,host.name,count\r\n2026-11-22T00:00:00.000000000Z,usage,"),
        "{csv}"
    );
    let lines = server.get("/v1/stats?by=kind&format=ndjson").await.body;
    assert!(
        lines.starts_with("{\"values\":[\"usage\"],\"count\":"),
        "{lines}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_fingerprint_is_recorded_first_and_needs_its_right() {
    let server = Server::new(Limits::default()).await;
    let print = fingerprint("k2", 3);
    let body = json!({"fingerprints": [print]});
    let trail = server.trail("analyst", &body).await;
    assert_eq!(trail.status, 200, "{}", trail.body);
    assert!(trail.json()["count"].as_u64().unwrap() > 0);
    assert_eq!(server.asked(), [format!("anna trail {print}")]);
    assert_eq!(server.trail("reader", &body).await.status, 403);
    assert_eq!(server.trail("", &body).await.status, 401);

    // The same by a search, a count or a tail is the same.
    for question in ["search", "stats", "tail"] {
        let target = format!("/v1/{question}?q=kind:usage%20-(fp:{print}%20or%20fp:tkf1:k1:*)");
        assert_eq!(server.get(&target).await.status, 403, "{question}");
        assert_eq!(server.asked(), [""; 0]);
        if question != "tail" {
            assert_eq!(
                server.send("analyst", &target, "*/*", None).await.status,
                200
            );
            assert_eq!(
                server.asked(),
                [format!("anna {question} tkf1:k1:,{print}")]
            );
        }
    }

    // What cannot be recorded is not answered.
    server.world.deaf.store(true, Ordering::Relaxed);
    let refused = server.trail("analyst", &body).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]),
        (503, &json!("audit"))
    );
    assert!(!refused.body.contains("disk"));
    let target = format!("/v1/search?q=fp:{print}");
    assert_eq!(
        server.send("analyst", &target, "*/*", None).await.status,
        503
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_requests_are_told_why() {
    let server = Server::new(Limits {
        rows: 100,
        ..Limits::default()
    })
    .await;
    let mut told = String::new();
    for target in [
        "/v1/search?q=provider:a%20stauts:401",
        "/v1/search?q=kind:usage&limit=0",
        "/v1/search?q=kind:usage&limit=x",
        "/v1/search?query=x",
        "/v1/search?q=kind:usage&cursor=x",
        "/v1/search?q=kind:usage",
        "/v1/search?q=kind:usage&force=true&limit=1&format=xml",
        "/v1/stats?by=stauts",
        "/v1/stats?every=soon",
        "/v1/tail?q=(",
        "/v1/trail",
    ] {
        let answer = server.get(target).await;
        told += &format!("{target}\n  {} {}\n", answer.status, answer.body);
    }
    for body in [
        "{\"fingerprints\":[]}",
        "{\"fingerprints\":[\"ghp_secret\"]}",
        "{",
        "{\"token\":\"x\"}",
        &"x".repeat(100_000),
    ] {
        let answer = server
            .send("analyst", "/v1/trail", "*/*", Some(body.to_owned()))
            .await;
        told += &format!("{:.40}\n  {} {}\n", body, answer.status, answer.body);
    }
    let unknown = server.send("", "/v1/search", "*/*", None).await;
    assert_eq!(unknown.headers["www-authenticate"], "Bearer");
    expect![[r#"
        /v1/search?q=provider:a%20stauts:401
          400 {"error":"query","detail":"there is no field `stauts`","expected":"a field: did you mean `status`?","span":{"start":11,"end":17}}
        /v1/search?q=kind:usage&limit=0
          400 {"error":"argument","detail":"limit is 0: 1 to 10000"}
        /v1/search?q=kind:usage&limit=x
          400 {"error":"argument","detail":"Failed to deserialize query string: limit: invalid digit found in string"}
        /v1/search?query=x
          400 {"error":"argument","detail":"Failed to deserialize query string: query: unknown field `query`, expected one of `q`, `limit`, `cursor`, `order`, `force`, `explain`, `format`, `fields`"}
        /v1/search?q=kind:usage&cursor=x
          400 {"error":"cursor","detail":"not a cursor of this server"}
        /v1/search?q=kind:usage
          422 {"error":"too_much","detail":"up to 120 events would be read, and at most 100 are without `force`: a shorter time (`since:1h`) or a fingerprint narrows it"}
        /v1/search?q=kind:usage&force=true&limit=1&format=xml
          400 {"error":"argument","detail":"Failed to deserialize query string: format: unknown variant `xml`, expected one of `json`, `ndjson`, `csv`"}
        /v1/stats?by=stauts
          400 {"error":"argument","detail":"by: there is no field `stauts`; did you mean status?"}
        /v1/stats?every=soon
          400 {"error":"argument","detail":"every: `soon` is not a length of time such as `30m` or `1h`"}
        /v1/tail?q=(
          400 {"error":"query","detail":"the query ends where a term is due","expected":"`field:value`, `not`, `-` or `(`","span":{"start":1,"end":1}}
        /v1/trail
          405 {"error":"method","detail":"only by POST"}
        {"fingerprints":[]}
          400 {"error":"argument","detail":"0 fingerprints: 1 to 64 are due"}
        {"fingerprints":["ghp_secret"]}
          400 {"error":"argument","detail":"fingerprints[0]: not a fingerprint of the form tkf1:<kid>:<43 characters of base64url>"}
        {
          400 {"error":"argument","detail":"the body is not the JSON object that is due: EOF while parsing an object at line 1 column 1"}
        {"token":"x"}
          400 {"error":"argument","detail":"the body is not the JSON object that is due: unknown field `token`, expected one of `fingerprints`, `limit`, `cursor`, `force` at line 1 column 8"}
        xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
          413 {"error":"length","detail":"the request has more than 65536 bytes"}
    "#]].assert_eq(&told);
    let forced = server
        .get("/v1/search?q=kind:usage&force=true&limit=1")
        .await;
    assert_eq!(forced.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_search_would_be_answered() {
    let server = Server::new(Limits::default()).await;
    let told = server
        .get("/v1/search?q=status:401%20since:2026-11-22T04:00Z&explain=true")
        .await
        .json();
    assert_eq!(
        told["query"],
        "http.response.status_code:401 since:2026-11-22T04:00Z"
    );
    assert_eq!(told["from"], "2026-11-22T04:00:00.000000000Z");
    assert_eq!(told["segments"], 12);
    assert_eq!(told["segments_excluded_by_time"], 8);
    assert_eq!(told["pending_rows"], 30);
    assert_eq!(told["files"].as_array().map(Vec::len), Some(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_events_are_told_to_who_follows() {
    use std::io::BufRead;
    let server = Server::new(Limits::default()).await;
    let uri = format!("{}/v1/tail?q=kind:loss", server.address);
    let answer = tokio::task::spawn_blocking(move || {
        ureq::get(uri)
            .header("authorization", "Bearer reader")
            .call()
            .unwrap()
    });
    let answer = answer.await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    assert_eq!(server.tell(&server.events), 1, "one reader");
    let losses = server
        .events
        .iter()
        .filter(|event| event.json.windows(6).any(|window| window == b"\"loss\""));
    let expected: Vec<String> = losses
        .map(|event| String::from_utf8(event.json.to_vec()).unwrap())
        .collect();
    let count = expected.len();
    assert!(count > 3);
    let told = tokio::task::spawn_blocking(move || {
        let lines = std::io::BufReader::new(answer.into_body().into_reader()).lines();
        let data = lines.filter_map(|line| Some(line.unwrap().strip_prefix("data: ")?.to_owned()));
        data.take(count).collect::<Vec<_>>()
    });
    assert_eq!(told.await.unwrap(), expected);
}

#[test]
fn the_document_is_fresh() {
    expect_file!["../../openapi.json"].assert_eq(&document());
}
