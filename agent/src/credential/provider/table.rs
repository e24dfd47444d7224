//! The table of token forms that begin with a prefix.
//!
//! One row a form: prefix, provider, class, the alphabet of what follows and how many characters of it. Lengths are
//! ranges, because providers lengthen their tokens. Sources are the providers' own documents and the public sets of
//! gitleaks and Betterleaks (MIT), read for shapes; no pattern is copied.
//!
//! The name of the Twilio API key (`SK...`) and of an account are public by themselves, as are AWS access key ids.
//!
//! Invariant: rows are sorted by first byte, and within it longer prefixes come first, so that the first row that
//! fits is the most specific.

use super::checksum::Checksum;
use super::{CHECKSUM, Recognised, SHAPE};

/// A set of ASCII characters.
#[derive(Clone, Copy)]
struct Alphabet(u128);

impl Alphabet {
    const fn of(characters: &str) -> Self {
        let bytes = characters.as_bytes();
        let mut set = 0;
        let mut index = 0;
        while index < bytes.len() {
            assert!(bytes[index] < 128);
            set |= 1 << bytes[index];
            index += 1;
        }
        Self(set)
    }

    const fn and(self, more: &str) -> Self {
        Self(self.0 | Self::of(more).0)
    }

    fn holds(self, byte: u8) -> bool {
        byte < 128 && self.0 >> byte & 1 == 1
    }
}

const LOWNUM: Alphabet = Alphabet::of("abcdefghijklmnopqrstuvwxyz0123456789");
const B62: Alphabet = LOWNUM.and("ABCDEFGHIJKLMNOPQRSTUVWXYZ");
const B62DOT: Alphabet = B62.and("._-");
const B62DASH: Alphabet = B62.and("-");
const WORD: Alphabet = B62.and("_");
const WORDDASHDOT: Alphabet = B62.and("_-.");
const SLACK: Alphabet = B62.and("-");
const B64URL: Alphabet = B62.and("-_");
const B64URLEQ: Alphabet = B62.and("-_=");
const B64URLDOT: Alphabet = B62.and("-_.");
const B64: Alphabet = B62.and("+/=-_");
const PCT: Alphabet = B62.and("%-_.+/=");
const B32: Alphabet = Alphabet::of("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567");
const B32DOT: Alphabet = B32.and("0189.");
const B32LOW: Alphabet = B32.and("0189");
const HEX: Alphabet = Alphabet::of("0123456789abcdef");
const HEXANY: Alphabet = HEX.and("ABCDEF");
const HEXDASH: Alphabet = HEX.and("-");
const HEXWORD: Alphabet = HEX.and("_");
const UUID: Alphabet = HEX.and("-");

struct Shape {
    prefix: &'static str,
    provider: &'static str,
    /// Empty: the prefix does not tell.
    class: &'static str,
    alphabet: Alphabet,
    min: usize,
    max: usize,
    checksum: Checksum,
    public: bool,
}

impl Shape {
    const fn checked(mut self, checksum: Checksum) -> Self {
        self.checksum = checksum;
        self
    }
}

/// `min..=max` characters of `alphabet` after `prefix`.
const fn shape(
    prefix: &'static str,
    provider: &'static str,
    class: &'static str,
    alphabet: Alphabet,
    min: usize,
    max: usize,
) -> Shape {
    let checksum = Checksum::None;
    Shape {
        prefix,
        provider,
        class,
        alphabet,
        min,
        max,
        checksum,
        public: false,
    }
}

/// The same, of a name that may be shown.
const fn public(
    prefix: &'static str,
    provider: &'static str,
    class: &'static str,
    alphabet: Alphabet,
    min: usize,
    max: usize,
) -> Shape {
    let mut row = shape(prefix, provider, class, alphabet, min, max);
    row.public = true;
    row
}

