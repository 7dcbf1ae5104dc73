//! Stderr, which whoever reads it may stop to read without closing it. A program that goes on waits for them, as any does; one
//! that is to end does not.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a pipe takes at once where it takes anything: POSIX's `PIPE_BUF` of Linux, a multiple of others'.
const PART: usize = 4096;
/// Between two looks whether the program is to end.
const PAUSE: Duration = Duration::from_millis(50);

static HURRIES: AtomicBool = AtomicBool::new(false);
/// Whether something has been dropped: nobody reads.
static IS_UNREAD: AtomicBool = AtomicBool::new(false);

/// From now on what cannot be written soon is dropped: the program is to end.
pub(crate) fn hurry() {
    HURRIES.store(true, Ordering::SeqCst);
}

/// Writes, and waits for who reads as long as the program does not [`hurry`].
pub(super) fn write(bytes: &[u8]) -> io::Result<()> {
    for part in bytes.chunks(PART) {
        if !is_read() {
            return Ok(());
        }
        io::stderr().write_all(part)?;
    }
    Ok(())
}

/// Waits until stderr takes something, or never will.
fn is_read() -> bool {
    loop {
        // One more pause for who is slow, and none for who does not read at all.
        let (hurries, is_unread) = (is_set(&HURRIES), is_set(&IS_UNREAD));
        let pause = if hurries && is_unread { Duration::ZERO } else { PAUSE };
        if takes_within(pause) {
            IS_UNREAD.store(false, Ordering::SeqCst);
            return true;
        }
        if hurries {
            IS_UNREAD.store(true, Ordering::SeqCst);
            return false;
        }
    }
}

fn is_set(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst)
}

#[cfg(unix)]
fn takes_within(pause: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stderr = io::stderr();
    let timeout = Timespec { tv_sec: 0, tv_nsec: pause.as_nanos() as _ };
    let found = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&timeout));
    // A signal is no answer; what cannot be asked is written to.
    match found {
        Err(rustix::io::Errno::INTR) => false,
        found => found.map_or(true, |ready| ready > 0),
    }
}

#[cfg(not(unix))]
fn takes_within(_pause: Duration) -> bool {
    true
}
