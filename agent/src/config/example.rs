//! The example configuration, kept as `packaging/agent.example.toml`.
//!
//! Invariant: it parses to the defaults, as it is and with every line that sets a key uncommented.

use super::Config;

const HEAD: &str = "\
# Every key of tokentrail-agent's configuration, with its default. What is not said holds as it stands here.
# Where it lies: /etc/tokentrail/agent.toml, or wherever `tokentrail-agent run --config FILE` looks.
# `tokentrail-agent config check FILE` names what is wrong in a file, `config show --config FILE` what holds with it.
# Only root and the agent's own user may be able to write it.
";

impl Config {
    /// As TOML.
    #[must_use]
    pub fn example() -> String {
        agent_common::config::example(HEAD, &Self::default().sections())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_copy_in_packaging_is_fresh() {
        // `UPDATE_EXPECT=1 cargo test -p agent --lib example` writes it.
        expect_test::expect_file!["../../../packaging/agent.example.toml"]
            .assert_eq(&Config::example());
    }

    #[test]
    fn it_says_the_defaults() {
        let parse = |text: &str| super::super::parse(Path::new("example.toml"), text).unwrap();
        let example = Config::example();
        assert_eq!(parse(&example), Config::default());
        let uncommented: String = example
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        assert_eq!(parse(&uncommented), Config::default());
        assert!(uncommented.contains("\nreport_seconds = 60\n"));
    }

    #[test]
    fn the_package_s_own_configuration_names_no_scope_and_is_good() {
        let text = include_str!("../../../packaging/agent.toml");
        let config = super::super::parse(Path::new("agent.toml"), text).unwrap();
        assert!(config.agent.scope.is_empty());
        assert_eq!(
            config.agent.fingerprint_key.as_deref(),
            Some(Path::new("/etc/tokentrail/key.toml"))
        );
        assert!(
            config
                .file
                .path
                .is_some_and(|path| path.starts_with("/var/log/tokentrail"))
        );
    }
}
