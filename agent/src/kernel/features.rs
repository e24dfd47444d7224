//! What this kernel allows, probed once.

use std::fmt;

/// How sockets are observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// fentry and fexit on the socket functions: below the system calls, io_uring included.
    Tracing,
    /// Raw tracepoint `sys_exit`.
    Tracepoints,
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tracing => "fentry",
            Self::Tracepoints => "tracepoints",
        })
    }
}

impl std::str::FromStr for Rung {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fentry" => Ok(Self::Tracing),
            "tracepoints" => Ok(Self::Tracepoints),
            _ => Err(format!("unknown rung {text:?}: expected fentry or tracepoints")),
        }
    }
}
