//! Credentials in paths: webhooks and bot APIs whose URL is the credential.
//!
//! What is hashed: Telegram the bot token (`<id>:<secret>`, without the `bot` before it); Slack everything after the
//! kind (`T…/B…/…`), because the last part alone names nothing; elsewhere the secret segment.
//!
//! Invariant: a row matches on the whole path's form and, unless the form is unmistakable, on the host.

use super::super::find::{Carrier, Find, Finds, Hint};
use super::super::redact::Target;
use super::super::text::Decoded;
use super::super::{provider, text};
use zeroize::Zeroizing;

/// Segments that are looked at.
const SEGMENTS_MAX: usize = 16;
const SCHEME: &str = "path";

/// What a segment must be like.
#[derive(Clone, Copy)]
enum Part {
    /// This word.
    Is(&'static str),
    /// A public part of at least one character.
    Any,
    /// A public id, recorded under this name.
    Id(&'static str),
    /// The secret, of at least so many characters of `A-Z a-z 0-9 _ -`.
    Secret(usize),
    /// `T…` or `B…` of Slack: part of the secret.
    Slack(u8),
    /// A version (`v10`), which may be left out.
    Version,
}

use Part::{Any, Id, Is, Secret, Slack, Version};

struct Row {
    /// The host or its parent domain; empty: any.
    host: &'static str,
    parts: &'static [Part],
    hint: Hint,
}

impl Row {
    /// Can a path that begins with this segment, still encoded, be of this row?
    fn may_begin(&self, segment: &[u8]) -> bool {
        match self.parts.first() {
            Some(Is(word)) => segment == word.as_bytes() || segment.contains(&b'%'),
            _ => true,
        }
    }
}

const fn row(
    host: &'static str,
    parts: &'static [Part],
    provider: &'static str,
    class: &'static str,
) -> Row {
    Row {
        host,
        parts,
        hint: (provider, Some(class)),
    }
}

#[rustfmt::skip]
static ROWS: &[Row] = &[
    row("", &[Is("services"), Slack(b'T'), Slack(b'B'), Secret(16)], "slack", "incoming_webhook"),
    row("", &[Is("workflows"), Slack(b'T'), Slack(b'A'), Any, Secret(16)], "slack", "workflow_webhook"),
    row("slack.com", &[Is("triggers"), Slack(b'T'), Any, Secret(16)], "slack", "trigger_webhook"),
    row("", &[Is("api"), Version, Is("webhooks"), Id("discord.webhook_id"), Secret(60)], "discord", "webhook"),
    row("office.com", &[Is("webhookb2"), Any, Is("IncomingWebhook"), Secret(32), Any], "microsoft", "teams_webhook"),
    row("office.com", &[Is("webhookb2"), Any, Is("IncomingWebhook"), Secret(32), Any, Any], "microsoft", "teams_webhook"),
    row("ifttt.com", &[Is("trigger"), Any, Is("with"), Is("key"), Secret(20)], "ifttt", "webhook_key"),
    row("ifttt.com", &[Is("trigger"), Any, Is("json"), Is("with"), Is("key"), Secret(20)], "ifttt", "webhook_key"),
    row("zapier.com", &[Is("hooks"), Is("catch"), Id("zapier.account_id"), Secret(5)], "zapier", "webhook"),
    row("infura.io", &[Is("v3"), Secret(32)], "infura", "project_key"),
    row("infura.io", &[Is("ws"), Is("v3"), Secret(32)], "infura", "project_key"),
    row("alchemy.com", &[Is("v2"), Secret(20)], "alchemy", "api_key"),
    row("webhook.site", &[Secret(32)], "webhook_site", "webhook"),
    row("hc-ping.com", &[Secret(32)], "healthchecks", "ping_url"),
    row("", &[Is("api"), Is("webhook"), Secret(64)], "home_assistant", "webhook"),
];

pub(super) fn collect(target: &Target<'_>, finds: &mut Finds<'_>) {
    let Some(path) = target.path.strip_prefix(b"/") else {
        return;
    };
    let first = path.split(|&byte| byte == b'/').next().unwrap_or_default();
    let rows = || {
        ROWS.iter()
            .filter(|row| row.may_begin(first) && is_within(target.host, row.host))
    };
    let bot = first.starts_with(b"bot") || first == b"file" || first.contains(&b'%');
    if !bot && rows().next().is_none() {
        return;
    }
    let parts = path.split(|&byte| byte == b'/').take(SEGMENTS_MAX);
    let segments: Vec<Decoded<'_>> = parts.map(|part| text::decoded(part, 1)).collect();
    telegram(&segments, finds);
    rows().for_each(|row| matched(row, &segments, finds));
}

fn is_within(host: &[u8], domain: &str) -> bool {
    let host = host.split(|&byte| byte == b':').next().unwrap_or_default();
    let Some(start) = host.len().checked_sub(domain.len()) else {
        return false;
    };
    let ends = host[start..].eq_ignore_ascii_case(domain.as_bytes());
    domain.is_empty() || (ends && (start == 0 || host[start - 1] == b'.'))
}

/// `/bot<token>/<method>`, or `/file/bot<token>/<path>`.
fn telegram(segments: &[Decoded<'_>], finds: &mut Finds<'_>) {
    let place = usize::from(segments.first().is_some_and(|first| **first == *b"file"));
    let Some(token) = segments
        .get(place)
        .and_then(|segment| segment.strip_prefix(b"bot"))
    else {
        return;
    };
    let Some(colon) = token.iter().position(|&byte| byte == b':') else {
        return;
    };
    if provider::recognise(token).is_some_and(|form| form.provider == "telegram") {
        let find = Find::new(Carrier::Path, SCHEME, Zeroizing::new(token.to_vec()));
        finds.add(find.public("telegram.bot_id", text::presentable(&token[..colon], 16)));
    }
}

fn matched(row: &Row, segments: &[Decoded<'_>], finds: &mut Finds<'_>) {
    let word = |segment: &[u8], min: usize| {
        segment.len() >= min
            && segment
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
    };
    let mut segments = segments.iter().peekable();
    let mut secret = Zeroizing::new(Vec::new());
    let mut public = None;
    for part in row.parts {
        if let Version = part {
            let is_version = |segment: &&Decoded<'_>| {
                segment
                    .strip_prefix(b"v")
                    .is_some_and(|digits| digits.iter().all(u8::is_ascii_digit))
            };
            segments.next_if(is_version);
            continue;
        }
        let Some(segment) = segments.next() else {
            return;
        };
        let fits = match *part {
            Is(wanted) => **segment == *wanted.as_bytes(),
            Any => !segment.is_empty(),
            Id(name) => {
                public = text::presentable(segment, 32).map(|id| (name, id));
                !segment.is_empty() && segment.iter().all(u8::is_ascii_digit)
            }
            Secret(min) => word(segment, min),
            Slack(letter) => segment.first() == Some(&letter) && word(segment, 8),
            Version => true,
        };
        if !fits {
            return;
        }
        if let Secret(_) | Slack(_) = part {
            if !secret.is_empty() {
                secret.push(b'/');
            }
            secret.extend_from_slice(segment);
            finds.hide(segment);
        }
    }
    let mut find = Find::new(Carrier::Path, SCHEME, secret).hint(Some(row.hint));
    if let Some((name, id)) = public {
        find = find.public(name, Some(id));
    }
    finds.add(find);
}