#[rustfmt::skip]
static SHAPES: &[Shape] = &[
    shape("1//", "google", "refresh_token", B64URL, 30, 400),
    shape("AGE-SECRET-KEY-1", "age", "secret_key", B32LOW, 58, 58),
    shape("ATATT3", "atlassian", "api_token", B64URLEQ, 150, 255),
    shape("ATCTT3", "atlassian", "access_token", B64URLEQ, 100, 255),
    public("ABIA", "aws", "bearer_token_id", B32, 16, 16),
    shape("ABSK", "aws", "bedrock_api_key", B64, 60, 300),
    public("ACCA", "aws", "context_key_id", B32, 16, 16),
    shape("AIza", "google", "api_key", B64URL, 35, 35),
    shape("AKCp", "jfrog", "api_key", B62, 60, 75),
    public("AKIA", "aws", "access_key", B32, 16, 16),
    public("ASIA", "aws", "temporary_access_key", B32, 16, 16),
    shape("ATBB", "bitbucket", "app_password", B62, 32, 32),
    shape("AQ.", "google", "api_key", B64URL, 45, 60),
    public("AC", "twilio", "account_sid", HEX, 32, 32),
    shape("CLOJARS_", "clojars", "deploy_token", HEXANY, 60, 60),
    shape("CCIPAT_", "circleci", "personal_access_token", WORD, 40, 80),
    shape("CCIPRJ_", "circleci", "project_token", WORD, 40, 80),
    shape("CFPAT-", "contentful", "personal_access_token", B64URL, 43, 43),
    shape("EAAA", "square", "access_token", B64URL, 56, 64),
    shape("EZAK", "easypost", "api_key", B62, 54, 54),
    shape("EAA", "facebook", "access_token", B62, 80, 400),
    shape("GR1348941", "gitlab", "runner_registration_token", B64URL, 20, 20),
    shape("GOCSPX-", "google", "client_secret", B64URL, 28, 28),
    shape("HRKU-", "heroku", "api_key", B64URL, 36, 64),
    public("LTAI", "alibaba", "access_key_id", B62, 12, 26),
    shape("NRAK-", "newrelic", "user_key", B62, 27, 27),
    shape("NRII-", "newrelic", "insights_key", B64URL, 32, 32),
    shape("PMAK-", "postman", "api_key", HEXDASH, 59, 59),
    shape("PMAT-", "postman", "access_token", B62, 26, 26),
    shape("SG.", "sendgrid", "api_key", B64URLDOT, 66, 66),
    public("SK", "twilio", "api_key", HEX, 32, 32),
    shape("apify_api_", "apify", "api_token", B62, 30, 64),
    shape("api_org_", "huggingface", "organization_token", B62, 30, 64),
    shape("bedrock-api-key-", "aws", "bedrock_short_term_key", B64, 60, 4096),
    shape("bkua_", "buildkite", "api_token", HEX, 40, 40),
    shape("b.", "vault", "legacy_batch_token", B64URL, 100, 1024),
    shape("cmVmd", "jfrog", "reference_token", B62, 59, 59),
    shape("cio", "crates_io", "api_token", B62, 32, 32),
    shape("dckr_oat_", "docker", "organization_access_token", B64URL, 27, 40),
    shape("dckr_pat_", "docker", "personal_access_token", B64URL, 27, 40),
    shape("doo_v1_", "digitalocean", "oauth_access_token", HEX, 64, 64),
    shape("dop_v1_", "digitalocean", "personal_access_token", HEX, 64, 64),
    shape("dor_v1_", "digitalocean", "oauth_refresh_token", HEX, 64, 64),
    shape("dt0c01.", "dynatrace", "api_token", B32DOT, 89, 89),
    shape("dt0s01.", "dynatrace", "platform_token", B32DOT, 89, 89),
    shape("dt0s16.", "dynatrace", "platform_token", B32DOT, 89, 89),
    shape("dp.ct.", "doppler", "cli_token", B62, 40, 44),
    shape("dp.pt.", "doppler", "personal_token", B62, 40, 44),
    shape("dp.sa.", "doppler", "service_account_token", B62, 40, 44),
    shape("dp.st.", "doppler", "service_token", B62DOT, 40, 80),
    shape("dapi", "databricks", "personal_access_token", HEXDASH, 32, 34),
    shape("dose", "databricks", "oauth_secret", HEX, 32, 32),
    shape("figd_", "figma", "personal_access_token", B64URL, 40, 80),
    shape("fm1r_", "fly", "macaroon", B64, 60, 8192),
    shape("fm2_", "fly", "macaroon", B64, 60, 8192),
    shape("fo1_", "fly", "access_token", B64URL, 40, 64),
    shape("github_pat_", "github", "fine_grained_personal_access_token", WORD, 36, 255),
    shape("glagent-", "gitlab", "agent_token", B64URLDOT, 20, 300).checked(Checksum::Base36),
    shape("glffct-", "gitlab", "feature_flag_client_token", B64URLDOT, 20, 300).checked(Checksum::Base36),
    shape("glsoat-", "gitlab", "scim_token", B64URLDOT, 20, 300).checked(Checksum::Base36),
    shape("glcbt-", "gitlab", "ci_job_token", B64URLDOT, 20, 300).checked(Checksum::Base36),
    shape("glimt-", "gitlab", "incoming_mail_token", B64URLDOT, 20, 300).checked(Checksum::Base36),
    shape("gloas-", "gitlab", "oauth_application_secret", B64URLDOT, 20, 300).checked(Checksum::Base36),
    shape("glpat-", "gitlab", "personal_access_token", B64URLDOT, 20, 300).checked(Checksum::Base36),
    shape("glptt-", "gitlab", "pipeline_trigger_token", B64URLDOT, 20, 300).checked(Checksum::Base36),
    shape("glrtr-", "gitlab", "runner_registration_token", B64URLDOT, 20, 300).checked(Checksum::Base36),
    shape("gldt-", "gitlab", "deploy_token", B64URLDOT, 20, 300).checked(Checksum::Base36),
    shape("glft-", "gitlab", "feed_token", B64URLDOT, 20, 300).checked(Checksum::Base36),
    shape("glrt-", "gitlab", "runner_token", B64URLDOT, 20, 300).checked(Checksum::Base36),
    shape("glsa_", "grafana", "service_account_token", WORD, 41, 41),
    shape("gho_", "github", "oauth_access_token", B62, 36, 255).checked(Checksum::Base62),
    shape("ghp_", "github", "personal_access_token", B62, 36, 255).checked(Checksum::Base62),
    shape("ghr_", "github", "refresh_token", B62, 36, 255).checked(Checksum::Base62),
    shape("ghs_", "github", "server_token", B62DOT, 36, 1024).checked(Checksum::Base62),
    shape("ghu_", "github", "user_access_token", B62DOT, 36, 1024).checked(Checksum::Base62),
    shape("glc_", "grafana", "cloud_access_token", B64, 32, 400),
    shape("gsk_", "groq", "api_key", B62, 40, 64),
    shape("hvb.", "vault", "batch_token", B64URL, 24, 1024),
    shape("hvr.", "vault", "recovery_token", B64URL, 24, 512),
    shape("hvs.", "vault", "service_token", B64URL, 24, 512),
    shape("hf_", "huggingface", "user_access_token", B62, 30, 64),
    shape("lin_oauth_", "linear", "oauth_access_token", HEX, 64, 64),
    shape("lin_api_", "linear", "api_key", B62, 40, 48),
    shape("lsv2_pt_", "langsmith", "personal_access_token", HEXWORD, 43, 64),
    shape("lsv2_sk_", "langsmith", "service_key", HEXWORD, 43, 64),
    shape("nvapi-", "nvidia", "api_key", B64URL, 60, 80),
    shape("nfp_", "netlify", "personal_access_token", B62, 36, 48),
    shape("npm_", "npm", "access_token", B62, 36, 36).checked(Checksum::Base62),
    shape("ntn_", "notion", "integration_token", B62, 40, 60),
    shape("ops_eyJ", "onepassword", "service_account_token", B64URL, 200, 2048),
    shape("oy2", "nuget", "api_key", LOWNUM, 43, 43),
    shape("pscale_oauth_", "planetscale", "oauth_token", B64URLDOT, 32, 64),
    shape("pscale_tkn_", "planetscale", "service_token", B64URLDOT, 32, 64),
    shape("pscale_pw_", "planetscale", "password", B64URLDOT, 32, 64),
    shape("pat-eu1-", "hubspot", "private_app_token", UUID, 36, 36),
    shape("pat-na1-", "hubspot", "private_app_token", UUID, 36, 36),
    public("pk_live_", "stripe", "publishable_key", B62, 16, 247),
    public("pk_test_", "stripe", "test_publishable_key", B62, 16, 247),
    shape("pplx-", "perplexity", "api_key", B62, 40, 64),
    shape("pypi-", "pypi", "api_token", B64URL, 50, 1024),
    shape("phx_", "posthog", "personal_api_key", B64URL, 40, 64),
    shape("pul-", "pulumi", "access_token", HEX, 40, 40),
    shape("rubygems_", "rubygems", "api_key", HEX, 48, 48),
    shape("rk_live_", "stripe", "restricted_key", B62, 16, 247),
    shape("rk_test_", "stripe", "test_restricted_key", B62, 16, 247),
    shape("rpa_", "runpod", "api_key", B62, 40, 64),
    shape("r8_", "replicate", "api_token", B62, 37, 40),
    shape("sk-ant-admin", "anthropic", "admin_key", B64URL, 40, 200),
    shape("sk-svcacct-", "openai", "service_account_key", B64URL, 40, 200),
    shape("sb_secret_", "supabase", "secret_key", B64URL, 20, 80),
    shape("sk-ant-api", "anthropic", "api_key", B64URL, 40, 200),
    shape("sk-ant-oat", "anthropic", "oauth_access_token", B64URL, 40, 200),
    shape("sk-ant-ort", "anthropic", "oauth_refresh_token", B64URL, 40, 200),
    shape("sk-ant-sid", "anthropic", "session_key", B64URL, 40, 200),
    shape("sk-admin-", "openai", "admin_key", B64URL, 40, 200),
    shape("sk-or-v1-", "openrouter", "api_key", HEX, 64, 64),
    shape("sk-proj-", "openai", "project_key", B64URL, 40, 200),
    shape("sk_live_", "stripe", "secret_key", B62, 16, 247),
    shape("sk_test_", "stripe", "test_secret_key", B62, 16, 247),
    shape("shptka_", "shopify", "partner_token", HEXANY, 32, 64),
    shape("sk-ant-", "anthropic", "", B64URL, 32, 200),
    shape("sntrys_", "sentry", "organization_token", B64URLEQ, 80, 1024),
    shape("sntryu_", "sentry", "user_token", HEX, 64, 64),
    shape("sq0atp-", "square", "access_token", B64URL, 22, 22),
    shape("sq0csp-", "square", "oauth_secret", B64URL, 43, 43),
    shape("shpat_", "shopify", "access_token", HEXANY, 32, 32),
    shape("shpca_", "shopify", "custom_app_token", HEXANY, 32, 32),
    shape("shppa_", "shopify", "private_app_token", HEXANY, 32, 32),
    shape("shpss_", "shopify", "shared_secret", HEXANY, 32, 32),
    shape("sk-lf-", "langfuse", "secret_key", UUID, 36, 36),
    shape("sbp_", "supabase", "personal_access_token", HEX, 40, 40),
    shape("sgp_", "sourcegraph", "access_token", HEXWORD, 40, 80),
    shape("syt_", "matrix", "access_token", WORD, 28, 300),
    shape("s.", "vault", "legacy_service_token", B62, 24, 24),
    shape("tskey-client-", "tailscale", "oauth_client_secret", B62DASH, 20, 80),
    shape("tskey-auth-", "tailscale", "auth_key", B62DASH, 20, 80),
    shape("tskey-api-", "tailscale", "api_key", B62DASH, 20, 80),
    shape("tvly-", "tavily", "api_key", B62DASH, 30, 64),
    shape("tfp_", "typeform", "personal_access_token", WORDDASHDOT, 40, 64),
    shape("whsec_", "stripe", "webhook_secret", B64, 24, 100),
    shape("xoxe.xoxb-", "slack", "rotating_bot_token", SLACK, 20, 255),
    shape("xoxe.xoxp-", "slack", "rotating_user_token", SLACK, 20, 255),
    shape("xsmtpsib-", "brevo", "smtp_key", HEXDASH, 81, 81),
    shape("xkeysib-", "brevo", "api_key", HEXDASH, 81, 81),
    shape("xapp-", "slack", "app_token", SLACK, 20, 255),
    shape("xoxa-", "slack", "workspace_token", SLACK, 20, 255),
    shape("xoxb-", "slack", "bot_token", SLACK, 20, 255),
    shape("xoxc-", "slack", "client_token", SLACK, 20, 255),
    shape("xoxd-", "slack", "client_cookie", PCT, 20, 512),
    shape("xoxe-", "slack", "refresh_token", SLACK, 20, 255),
    shape("xoxo-", "slack", "legacy_token", SLACK, 20, 255),
    shape("xoxp-", "slack", "user_token", SLACK, 20, 255),
    shape("xoxr-", "slack", "refresh_token", SLACK, 20, 255),
    shape("xoxs-", "slack", "legacy_token", SLACK, 20, 255),
    shape("xai-", "xai", "api_key", B62, 80, 80),
    shape("ya29.", "google", "access_token", B64URLDOT, 20, 4096),
    shape("y0_", "yandex", "oauth_token", B64URL, 39, 80),
];

