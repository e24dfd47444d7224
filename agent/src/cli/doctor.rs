//! `doctor`: what this host allows, or what a program holds.

use super::DoctorArguments;
use std::process::ExitCode;
use tokentrail_agent::kernel::{
    features::Report,
    keylog::{Cache, Finder, report},
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
    let text = if arguments.json {
        format!("{}\n", serde_json::to_string_pretty(&report)?)
    } else {
        report.text()
    };
    super::print(&text)?;
    Ok(if report.chosen.is_some() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
