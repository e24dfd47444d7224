//! The local Unix socket at which `tokentrail-agent coverage` asks: who connects is sent one [`Snapshot`] as JSON.
//!
//! The pipeline's thread makes the snapshot, between two records; a door's thread waits for it ([`questions`]), so that
//! nobody who asks, or hangs, delays the pipeline.
//!
//! Invariant: only root and the agent's own user are answered: by the socket's mode (0600, from before it has a name), by
//! its folder's, and by the kernel's word for who has connected (`SO_PEERCRED`).

use super::Snapshot;
use rustix::fs::{Mode, fchmod};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};
use rustix::process::geteuid;
use std::fs::{self, DirBuilder};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Where agents have their sockets unless the configuration says otherwise.
pub const FOLDER: &str = "/run/tokentrail";

/// Snapshots asked for and not made yet.
const QUESTIONS: usize = 8;
/// How long one waits for the pipeline, and for the other end of the socket.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest snapshot that is read.
const ANSWER_LIMIT: u64 = 64 * 1024 * 1024;

/// Why there is no door, or nothing behind it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("the folder {0} may be written by others: they could exchange the socket")]
    Folder(PathBuf),
    #[error("{0} is in use by another agent")]
    InUse(PathBuf),
    #[error("no agent answers in {0}: is one running, and are you root?")]
    Nobody(PathBuf),
    #[error("several agents run: choose one by --socket: {0}")]
    Several(String),
    #[error("{path} did not answer with a snapshot: {source}")]
    Answer {
        path: PathBuf,
        source: serde_json::Error,
    },
}

impl Error {
    fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }
}

/// The end of those who ask.
#[derive(Clone)]
pub struct Asker(SyncSender<SyncSender<Snapshot>>);

/// The pipeline's end.
pub struct Asked(Receiver<SyncSender<Snapshot>>);

/// A way to ask for snapshots.
#[must_use]
pub fn questions() -> (Asker, Asked) {
    let (questions, asked) = sync_channel(QUESTIONS);
    (Asker(questions), Asked(asked))
}

impl Asker {
    /// Nothing if the pipeline has ended or has no time.
    #[must_use]
    pub fn ask(&self) -> Option<Snapshot> {
        let (answer, answered) = sync_channel(1);
        self.0.try_send(answer).ok()?;
        answered.recv_timeout(PATIENCE).ok()
    }
}

impl Asked {
    /// Those who wait, if anybody does.
    #[must_use]
    pub fn waiting(&self) -> Option<Waiting> {
        let waiting: Vec<_> = self.0.try_iter().collect();
        (!waiting.is_empty()).then_some(Waiting(waiting))
    }
}

/// Those who wait for a snapshot.
pub struct Waiting(Vec<SyncSender<Snapshot>>);

impl Waiting {
    /// All get the same.
    pub fn answer(self, snapshot: &Snapshot) {
        for answer in self.0 {
            // Whoever has given up waiting has gone.
            let _ = answer.try_send(snapshot.clone());
        }
    }
}

/// The socket; gone when this is dropped.
pub struct Door {
    path: PathBuf,
    inode: u64,
    listener: UnixListener,
}

impl Door {
    /// Makes the socket, with its folder if that is missing.
    ///
    /// # Errors
    /// If the folder is not safe, another agent answers there, or the system refuses.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io(folder)(error));
            }
            _ => {}
        }
        let metadata = fs::metadata(folder).map_err(Error::io(folder))?;
        let sticky = metadata.mode() & 0o1000 != 0;
        if metadata.mode() & 0o022 != 0 && !sticky {
            return Err(Error::Folder(folder.to_owned()));
        }
        if UnixStream::connect(path).is_ok() {
            return Err(Error::InUse(path.to_owned()));
        }
        // Of an agent that was killed.
        let _ = fs::remove_file(path);
        let listener = listener(path).map_err(|error| Error::io(path)(error.into()))?;
        let inode = fs::metadata(path).map_err(Error::io(path))?.ino();
        Ok(Self {
            path: path.to_owned(),
            inode,
            listener,
        })
    }

    /// Answers from a thread of its own, which lives as long as the process.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn serve(&self, asker: Asker) -> Result<(), Error> {
        let listener = self.listener.try_clone().map_err(Error::io(&self.path))?;
        std::thread::Builder::new()
            .name("coverage".into())
            .spawn(move || {
                for stream in listener.incoming().flatten() {
                    if let Err(error) = answer(stream, &asker) {
                        tracing::debug!(%error, "somebody asked for coverage and was not answered");
                    }
                }
            })
            .map_err(Error::io(&self.path))?;
        Ok(())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        // Another agent may have made its own in the meantime.
        if fs::metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn listener(path: &Path) -> rustix::io::Result<UnixListener> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // The file that bind makes takes its mode from the socket (unix_bind_bsd in net/unix/af_unix.c).
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, 8)?;
    Ok(UnixListener::from(socket))
}

