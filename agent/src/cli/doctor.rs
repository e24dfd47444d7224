//! `doctor`: what this host allows, or what a program holds.

use super::DoctorArguments;
use std::process::ExitCode;
use tokentrail_agent::{
    kernel::{
        features::Report,
        keylog::{Cache, Finder, report},
    },
    privilege::lockdown::{self, Available},
};

pub fn doctor(arguments: &DoctorArguments) -> anyhow::Result<ExitCode> {
    if let Some(program) = &arguments.program {
        let report = report::of_program(program, &mut Finder::new(Cache::in_memory()));
        let text = if arguments.json {
            format!("{:#}\n", report.json())
        } else {
            report.text()
        };
        super::print(&text)?;
        return Ok(if report.is_read() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        });
    }
    let report = Report::make();
    let available = lockdown::available();
    let text = if arguments.json {
        let mut report = serde_json::to_value(&report)?;
        report["least_privilege"] = serde_json::to_value(&available)?;
        format!("{report:#}\n")
    } else {
        least_privilege(&available) + &report.text()
    };
    super::print(&text)?;
    Ok(if report.chosen.is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Rows like those of the report, before them: its last one is the verdict.
fn least_privilege(available: &Available) -> String {
    let seccomp = if available.seccomp {
        "available: both processes are limited to the system calls that they need".to_owned()
    } else {
        "NO".to_owned()
    };
    let landlock = match available.landlock_abi {
        Some(abi) => format!("ABI {abi}: the worker's files and connections are limited"),
        None => "NO".to_owned(),
    };
    let mut text = format!(
        "{:<18} {seccomp}\n{:<18} {landlock}\n",
        "seccomp", "landlock"
    );
    for what in &available.weaker {
        text.push_str(&format!("{:<18} weaker: {what}\n", ""));
    }
    text
}
