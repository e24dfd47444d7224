//! The watch: starts the keeper, hears that it lives, ends it by force if it does not, and starts it anew.
//!
//! It holds nothing that is attached, has one thread, and reads nothing but single bytes of its own child: there is
//! little that could stop it. If it is ended, the kernel ends the keeper with it. The agent's end does not: the keeper
//! sees it and gives up everything in the right order, which the kernel does not promise.
//!
//! Invariant: no keeper is started before the agent is told of the end of the one before.

use super::{
    Programs, Way, calls,
    channel::{self, Order, Report, hear, tell},
    hold::{self, HOLDING, Hold, timespec},
    shard::Tools,
    trial::{self, Trial},
};
use crate::{
    kernel::bare,
    privilege::{capabilities, keeper, lockdown},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, fcntl_setfl},
    io::Errno,
    net::{RecvFlags, SendFlags},
    process::{
        Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getpid, getrlimit, kill_process,
        setpriority_process, setrlimit, waitpid,
    },
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

/// Half of the time without a beat after which the keeper is ended. Two halves, because after the whole system was
/// stopped both begin at once, and the first wait is over then.
const MISSED: Duration = Duration::from_millis(25);
/// A keeper that has lived for so long is started anew at once when it ends; sooner, each time after twice the pause.
const STEADY: Duration = Duration::from_secs(10);
const PAUSE_LEAST: Duration = Duration::from_millis(100);
const PAUSE_MOST: Duration = Duration::from_secs(60);

/// The hidden command `keeper`: the agent's socket is standard input. Returns when the agent has gone.
pub fn run() -> ExitCode {
    let stdin = io::stdin();
    let socket = stdin.as_fd();
    let report = match begin(socket) {
        Ok(Some((programs, trial))) => match watch(socket, programs, trial) {
            Ok(code) => return code,
            Err(error) => error.to_string(),
        },
        // The agent has gone.
        Ok(None) => return ExitCode::SUCCESS,
        Err(why) => why,
    };
    // Where it cannot be told, the agent sees the end of this process.
    let _ = tell(socket, &Report::Failed(report), &[], SendFlags::DONTWAIT);
    ExitCode::FAILURE
}

/// Takes the programs, tries what works, and gives up what is not needed for it.
fn begin(socket: std::os::fd::BorrowedFd<'_>) -> Result<Option<(Programs, Trial)>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    bare::ignore_stop_signals().map_err(|error| text(&error))?;
    let (heard, descriptors) = match hear(socket, RecvFlags::empty()) {
        Err(channel::Error::Gone) => return Ok(None),
        heard => heard.map_err(|error| text(&error))?,
    };
    let order = heard.read().map_err(|error| text(&error))?;
    let Order::Begin {
        perf,
        multi,
        no_multi,
    } = order
    else {
        return Err("the first order is another one".to_owned());
    };
    if descriptors.len() != perf.len() + multi.len() {
        return Err("the first order has not as many descriptors as programs".to_owned());
    }
    let mut descriptors = descriptors.into_iter();
    let perf = perf.into_iter().zip(descriptors.by_ref()).collect();
    let multi = multi.into_iter().zip(descriptors).collect();
    let mut trial = trial::make(no_multi.clone())?;
    trial.facts.weaker = confine(&trial)?;
    Ok(Some((
        Programs {
            perf,
            multi,
            no_multi,
        },
        trial,
    )))
}

fn confine(trial: &Trial) -> Result<Vec<String>, String> {
    let mut weaker = Vec::new();
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        weaker.push(format!("the keeper's limit of open files stays: {error}"));
    }
    let _ = rustix::thread::set_name(c"keeper-watch");
    if let Err(error) = calls::be_urgent() {
        weaker.push(format!("the keeper is no real-time process: {error}"));
        if let Err(error) = setpriority_process(None, -20) {
            weaker.push(format!("the keeper goes before nobody: {error}"));
        }
    }
    calls::block_signals().map_err(|error| error.to_string())?;
    weaker.extend(lockdown::keeper(trial.kept).map_err(|error| error.to_string())?);
    keeper::watch_filter().map_err(|error| error.to_string())?;
    Ok(weaker)
}