/// For each first byte (ASCII) the rows that begin with it: `FIRST[byte]..FIRST[byte + 1]`.
static FIRST: [u8; 129] = {
    assert!(SHAPES.len() < 256);
    let mut first = [0; 129];
    let mut byte = 0;
    let mut row = 0;
    while byte < 128 {
        first[byte] = row as u8;
        while row < SHAPES.len() && SHAPES[row].prefix.as_bytes()[0] as usize == byte {
            row += 1;
        }
        byte += 1;
    }
    first[128] = row as u8;
    assert!(row == SHAPES.len(), "rows are sorted by first byte");
    first
};

pub(super) fn recognise(value: &[u8]) -> Option<Recognised> {
    let byte = usize::from(*value.first()?);
    let rows = usize::from(*FIRST.get(byte)?)..usize::from(*FIRST.get(byte + 1)?);
    SHAPES[rows].iter().find_map(|shape| {
        let body = value.strip_prefix(shape.prefix.as_bytes())?;
        let fits = (shape.min..=shape.max).contains(&body.len())
            && body.iter().all(|&byte| shape.alphabet.holds(byte));
        fits.then(|| Recognised {
            provider: shape.provider,
            class: (!shape.class.is_empty()).then_some(shape.class),
            evidence: if shape.checksum.agrees(value, shape.prefix.len()) {
                CHECKSUM
            } else {
                SHAPE
            },
            public: shape.public,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token of the row's shape: the alphabet's characters in turn.
    fn example(shape: &Shape, len: usize) -> Vec<u8> {
        let characters: Vec<u8> = (0..128)
            .filter(|&byte| shape.alphabet.holds(byte))
            .collect();
        let body = (0..len).map(|place| characters[place * 7 % characters.len()]);
        shape.prefix.bytes().chain(body).collect()
    }

    #[test]
    fn every_row_matches_its_own_examples_and_nothing_cut_or_changed() {
        for shape in SHAPES {
            for len in [shape.min, shape.max] {
                let token = example(shape, len);
                let name = String::from_utf8_lossy(&token);
                let found = recognise(&token).unwrap_or_else(|| panic!("{name}"));
                assert_eq!(
                    (found.provider, found.public),
                    (shape.provider, shape.public),
                    "{name}"
                );
                assert_eq!(found.class.unwrap_or_default(), shape.class, "{name}");
                // Not a search through text: whatever is around it makes it something else.
                for around in [&b" "[..], b"\"", b"\xff", b"(", b","] {
                    assert!(recognise(&[around, &token].concat()).is_none(), "{name}");
                    assert!(recognise(&[&token, around].concat()).is_none(), "{name}");
                }
            }
            let short = example(shape, shape.min - 1);
            let found = recognise(&short).filter(|found| found.class == Some(shape.class));
            assert_eq!(found, None, "{}", String::from_utf8_lossy(&short));
        }
    }

    #[test]
    fn longer_prefixes_come_first() {
        for (index, row) in SHAPES.iter().enumerate() {
            let hidden = SHAPES[index + 1..]
                .iter()
                .find(|later| later.prefix.starts_with(row.prefix));
            assert!(
                hidden.is_none(),
                "{} hides {:?}",
                row.prefix,
                hidden.map(|row| row.prefix)
            );
        }
    }
}
