//! Configuration and command line to what `run` runs on.

use super::{Output, RunArguments, keys::now_unix, receivers};
use agent_common::{
    event,
    fingerprint::{Keyring, StoreError},
};
use anyhow::Context as _;
use std::{num::NonZeroUsize, path::PathBuf, sync::Arc, time::Duration};
use tokentrail_agent::{
    config::{self, Config, Format, Hook},
    credential,
    flow::FlowLimits,
    http, identity,
    kernel::{
        features::Rung,
        probes,
        scope::{self, Hierarchy, Scope},
    },
    pipeline::Limits,
    privilege::{
        folders::Allowed,
        lockdown,
        message::{self, Keys, Settings, Tell},
    },
    tls,
};

/// The configuration with what the command line says over it.
pub fn configuration(arguments: &RunArguments) -> anyhow::Result<Config> {
    let mut config = config::load_or_default(arguments.config.as_deref())?;
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

/// What can be parsed, and nothing can be done with.
#[derive(Debug, thiserror::Error)]
pub enum Misuse {
    #[error(
        "no scope: say what may be observed with --scope, or with `scope` in the configuration's section [agent]: \
         cgroup:PATH, unit:NAME, pid:N, container:ID or host"
    )]
    NoScope,
    #[error("scope: {0}")]
    Scope(#[from] scope::Error),
    #[error("the output {output} needs the spool: set `path` in [spool]")]
    NoSpool { output: String },
    #[error("agent.user: no user {name} in {ACCOUNTS}")]
    NoUser { name: String },
}

pub fn scopes(config: &Config) -> Result<Vec<Scope>, Misuse> {
    if config.agent.scope.is_empty() {
        return Err(Misuse::NoScope);
    }
    let scopes = config.agent.scope.iter().map(|text| Ok(text.parse()?));
    scopes.collect()
}

/// What only a person can mend, in what they wrote: it is no use to start again.
pub fn is_misuse(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Misuse>() || cause.is::<config::Error>() || cause.is::<StoreError>()
    })
}

/// The configuration and the text of the key file, for the worker.
///
/// The key file is read and checked here, because the worker may not read it.
pub fn settings(config: &Config) -> anyhow::Result<Settings> {
    let keys = match &config.agent.fingerprint_key {
        Some(path) => {
            let keyring = Keyring::load(path)?;
            valid_now(&keyring)?;
            Some(Keys(keyring.serialize()))
        }
        None => None,
    };
    let config = toml::to_string(config).context("the configuration cannot be written down")?;
    let settings = Settings { config, keys };
    let size = message::encode(&Tell::Reload(settings))?;
    // Twice the work, so that what is too long is refused here and not in the middle of a start.
    match message::decode(&size)? {
        Tell::Reload(settings) => Ok(settings),
        _ => anyhow::bail!("the configuration cannot be written down"),
    }
}

fn valid_now(keyring: &Keyring) -> anyhow::Result<()> {
    anyhow::ensure!(
        keyring.current(now_unix()).is_some(),
        "no fingerprint key is valid now"
    );
    Ok(())
}

/// The keys that the worker was given, or one for this run.
pub fn keyring(keys: Option<&Keys>) -> anyhow::Result<Arc<Keyring>> {
    let keyring = match keys {
        Some(keys) => Keyring::parse(&keys.0)?,
        None => {
            tracing::warn!(
                "no fingerprint key: one is made for this run, and its fingerprints join with nothing; \
                 `tokentrail-agent keygen FILE` makes one to keep"
            );
            Keyring::ephemeral()?
        }
    };
    valid_now(&keyring)?;
    Ok(Arc::new(keyring))
}

/// User and group id of the worker's own user, if it has one.
pub fn account(config: &Config) -> anyhow::Result<Option<(u32, u32)>> {
    let Some(name) = &config.agent.user else {
        return Ok(None);
    };
    let accounts = std::fs::read(ACCOUNTS).context(ACCOUNTS)?;
    let found = identity::user::account(&accounts, name)
        .ok_or_else(|| Misuse::NoUser { name: name.clone() })?;
    Ok(Some(found))
}

const ACCOUNTS: &str = "/etc/passwd";

/// What the C library reads to look up a name (nsswitch.conf(5), resolv.conf(5)): single files, since `/etc` has others.
const RESOLVER: &[&str] = &[
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/ld.so.cache",
    "/lib",
    "/usr/lib",
];

/// What the worker may do with this configuration. `destinations` are those of its receivers.
///
/// A sink that is given a file or a folder needs it here.
pub fn lockdown(
    config: &Config,
    destinations: &[(String, u16)],
    user: Option<(u32, u32)>,
) -> lockdown::Worker {
    let mut read = vec![PathBuf::from("/proc")];
    read.extend(Hierarchy::find().ok().map(|hierarchy| hierarchy.mount));
    let names = receivers::has_name(destinations);
    let mut connect: Vec<u16> = destinations.iter().map(|(_, port)| *port).collect();
    if names {
        read.extend(RESOLVER.iter().map(PathBuf::from));
        // Answers that are too long for UDP.
        connect.push(53);
    }
    let folder = |path: &PathBuf| match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => ".".into(),
        Some(parent) => parent.to_owned(),
        None => path.clone(),
    };
    lockdown::Worker {
        user,
        allowed: Allowed {
            read,
            // The socket is removed at the end.
            write: [&config.file.path, &config.coverage.socket]
                .into_iter()
                .flatten()
                .map(folder)
                .chain(config.spool.path.clone())
                .collect(),
            connect,
        },
        // The spool looks at it again.
        make: config.spool.path.iter().cloned().collect(),
        // The C library may load a name service.
        libraries: names,
    }
}

/// How the events call a rung.
pub fn hook(rung: Rung) -> event::Hook {
    match rung {
        Rung::Tracing => event::Hook::Fentry,
        Rung::Tracepoints => event::Hook::RawTracepoint,
    }
}

pub fn probe_options(config: &Config, forced: Option<Rung>, worker: u32) -> probes::Options {
    let configured = match config.capture.hook {
        Hook::Auto => None,
        Hook::Fentry => Some(Rung::Tracing),
        Hook::RawTracepoint => Some(Rung::Tracepoints),
    };
    probes::Options {
        rung: forced.or(configured),
        ring_bytes: config.capture.ring_bytes.get() as u32,
        copy_bytes: config.capture.turn_bytes.get() as u32,
        multiplexed_bytes: config.capture.multiplexed_bytes.get() as u32,
        connections: config.limits.connections.get() as u32,
        worker: Some(worker),
        tell_made: config.capture.search_ahead,
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
        http: http::Limits {
            head: limits.head_bytes.size(),
            body_prefix: limits.body_bytes.size(),
            queued: connection_bytes,
            ..http::Limits::default()
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

    fn named(scope: &[&str]) -> Result<Vec<Scope>, Misuse> {
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
        let mut config = Config::default();
        config.agent.user = Some("nobody knows them".into());
        assert!(is_misuse(&account(&config).unwrap_err()));
        assert!(!is_misuse(&anyhow::anyhow!("the kernel says no")));
        assert_eq!(named(&["host", "unit:a.service"]).unwrap().len(), 2);
    }
}
