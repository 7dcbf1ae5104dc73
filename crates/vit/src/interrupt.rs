//! Ctrl-C and SIGTERM: they end the program at once, but for a run that is training. That is asked to save itself and to end, is
//! left soon whether it has come to it or not, and at once when asked again.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use crate::failure::{Exit, Failure, HINT, Result};
use crate::progress;
use crate::terminal::{quoted, stderr};

static TRAINING: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);
/// The folder of the run.
static FOLDER: OnceLock<PathBuf> = OnceLock::new();
/// What saves a run that is in the middle of a step.
static SAVE: Mutex<Option<Save>> = Mutex::new(None);
/// Whether all that the run has come to is on the disk.
static SAFE: AtomicBool = AtomicBool::new(false);
static TOLD: Mutex<bool> = Mutex::new(false);
/// How many write files that the program does not leave half done.
static WRITING: Mutex<usize> = Mutex::new(0);
static WRITTEN: Condvar = Condvar::new();

/// What ends a server.
static SERVER: OnceLock<Box<dyn Fn() + Send + Sync>> = OnceLock::new();

/// Saves what there is to be saved, and says whether there was anything.
type Save = Box<dyn Fn() -> Result<bool> + Send>;

/// How long after it was asked to end a run may still take to end by itself.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Launchers pass a signal on that the terminal sends too, and repeat it: of several ranks, within this time it is the same.
const ONE_SIGNAL: Duration = Duration::from_secs(2);

static HAS_OTHERS: AtomicBool = AtomicBool::new(false);
/// A rank that is not the first waits longer: rank 0 may still write the checkpoint, and the launcher would take a rank that
/// leaves for one that fails. Once rank 0 has left, the launcher ends the others.
const PATIENCE_WITH_RANK_0: Duration = Duration::from_secs(30);
static FOLLOWS: AtomicBool = AtomicBool::new(false);
/// How long the program waits for whoever reads what it says last.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Listens from now on.
///
/// # Errors
/// If the system refuses.
pub(crate) fn listen() -> Result<()> {
    let begun = Mutex::new(None);
    let on_signal = move || {
        let is_first = !ASKED.swap(true, Ordering::SeqCst);
        let since = *locked(&begun).get_or_insert_with(Instant::now);
        if !is_first && HAS_OTHERS.load(Ordering::SeqCst) && since.elapsed() < ONE_SIGNAL {
            return;
        }
        stderr::hurry();
        // Who serves and does not train ends once all is answered, or at once when asked again.
        if is_first && let Some(stop) = SERVER.get() {
            stop();
            if !TRAINING.load(Ordering::SeqCst) {
                return;
            }
        }
        let waits = is_first && TRAINING.load(Ordering::SeqCst);
        if !waits || Builder::new().name("leaver".to_owned()).spawn(leave_soon).is_err() {
            leave();
        }
    };
    let on_signal = std::sync::Arc::new(on_signal);
    let on_ctrl_c = std::sync::Arc::clone(&on_signal);
    ctrlc::set_handler(move || on_ctrl_c()).map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot listen for Ctrl-C: {error}"))
    })?;
    listen_to_schedulers(move || on_signal())?;
    outlive_limits()
}

/// Slurm sends SIGUSR1 some time before a job's limit, where `--signal` asks for it.
#[cfg(unix)]
fn listen_to_schedulers(on_signal: impl Fn() + Send + 'static) -> Result<()> {
    let cannot = |error: std::io::Error| {
        Failure::new(Exit::Internal, format!("cannot listen for SIGUSR1: {error}"))
    };
    let signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGUSR1]);
    let mut signals = signals.map_err(cannot)?;
    let listen = move || signals.forever().for_each(|_| on_signal());
    Builder::new().name("scheduler".to_owned()).spawn(listen).map(drop).map_err(cannot)
}

#[cfg(not(unix))]
fn listen_to_schedulers(_on_signal: impl Fn() + Send + 'static) -> Result<()> {
    Ok(())
}

/// From now on this process ends as one of several, with this rank.
#[cfg_attr(not(feature = "mpi"), allow(dead_code, reason = "without ranks there is one process"))]
pub(crate) fn is_rank(rank: usize) {
    HAS_OTHERS.store(true, Ordering::SeqCst);
    FOLLOWS.store(rank > 0, Ordering::SeqCst);
}

/// Another rank was asked to end the run.
pub(crate) fn ask() {
    ASKED.store(true, Ordering::SeqCst);
}

