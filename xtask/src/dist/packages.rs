//! What is packaged: for each package its words, and what lies where.

/// Where a file of a package comes from.
pub enum Origin {
    /// Below `dist`.
    Dist(&'static str),
    /// Below the folder of what the program says about itself.
    Documents(&'static str),
    /// Below `packaging`.
    Packaging(&'static str),
}

use Origin::{Dist, Documents, Packaging};

/// A package's table. Its maintainer scripts lie in `packaging/debian/NAME`; its man pages are all of its documents'.
pub struct Package {
    /// Of the program, its unit and the package.
    pub name: &'static str,
    pub summary: &'static str,
    /// Lines; an empty one parts paragraphs.
    pub description: &'static [&'static str],
    /// The newest glibc that the program may need.
    pub glibc: &'static str,
    /// Of the configuration, below `packaging`; it lies in `dist`, too.
    pub example: &'static str,
    /// From where, to where, with which mode.
    pub files: &'static [(Origin, &'static str, u32)],
}

pub const AGENT: Package = Package {
    name: "tokentrail-agent",
    summary: "which process used which API token",
    description: &[
        "An audit trail of API tokens for this host: which process used which token, against",
        "what, and what came of it. Without a change to any program, and no token is ever kept:",
        "only its fingerprint.",
        "",
        "It observes what its configuration names as scope, and does not start without one.",
        "Linux 6.1 or later with BTF.",
    ],
    // Where the symbol versions of threads and of the start of a program changed last, so that what is linked on Debian
    // 12 needs it and no newer one.
    glibc: "2.34",
    example: "agent.example.toml",
    files: &[
        (Dist("tokentrail-agent"), "usr/bin/tokentrail-agent", 0o755),
        (
            Packaging("tokentrail-agent.service"),
            "lib/systemd/system/tokentrail-agent.service",
            0o644,
        ),
        (
            Packaging("tokentrail-agent.sysusers"),
            "usr/lib/sysusers.d/tokentrail-agent.conf",
            0o644,
        ),
        // postinst copies it to /etc/tokentrail.
        (
            Packaging("agent.toml"),
            "usr/share/tokentrail-agent/agent.toml",
            0o644,
        ),
        (
            Packaging("agent.example.toml"),
            "usr/share/doc/tokentrail-agent/examples/agent.toml",
            0o644,
        ),
        (
            Packaging("debian/copyright"),
            "usr/share/doc/tokentrail-agent/copyright",
            0o644,
        ),
        (
            Documents("completions/tokentrail-agent.bash"),
            "usr/share/bash-completion/completions/tokentrail-agent",
            0o644,
        ),
        (
            Documents("completions/_tokentrail-agent"),
            "usr/share/zsh/vendor-completions/_tokentrail-agent",
            0o644,
        ),
        (
            Documents("completions/tokentrail-agent.fish"),
            "usr/share/fish/vendor_completions.d/tokentrail-agent.fish",
            0o644,
        ),
    ],
};

pub const COLLECTOR: Package = Package {
    name: "tokentrail",
    summary: "the audit trail of API tokens",
    description: &[
        "Receives the events of tokentrail-agent, keeps them for months in one folder, and finds a",
        "leaked token's trail: who used it, where, when, and against what. No token is ever kept:",
        "only its fingerprint.",
        "",
        "It needs no privileges and no other service, and listens on loopback only unless it is",
        "told otherwise. The commands that people search with are in it, too.",
    ],
    // The query engine computes with hypot, whose symbol version changed then.
    glibc: "2.35",
    example: "collector.example.toml",
    files: &[
        (Dist("tokentrail"), "usr/bin/tokentrail", 0o755),
        (
            Packaging("tokentrail.service"),
            "lib/systemd/system/tokentrail.service",
            0o644,
        ),
        (
            Packaging("tokentrail.sysusers"),
            "usr/lib/sysusers.d/tokentrail.conf",
            0o644,
        ),
        // postinst copies it to /etc/tokentrail.
        (
            Packaging("collector.toml"),
            "usr/share/tokentrail/collector.toml",
            0o644,
        ),
        (
            Packaging("collector.example.toml"),
            "usr/share/doc/tokentrail/examples/collector.toml",
            0o644,
        ),
        (
            Packaging("debian/copyright"),
            "usr/share/doc/tokentrail/copyright",
            0o644,
        ),
        (
            Documents("completions/tokentrail.bash"),
            "usr/share/bash-completion/completions/tokentrail",
            0o644,
        ),
        (
            Documents("completions/_tokentrail"),
            "usr/share/zsh/vendor-completions/_tokentrail",
            0o644,
        ),
        (
            Documents("completions/tokentrail.fish"),
            "usr/share/fish/vendor_completions.d/tokentrail.fish",
            0o644,
        ),
    ],
};
