//! Credentials of the tests: generated anew for every cell, in the shapes of real providers, worth nothing anywhere.

use std::io::Read;

const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Shape of a generated credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Opaque,
    GitHub,
    GitLab,
    Slack,
    Anthropic,
    Npm,
    HuggingFace,
    DigitalOcean,
}

impl Shape {
    /// One after the other, so that a table of cells has them all.
    pub fn nth(number: usize) -> Self {
        const ALL: [Shape; 8] = [
            Shape::Opaque,
            Shape::GitHub,
            Shape::GitLab,
            Shape::Slack,
            Shape::Anthropic,
            Shape::Npm,
            Shape::HuggingFace,
            Shape::DigitalOcean,
        ];
        ALL[number % ALL.len()]
    }

    /// What the agent calls this provider; `None` for a shape of nobody.
    pub fn provider(self) -> Option<&'static str> {
        match self {
            Self::Opaque => None,
            Self::GitHub => Some("github"),
            Self::GitLab => Some("gitlab"),
            Self::Slack => Some("slack"),
            Self::Anthropic => Some("anthropic"),
            Self::Npm => Some("npm"),
            Self::HuggingFace => Some("huggingface"),
            Self::DigitalOcean => Some("digitalocean"),
        }
    }

    pub fn generate(self) -> String {
        match self {
            Self::Opaque => random(40, ALPHANUMERIC),
            Self::GitHub => format!("ghp_{}", random(36, ALPHANUMERIC)),
            Self::GitLab => format!("glpat-{}", random(20, ALPHANUMERIC)),
            Self::Slack => {
                format!(
                    "xoxb-{}-{}-{}",
                    random(12, b"123456789"),
                    random(12, b"123456789"),
                    random(24, ALPHANUMERIC)
                )
            }
            Self::Anthropic => format!("sk-ant-api03-{}AA", random(93, ALPHANUMERIC)),
            Self::Npm => format!("npm_{}", random(36, ALPHANUMERIC)),
            Self::HuggingFace => format!("hf_{}", random(34, ALPHANUMERIC)),
            Self::DigitalOcean => format!("dop_v1_{}", random(64, b"0123456789abcdef")),
        }
    }
}

/// An opaque credential.
pub fn opaque() -> String {
    Shape::Opaque.generate()
}

fn random(count: usize, alphabet: &[u8]) -> String {
    let mut source = std::fs::File::open("/dev/urandom").expect("open /dev/urandom");
    let mut bytes = vec![0; count];
    source.read_exact(&mut bytes).expect("read /dev/urandom");
    bytes
        .iter()
        .map(|byte| char::from(alphabet[usize::from(*byte) % alphabet.len()]))
        .collect()
}