/// A file that reaches the limit set for its size is to be an error of its write, and not the end of the program, which
/// would leave the file behind.
#[cfg(unix)]
fn outlive_limits() -> Result<()> {
    let heard = std::sync::Arc::new(AtomicBool::new(false));
    let registered = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, heard);
    registered.map(drop).map_err(|error| {
        Failure::new(Exit::Internal, format!("cannot listen for SIGXFSZ: {error}"))
    })
}

#[cfg(not(unix))]
fn outlive_limits() -> Result<()> {
    Ok(())
}

/// From now on there is a run that looks at [`asked`] after every step.
pub(crate) fn training_begins() {
    TRAINING.store(true, Ordering::SeqCst);
}

/// The run that trains is in this folder, and what [`save_at_once`] does.
pub(crate) fn trains_in(folder: &Path, save: impl Fn() -> Result<bool> + Send + 'static) {
    // Another run there is not.
    let _ = FOLDER.set(folder.to_owned());
    *locked(&SAVE) = Some(Box::new(save));
}

/// From now on there is a server, which this ends.
pub(crate) fn serves(stop: impl Fn() + Send + Sync + 'static) {
    // Another server there is not.
    let _ = SERVER.set(Box::new(stop));
}

/// Whether the run should end.
pub(crate) fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}

/// Saves what is held ready for that. It is done when the program is asked to end; who holds something ready after that does it
/// itself.
pub(crate) fn save_at_once() {
    let save = locked(&SAVE);
    match save.as_ref().map_or(Ok(false), |save| save()) {
        Ok(true) => is_safe(),
        Ok(false) => {}
        Err(failure) => tracing::warn!("{}", failure.message()),
    }
}

/// All that the run has come to is on the disk, and no more will come.
pub(crate) fn is_safe() {
    SAFE.store(true, Ordering::SeqCst);
}

/// The run goes on, and what comes is not saved yet.
pub(crate) fn is_unsafe() {
    SAFE.store(false, Ordering::SeqCst);
}

/// Says, once, that the run was interrupted, and how it goes on.
pub(crate) fn tell() {
    let Some(folder) = FOLDER.get() else { return };
    let mut told = locked(&TOLD);
    if std::mem::replace(&mut *told, true) {
        return;
    }
    let shown = folder.display();
    if SAFE.load(Ordering::SeqCst) {
        tracing::warn!("interrupted; the model so far is in {shown}");
    } else {
        tracing::warn!("interrupted in the middle of a step; {shown} is as it was last saved");
    }
    tracing::warn!(target: HINT, "go on with `vit train --resume {}`", quoted(folder));
}

/// Saves what can be saved at once, leaves the run the time to do better, and ends the program, but not while it is [`Writing`].
fn leave_soon() {
    let since = Instant::now();
    save_at_once();
    let patience = if FOLLOWS.load(Ordering::SeqCst) { PATIENCE_WITH_RANK_0 } else { PATIENCE };
    std::thread::sleep(patience.saturating_sub(since.elapsed()));
    let writing = locked(&WRITING);
    // Held to the end: nothing else begins.
    let _writing =
        WRITTEN.wait_while(writing, |writing| *writing > 0).unwrap_or_else(PoisonError::into_inner);
    briefly(tell);
    leave();
}

fn leave() -> ! {
    briefly(progress::end);
    // Last, since a thread that still writes waits from then on.
    briefly(vit_files::remove_temporaries);
    std::process::exit(Exit::Interrupted as i32);
}

/// Does what may wait for ever, such as for whoever reads stderr.
fn briefly(what: fn()) {
    let (done, is_done) = channel();
    let thread = Builder::new().name("last words".to_owned()).spawn(move || {
        what();
        // Nobody may wait for it any more.
        let _ = done.send(());
    });
    if thread.is_ok() {
        // If it is not done by then, it never is.
        let _ = is_done.recv_timeout(LAST_WORDS);
    }
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until it is dropped, something is being written that an asked-for end waits for; unless it is asked for again.
pub(crate) struct Writing(());

impl Writing {
    pub(crate) fn begin() -> Self {
        *locked(&WRITING) += 1;
        Self(())
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        *locked(&WRITING) -= 1;
        WRITTEN.notify_all();
    }
}

/// Writes something that an asked-for end waits for.
pub(crate) fn writing<T>(write: impl FnOnce() -> T) -> T {
    let _writing = Writing::begin();
    write()
}