fn answer(mut stream: UnixStream, asker: &Asker) -> io::Result<()> {
    let peer = sockopt::socket_peercred(stream.as_fd())?;
    if !peer.uid.is_root() && peer.uid != geteuid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    stream.set_write_timeout(Some(PATIENCE))?;
    let snapshot = asker.ask().ok_or(io::ErrorKind::TimedOut)?;
    stream.write_all(&serde_json::to_vec(&snapshot)?)
}

/// The snapshot of the agent at `socket`; without one, of the only agent that answers in [`FOLDER`].
///
/// # Errors
/// If none answers, or several do.
pub fn ask(socket: Option<&Path>) -> Result<Snapshot, Error> {
    if let Some(path) = socket {
        let stream = UnixStream::connect(path).map_err(Error::io(path))?;
        return read(path, stream);
    }
    let folder = Path::new(FOLDER);
    let entries = fs::read_dir(folder).map_err(|_| Error::Nobody(folder.to_owned()))?;
    let mut found: Vec<(PathBuf, UnixStream)> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter_map(|path| UnixStream::connect(&path).ok().map(|stream| (path, stream)))
        .collect();
    match (found.pop(), found.len()) {
        (Some((path, stream)), 0) => read(&path, stream),
        (Some((path, _)), _) => {
            let paths = found.iter().map(|(path, _)| path).chain([&path]);
            let paths: Vec<String> = paths.map(|path| path.display().to_string()).collect();
            Err(Error::Several(paths.join(", ")))
        }
        (None, _) => Err(Error::Nobody(folder.to_owned())),
    }
}

fn read(path: &Path, stream: UnixStream) -> Result<Snapshot, Error> {
    let mut text = Vec::new();
    stream
        .set_read_timeout(Some(2 * PATIENCE))
        .and_then(|()| stream.take(ANSWER_LIMIT).read_to_end(&mut text))
        .map_err(Error::io(path))?;
    serde_json::from_slice(&text).map_err(|source| Error::Answer {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_common::event::Time;

    fn snapshot() -> Snapshot {
        Snapshot {
            from: Time::now(),
            to: Time::now(),
            scope: vec!["cgroup:/x".into()],
            total: Default::default(),
            rows: Vec::new(),
            sinks: Vec::new(),
            searches: crate::kernel::points::SearchCounts::default(),
            counters: Default::default(),
        }
    }

    /// Answers until the other end of `over` is dropped.
    fn pipeline(
        asked: Asked,
        told: Snapshot,
        over: std::sync::mpsc::Receiver<()>,
    ) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || {
            while over.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                if let Some(waiting) = asked.waiting() {
                    waiting.answer(&told);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    }

    #[test]
    fn who_asks_is_answered_and_the_socket_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run").join("agent.sock");
        let (asker, asked) = questions();
        let door = Door::open(&path).unwrap();
        door.serve(asker).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let told = snapshot();
        let (answers, over) = std::sync::mpsc::channel();
        let thread = pipeline(asked, told.clone(), over);
        assert_eq!(ask(Some(&path)).unwrap(), told);
        assert!(matches!(Door::open(&path), Err(Error::InUse(_))));
        drop(door);
        assert!(!path.exists());
        drop(answers);
        thread.join().unwrap();
    }

    #[test]
    fn a_socket_that_was_left_behind_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        drop(listener(&path).unwrap());
        assert!(path.exists());
        Door::open(&path).unwrap();
    }

    #[test]
    fn a_folder_that_others_may_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(
            folder.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o777),
        )
        .unwrap();
        let opened = Door::open(&folder.path().join("agent.sock"));
        assert!(matches!(opened, Err(Error::Folder(_))));
    }

    #[test]
    fn a_pipeline_that_has_ended_answers_nobody() {
        let (asker, asked) = questions();
        drop(asked);
        assert_eq!(asker.ask(), None);
    }
}
