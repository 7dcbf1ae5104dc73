//! Stderr, which whoever reads it may stop to read without closing it. A program that goes on waits for them, as any does; one
//! that is to end does not.

use std::io::{self, IsTerminal, Stderr, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;
use std::time::Duration;

/// Between two looks whether the program is to end.
const PAUSE: Duration = Duration::from_millis(50);

static HURRIES: AtomicBool = AtomicBool::new(false);
/// Started with the first text.
static WRITER: Mutex<Option<Writer>> = Mutex::new(None);

/// From now on what cannot be written soon is dropped: the program is to end.
pub(crate) fn hurry() {
    HURRIES.store(true, Ordering::SeqCst);
}

#[expect(clippy::disallowed_methods, reason = "everything else goes through here")]
fn stderr() -> Stderr {
    io::stderr()
}

/// Whether a terminal shows it.
pub(crate) fn is_terminal() -> bool {
    stderr().is_terminal()
}

/// The columns and rows of the terminal, where there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let (width, height) = terminal_size::terminal_size_of(stderr())?;
    Some((width.0, height.0))
}

/// Writes without waiting for what is being written, which a panic may have left behind.
pub(super) fn write_at_once(text: &str) {
    // There is nobody left to tell.
    let _ = stderr().write_all(text.as_bytes());
}

/// Writes, and waits for who reads as long as the program does not [`hurry`]. What is not ours is escaped already.
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

/// A thread that writes: it alone is held up where nobody reads. Whether a terminal takes a whole line cannot be asked.
struct Writer {
    texts: Sender<Vec<u8>>,
    written: Receiver<io::Result<()>>,
    /// Whether it has a text that it has not written.
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
        // One more pause for who is slow, and none for who did not read what came before.
        let patience = if HURRIES.load(Ordering::SeqCst) { Duration::ZERO } else { PAUSE };
        self.wait(patience)?;
        if self.is_busy || self.texts.send(text.to_vec()).is_err() {
            return Ok(());
        }
        self.is_busy = true;
        self.wait(PAUSE)
    }

    /// Waits until it has written what it has, or nobody will read that soon.
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
