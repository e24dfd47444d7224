//! Request ids, by an allow-list: what joins a record to a provider's own log.
//!
//! Ids are random by nature, so only their length, alphabet and form are checked, and that they are no secret of this
//! exchange.
//!
//! Invariant: names are lower case and sorted (a test says so).

use super::super::names::Filter;
use super::Known;
use crate::http::head::Headers;
use std::collections::BTreeMap;

const LEN_MAX: usize = 128;

static NAMES: &[&str] = &[
    "ali-request-id",
    "apigw-requestid",
    "audit-id",
    "cf-ray",
    "request-id",
    "traceparent",
    "x-amz-apigw-id",
    "x-amz-cf-id",
    "x-amz-id-2",
    "x-amz-request-id",
    "x-amzn-requestid",
    "x-amzn-trace-id",
    "x-b3-traceid",
    "x-client-request-id",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-envoy-attempt-count",
    "x-github-delivery",
    "x-github-request-id",
    "x-gitlab-meta",
    "x-goog-request-id",
    "x-guploader-uploadid",
    "x-ms-correlation-request-id",
    "x-ms-request-id",
    "x-okta-request-id",
    "x-oss-request-id",
    "x-request-id",
    "x-slack-req-id",
    "x-trace-id",
    "x-vault-request-id",
    "x-vercel-id",
];

/// Every name, to say no quickly.
static FILTER: Filter = {
    let mut filter = Filter::none();
    let mut row = 0;
    while row < NAMES.len() {
        filter = filter.with(NAMES[row]);
        row += 1;
    }
    filter
};

/// Listed headers of the request and of the response; where both have one and differ, the response's is
/// `response.<name>`.
pub(super) fn collect(
    request: &Headers,
    response: Option<&Headers>,
    known: &Known<'_>,
) -> BTreeMap<String, String> {
    let mut ids: BTreeMap<String, String> = BTreeMap::new();
    for (name, id) in listed(request, known) {
        ids.entry(name.to_owned()).or_insert(id);
    }
    for (name, id) in response
        .into_iter()
        .flat_map(|headers| listed(headers, known))
    {
        match ids.get(name) {
            None => {
                ids.insert(name.to_owned(), id);
            }
            Some(of_request) if *of_request != id => {
                ids.entry(format!("response.{name}")).or_insert(id);
            }
            Some(_) => {}
        }
    }
    ids
}

fn listed<'h>(
    headers: &'h Headers,
    known: &'h Known<'_>,
) -> impl Iterator<Item = (&'static str, String)> {
    headers.iter().filter_map(|(name, value)| {
        if !FILTER.may_hold(name.as_bytes()) {
            return None;
        }
        let place = NAMES.binary_search(&name).ok()?;
        let value = value.trim_ascii();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/=+-;,@|~".contains(&byte);
        let plain = (1..=LEN_MAX).contains(&value.len())
            && value.iter().all(|&byte| allowed(byte))
            && !known.secret(value)
            && !value
                .split(|byte| matches!(byte, b';' | b',' | b'=' | b'|'))
                .any(|part| known.secret(part));
        let text = std::str::from_utf8(value).ok().filter(|_| plain)?;
        Some((*NAMES.get(place)?, text.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::NAMES;

    #[test]
    fn names_are_sorted() {
        assert!(NAMES.is_sorted());
    }
}
