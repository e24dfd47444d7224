//! The whole way, from the spool's couriers over a proxy that fails in every way and passes requests on twice: what
//! comes more than once has the same key and the same bytes, so that a receiver can keep one.

use crate::chance::Chance;
use crate::collector::Collector;
use crate::support::arrived::{of_http, of_otlp};
use crate::support::asked;
use crate::support::feed::{Feed, at_least_once};
use crate::support::proxy::{Fault, Proxy};
use crate::support::server::{Request, Server};
use std::collections::BTreeMap;
use std::time::Duration;
use tokentrail_agent::config::{self, Ranged};
use tokentrail_agent::sink::batch::Receiver;
use tokentrail_agent::sink::{http, otlp};

const SEED: u64 = 20_261_122;
const EVENTS: usize = 1_800;
/// Longer than the receivers wait.
const LATE: Duration = Duration::from_millis(1_600);

/// Each fault by chance, and each of them once at the begin, so that none is left out.
fn faults(seed: u64) -> impl FnMut(&Request) -> Fault + Send {
    let all = [
        Fault::Duplicate,
        Fault::Drop,
        Fault::CutRequest,
        Fault::LoseAnswer,
        Fault::CutAnswer,
        Fault::Delay(LATE),
    ];
    let (mut chance, mut begun) = (Chance(seed), all.into_iter());
    move |_| {
        begun.next().unwrap_or_else(|| match chance.below(100) {
            0..12 => Fault::Duplicate,
            12..18 => Fault::Drop,
            18..24 => Fault::CutRequest,
            24..32 => Fault::LoseAnswer,
            32..38 => Fault::CutAnswer,
            38..40 => Fault::Delay(LATE),
            _ => Fault::None,
        })
    }
}

fn otlp_through(proxy: &Proxy) -> Box<dyn Receiver> {
    let config = config::Otlp {
        endpoint: Some(proxy.url()),
        connect_seconds: Ranged::new(1),
        timeout_seconds: Ranged::new(1),
        batch_events: Ranged::new(20),
        ..config::Otlp::default()
    };
    Box::new(otlp::from_config(&config).unwrap().unwrap())
}

fn http_through(proxy: &Proxy) -> Box<dyn Receiver> {
    let config = config::Http {
        endpoint: Some(proxy.url()),
        connect_seconds: Ranged::new(1),
        timeout_seconds: Ranged::new(1),
        batch_events: Ranged::new(20),
        ..config::Http::default()
    };
    Box::new(http::from_config(&config).unwrap().unwrap())
}

/// Every fault there is was done, and nearly half of the requests came through at once.
fn tried(proxy: &Proxy) {
    let mut counts = BTreeMap::new();
    for fault in proxy.done() {
        *counts.entry(format!("{fault:?}")).or_insert(0) += 1;
    }
    println!("{counts:?}");
    assert_eq!(counts.len(), 7, "{counts:?}");
}

#[test]
fn copies_have_the_same_key_and_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (otlp, http) = (Server::start([]), Server::start([]));
    let before_otlp = Proxy::start(otlp.port, faults(SEED));
    let before_http = Proxy::start(http.port, faults(SEED + 1));
    let receivers = vec![otlp_through(&before_otlp), http_through(&before_http)];
    let mut feed = Feed::start(folder.path(), receivers);
    feed.give(EVENTS, Duration::from_millis(1));
    let given = feed.drain();
    tried(&before_otlp);
    tried(&before_http);
    for (sink, has) in [
        ("otlp", of_otlp(&otlp.requests())),
        ("http", of_http(&http.requests())),
    ] {
        let twice = at_least_once(sink, &given, &has);
        assert!(twice > 0, "nothing came twice: the test tests little");
    }
}

#[test]
fn a_collector_passes_the_same_copies_on() {
    if !asked("collector") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let collector = Collector::in_cleartext(folder.path());
    let proxy = Proxy::start(collector.port(), faults(SEED + 2));
    let mut feed = Feed::start(folder.path(), vec![otlp_through(&proxy)]);
    feed.give(EVENTS / 3, Duration::from_millis(1));
    let given = feed.drain();
    tried(&proxy);
    let twice = at_least_once(
        "collector",
        &given,
        &of_otlp(&collector.behind().requests()),
    );
    assert!(twice > 0, "nothing came twice: the test tests little");
}