fn watch(
    socket: std::os::fd::BorrowedFd<'_>,
    programs: Programs,
    trial: Trial,
) -> io::Result<ExitCode> {
    let tools = Arc::new(Tools {
        way: trial.facts.way,
        programs: match trial.facts.way {
            Way::Multi => programs.multi,
            Way::Perf => programs.perf,
        },
        event: trial.event,
        memory: trial.memory,
    });
    let own = getpid();
    let mut pause = Duration::ZERO;
    let mut generation = 0;
    loop {
        generation += 1;
        let (beats, beating) = io::pipe()?;
        let (beats, beating) = (OwnedFd::from(beats), OwnedFd::from(beating));
        fcntl_setfl(&beating, OFlags::NONBLOCK)?;
        let born = Instant::now();
        let how = match calls::fork() {
            Ok(None) => {
                drop(beats);
                let hold = Hold {
                    socket,
                    beats: beating,
                    generation,
                    tools,
                };
                return Ok(keep(hold, &trial, own));
            }
            Ok(Some(child)) => {
                drop(beating);
                follow(child, &beats, socket)?
            }
            Err(error) => format!("it cannot be started: {error}"),
        };
        if !died(socket, generation, how) {
            return Ok(ExitCode::SUCCESS);
        }
        pause = if born.elapsed() >= STEADY {
            Duration::ZERO
        } else {
            (pause * 2).clamp(PAUSE_LEAST, PAUSE_MOST)
        };
        if is_gone_after(socket, pause) {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// The keeper, in the child.
fn keep(hold: Hold<'_>, trial: &Trial, watch: Pid) -> ExitCode {
    let _ = rustix::thread::set_name(c"keeper");
    let ready = Report::Ready {
        generation: hold.generation,
        pid: getpid().as_raw_nonzero().get().cast_unsigned(),
        facts: trial.facts.clone(),
    };
    let begun = capabilities::set_effective(capabilities::permitted().unwrap_or(trial.kept))
        .map_err(|error| error.to_string())
        .and_then(|()| bare::end_with(Some(watch)).map_err(|error| error.to_string()))
        .and_then(|there| match there {
            true => keeper::filter().map_err(|error| error.to_string()),
            false => Err("its watch has ended".to_owned()),
        });
    if let Err(error) = begun {
        eprintln!("tokentrail-agent: the keeper cannot begin: {error}");
        return ExitCode::FAILURE;
    }
    match hold::hold(hold, ready) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tokentrail-agent: the keeper ends: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Until that keeper has ended, by itself or by force; says how.
fn follow(child: Pid, beats: &OwnedFd, socket: std::os::fd::BorrowedFd<'_>) -> io::Result<String> {
    let mut holding = false;
    let mut missed = 0;
    let mut listening = true;
    let overdue = loop {
        let wait = holding.then(|| timespec(MISSED));
        let mut asked = vec![PollFd::new(beats, PollFlags::IN)];
        if listening {
            asked.push(PollFd::from_borrowed_fd(socket, PollFlags::empty()));
        }
        match poll(&mut asked, wait.as_ref()) {
            Err(Errno::INTR) => continue,
            ready => ready?,
        };
        let beaten = !asked[0].revents().is_empty();
        // The keeper sees it, too, and gives up all that it holds; it is watched until that is done.
        listening = asked.get(1).is_some_and(|one| one.revents().is_empty());
        if beaten {
            missed = 0;
            let mut bytes = [0; 4096];
            match rustix::io::read(beats, &mut bytes) {
                Ok(0) => break false,
                Ok(read) => holding = bytes[read - 1] == HOLDING,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(error) => return Err(error.into()),
            }
        } else if holding && is_over(&asked) {
            missed += 1;
            if missed == 2 {
                break true;
            }
        }
    };
    if overdue {
        kill_process(child, Signal::KILL)?;
    }
    let status = loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            waited => break waited?.map(|(_, status)| status),
        }
    };
    Ok(if overdue {
        format!("it gave no sign of life for {} ms", 2 * MISSED.as_millis())
    } else {
        ended(status)
    })
}

/// The wait is over, and was not ended by anything.
fn is_over(asked: &[PollFd<'_>]) -> bool {
    asked.iter().all(|one| one.revents().is_empty())
}

fn ended(status: Option<WaitStatus>) -> String {
    let Some(status) = status else {
        return "it ended".to_owned();
    };
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("it ended with status {code}"),
        (_, Some(signal)) => format!("signal {signal} ended it"),
        _ => "it ended".to_owned(),
    }
}

/// Tells the agent; false if it has gone.
fn died(socket: std::os::fd::BorrowedFd<'_>, generation: u64, how: String) -> bool {
    let report = Report::Died { generation, how };
    loop {
        match tell(socket, &report, &[], SendFlags::DONTWAIT) {
            Ok(()) => return true,
            Err(channel::Error::Full) => {
                // An agent that is stopped needs no other keeper before it goes on.
                let mut asked = [PollFd::from_borrowed_fd(socket, PollFlags::OUT)];
                let _ = poll(&mut asked, None);
            }
            Err(_) => return false,
        }
        if channel::is_closed(socket) {
            return false;
        }
    }
}

fn is_gone_after(socket: std::os::fd::BorrowedFd<'_>, pause: Duration) -> bool {
    let mut asked = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    let _ = poll(&mut asked, Some(&timespec(pause)));
    channel::is_closed(socket)
}
