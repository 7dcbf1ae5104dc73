//! Stderr, whose reader may stop reading without closing it. Normally the program waits for the reader; when it is
//! about to end, it does not.

use std::io::{self, IsTerminal, Stderr, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

/// Interval for checking whether the program is about to end.
const PAUSE: Duration = Duration::from_millis(50);

static HURRIES: AtomicBool = AtomicBool::new(false);
/// Started with the first text.
static WRITER: Mutex<Option<Writer>> = Mutex::new(None);

/// From now on drops what cannot be written soon, because the program is about to end.
pub(crate) fn hurry() {
    HURRIES.store(true, Ordering::SeqCst);
}

#[expect(clippy::disallowed_methods, reason = "everything else goes through here")]
fn stderr() -> Stderr {
    io::stderr()
}

/// Whether stderr is a terminal.
pub(crate) fn is_terminal() -> bool {
    stderr().is_terminal()
}

/// Columns and rows of the terminal, if it is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let (width, height) = terminal_size::terminal_size_of(stderr())?;
    Some((width.0, height.0))
}

/// Writes without waiting for text in progress, which a panic may have interrupted.
pub(super) fn write_at_once(text: &str) {
    // There is nobody left to report an error to.
    let _ = stderr().write_all(text.as_bytes());
}

/// Writes, waiting for the reader until [`hurry`] is called. Foreign text must be escaped already.
pub(crate) fn write(text: &[u8]) -> io::Result<()> {
    let mut writer = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    if writer.is_none() {
        *writer = Writer::start().ok();
    }
    match &mut *writer {
        Some(writer) => writer.write(text),
        None => stderr().write_all(text),
    }
}

/// A writer thread: only it blocks when nobody reads. Nothing can tell in advance whether a terminal will accept a
/// whole line.
struct Writer {
    texts: Sender<Vec<u8>>,
    written: Receiver<io::Result<()>>,
    /// Whether it is still writing a text.
    is_busy: bool,
}

impl Writer {
    fn start() -> io::Result<Self> {
        let (texts, to_write) = channel::<Vec<u8>>();
        let (done, written) = channel();
        Builder::new().name("stderr".to_owned()).spawn(move || {
            for text in to_write {
                if done.send(stderr().write_all(&text)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { texts, written, is_busy: false })
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        // One more pause for a slow reader, none for one that ignored the previous text.
        let patience = if HURRIES.load(Ordering::SeqCst) { Duration::ZERO } else { PAUSE };
        self.wait(patience)?;
        if self.is_busy || self.texts.send(text.to_vec()).is_err() {
            return Ok(());
        }
        self.is_busy = true;
        self.wait(PAUSE)
    }

    /// Waits until the text is written, or the time is over.
    fn wait(&mut self, patience: Duration) -> io::Result<()> {
        while self.is_busy {
            match self.written.recv_timeout(patience) {
                Ok(written) => {
                    self.is_busy = false;
                    return written;
                }
                Err(RecvTimeoutError::Timeout) if !HURRIES.load(Ordering::SeqCst) => {}
                Err(_) => break,
            }
        }
        Ok(())
    }
}
