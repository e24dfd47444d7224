//! Configuration and command line to what `run` runs on.

use super::{Output, RunArguments, keys::now_unix};
use agent_common::fingerprint::{Keyring, StoreError};
use std::{num::NonZeroUsize, sync::Arc, time::Duration};
use tokentrail_agent::{
    config::{self, Config, Format, Hook},
    credential,
    flow::FlowLimits,
    http::h1,
    identity,
    kernel::{
        features::Rung,
        probes,
        scope::{self, Scope},
    },
    pipeline::Limits,
    tls,
};

/// The configuration with what the command line says over it.
pub fn configuration(arguments: &RunArguments) -> anyhow::Result<Config> {
    let mut config = arguments
        .config
        .as_deref()
        .map(config::load)
        .transpose()?
        .unwrap_or_default();
    if !arguments.scope.is_empty() {
        config.agent.scope = arguments.scope.iter().map(ToString::to_string).collect();
    }
    if let Some(path) = &arguments.fingerprint_key {
        config.agent.fingerprint_key = Some(path.clone());
    }
    if let Some(output) = arguments.output {
        config.stdout.format = match output {
            Output::Table => Format::Table,
            Output::Ndjson => Format::Ndjson,
            Output::None => Format::None,
        };
    }
    if let Some(path) = &arguments.output_file {
        config.file.path = Some(path.clone());
    }
    Ok(config)
}

/// Why nothing may be observed.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    #[error(
        "no scope: say what may be observed with --scope, or with `scope` in the configuration's section [agent]: \
         cgroup:PATH, unit:NAME, pid:N, container:ID or host"
    )]
    None,
    #[error("scope: {0}")]
    Unusable(#[from] scope::Error),
}

pub fn scopes(config: &Config) -> Result<Vec<Scope>, ScopeError> {
    if config.agent.scope.is_empty() {
        return Err(ScopeError::None);
    }
    let scopes = config.agent.scope.iter().map(|text| Ok(text.parse()?));
    scopes.collect()
}

/// What only a person can mend, in what they wrote: it is no use to start again.
pub fn is_misuse(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<ScopeError>() || cause.is::<config::Error>() || cause.is::<StoreError>()
    })
}

/// The keys of the file, or one for this run.
pub fn keyring(config: &Config) -> anyhow::Result<Arc<Keyring>> {
    let keyring = match &config.agent.fingerprint_key {
        Some(path) => Keyring::load(path)?,
        None => {
            tracing::warn!(
                "no fingerprint key: one is made for this run, and its fingerprints join with nothing; \
                 `tokentrail-agent keygen FILE` makes one to keep"
            );
            Keyring::ephemeral()?
        }
    };
    anyhow::ensure!(
        keyring.current(now_unix()).is_some(),
        "no fingerprint key is valid now"
    );
    Ok(Arc::new(keyring))
}

pub fn probe_options(config: &Config, forced: Option<Rung>) -> probes::Options {
    let configured = match config.capture.hook {
        Hook::Auto => None,
        Hook::Fentry => Some(Rung::Tracing),
        Hook::RawTracepoint => Some(Rung::Tracepoints),
    };
    probes::Options {
        rung: forced.or(configured),
        ring_bytes: config.capture.ring_bytes.get() as u32,
        copy_bytes: config.capture.turn_bytes.get() as u32,
        connections: config.limits.connections.get() as u32,
    }
}

pub fn limits(config: &Config) -> Limits {
    let milliseconds = |number: u64| number * 1_000_000;
    let limits = &config.limits;
    let connection_bytes = limits.connection_bytes.size();
    Limits {
        connections: NonZeroUsize::new(limits.connections.size()).unwrap_or(NonZeroUsize::MIN),
        total_bytes: limits.total_bytes.size(),
        flow: FlowLimits {
            bytes: connection_bytes / 2,
            wait: milliseconds(limits.order_wait_ms.get()),
            ..FlowLimits::default()
        },
        http: h1::Limits {
            head: limits.head_bytes.size(),
            body_prefix: limits.body_bytes.size(),
            queued: connection_bytes,
            ..h1::Limits::default()
        },
        tls: tls::SessionLimits {
            waiting: connection_bytes / 4,
            wait: milliseconds(limits.secret_wait_ms.get()),
            ..tls::SessionLimits::default()
        },
        response_wait: milliseconds(limits.response_wait_seconds.get() * 1_000),
    }
}

pub fn credential(config: &Config) -> credential::Config {
    let section = config.credential.clone();
    credential::Config {
        extra_headers: section.extra_headers,
        cookies: section.cookies,
        basic_passwords: section.basic_passwords,
        short_keys: section.short_keys,
    }
}

pub fn identity(config: &Config) -> identity::Options {
    let section = &config.identity;
    let mut options = identity::Options::new(credential::redact::command_line);
    options.running = section.processes.size();
    options.grace = Duration::from_secs(section.ended_seconds.get());
    options.hash_wait = Duration::from_millis(section.hash_wait_ms.get());
    options.hash.enabled = section.hash_executables;
    options.hash.file_bytes = section.hash_file_bytes.get();
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(scope: &[&str]) -> Result<Vec<Scope>, ScopeError> {
        let mut config = Config::default();
        config.agent.scope = scope.iter().map(ToString::to_string).collect();
        scopes(&config)
    }

    #[test]
    fn what_a_person_must_mend_is_told_from_what_may_pass() {
        for scope in [&[][..], &["hosts"], &["host", "pid:x"]] {
            let error = anyhow::Error::from(named(scope).unwrap_err());
            assert!(is_misuse(&error.context("somewhere")), "{scope:?}");
        }
        let file = config::load(std::path::Path::new("/no/such/file")).unwrap_err();
        assert!(is_misuse(&file.into()));
        let key = Keyring::load(std::path::Path::new("/no/such/file"))
            .err()
            .unwrap();
        assert!(is_misuse(&key.into()));
        assert!(!is_misuse(&anyhow::anyhow!("the kernel says no")));
        assert_eq!(named(&["host", "unit:a.service"]).unwrap().len(), 2);
    }
}
