//! Temporary.
use super::{
    keylog::{Finder, Found, cache::FileState},
    owner::Owner,
};
use std::{
    fs::File,
    sync::{
        Arc,
        mpsc::{Sender, channel},
    },
};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Prompt,
    Ahead,
}

pub struct Job {
    pub token: u64,
    pub owner: Owner,
    pub class: Class,
    pub open: Box<dyn FnOnce() -> std::io::Result<File> + Send>,
}

pub struct Searched {
    pub token: u64,
    pub state: Option<FileState>,
    pub outcome: Result<Arc<Found>, String>,
    pub code_start: Option<u64>,
    pub cacheable: bool,
    pub file: Option<File>,
}

pub struct Searches(Sender<Job>);

impl Searches {
    pub fn new(mut finder: Finder, done: impl Fn(Searched) + Send + Sync + 'static) -> Self {
        let (sender, receiver) = channel::<Job>();
        std::thread::spawn(move || {
            for job in receiver {
                let file = (job.open)();
                let (file, outcome) = match file {
                    Ok(file) => {
                        let o = finder
                            .look_at_file(&file)
                            .map(Arc::new)
                            .map_err(|e| e.to_string());
                        (Some(file), o)
                    }
                    Err(error) => (None, Err(error.to_string())),
                };
                let state = file.as_ref().and_then(|f| FileState::of(f).ok());
                let code_start = file.as_ref().and_then(code_start);
                done(Searched {
                    token: job.token,
                    state,
                    outcome,
                    code_start,
                    cacheable: true,
                    file,
                });
            }
        });
        Self(sender)
    }
    pub fn ask(&self, job: Job) {
        let _ = self.0.send(job);
    }
    pub fn waiting(&self) -> usize {
        0
    }
}

fn code_start(file: &File) -> Option<u64> {
    use std::os::unix::fs::FileExt;
    let mut h = [0u8; 64];
    file.read_exact_at(&mut h, 0).ok()?;
    let phoff = u64::from_le_bytes(h[32..40].try_into().ok()?);
    let n = u16::from_le_bytes(h[56..58].try_into().ok()?);
    let mut least = None;
    for i in 0..n.min(128) {
        let mut p = [0u8; 56];
        file.read_exact_at(&mut p, phoff + u64::from(i) * 56).ok()?;
        let (t, f) = (
            u32::from_le_bytes(p[0..4].try_into().ok()?),
            u32::from_le_bytes(p[4..8].try_into().ok()?),
        );
        let v = u64::from_le_bytes(p[16..24].try_into().ok()?);
        if t == 1 && f & 1 != 0 {
            least = Some(least.map_or(v, |l: u64| l.min(v)));
        }
    }
    least
}
