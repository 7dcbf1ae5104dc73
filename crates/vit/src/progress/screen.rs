//! Lines at the foot of the terminal that say how far a command has come, where stderr is a terminal.
//!
//! They are drawn by a thread of their own, so that who computes only leaves numbers for it, and so that they are right
//! soon after the terminal's size has changed. The cursor waits at their start: whatever a terminal makes of them when it is
//! resized then lies behind it, and is cleared by the next drawing.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::line::{Line, Style};
use crate::terminal::stderr;

/// Between two drawings.
const PAUSE: Duration = Duration::from_millis(100);

/// Clears the lines: the first, then all that follows it. Not all at once, which tmux takes at the top of the screen for a
/// wish to keep them in its history.
const CLEAR: &str = "\r\x1b[K\x1b[C\x1b[J\r";

/// Who holds it writes to stderr alone.
static SCREEN: Mutex<Screen> = Mutex::new(Screen { style: None, shown: None });

struct Screen {
    /// None where nothing is to be drawn.
    style: Option<Style>,
    /// What is being shown.
    shown: Option<Source>,
}

/// The lines as they are now.
type Source = Arc<dyn Fn() -> Vec<Line> + Send + Sync>;

fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on what is shown is drawn, if stderr is a terminal that can move its cursor.
pub(crate) fn allow(style: Style) {
    let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
    if stderr::is_terminal() && !is_dumb {
        screen().style = Some(style);
    }
}

/// Clears what is shown, for good: the program is about to end.
pub(crate) fn end() {
    let mut screen = screen();
    screen.style = None;
    if screen.shown.take().is_some() {
        write(CLEAR);
    }
}

/// Shows these lines until what it gives is dropped; in place of those that are being shown.
pub(crate) fn show(lines: impl Fn() -> Vec<Line> + Send + Sync + 'static) -> Shown {
    let mut screen = screen();
    if screen.style.is_none() {
        return Shown { source: None, drawer: None };
    }
    let source: Source = Arc::new(lines);
    screen.shown = Some(Arc::clone(&source));
    drop(screen);
    let drawn = Arc::clone(&source);
    let drawer = thread::Builder::new().name("progress".to_owned()).spawn(move || draw(&drawn));
    Shown { source: Some(source), drawer: drawer.ok() }
}

/// Lines that are being shown.
pub(crate) struct Shown {
    source: Option<Source>,
    /// None also where the system has no thread for it: then they are drawn with log lines alone.
    drawer: Option<JoinHandle<()>>,
}

impl Drop for Shown {
    fn drop(&mut self) {
        let Some(source) = &self.source else { return };
        let mut screen = screen();
        if screen.is_showing(source) {
            screen.shown = None;
            write(CLEAR);
        }
        drop(screen);
        if let Some(drawer) = self.drawer.take() {
            drawer.thread().unpark();
            // It draws, and gives nothing.
            let _ = drawer.join();
        }
    }
}

/// Draws until something else is shown, or nothing.
fn draw(source: &Source) {
    loop {
        let screen = screen();
        if !screen.is_showing(source) {
            return;
        }
        write(&screen.drawing());
        drop(screen);
        thread::park_timeout(PAUSE);
    }
}

impl Screen {
    fn is_showing(&self, source: &Source) -> bool {
        self.shown.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, source))
    }

    /// What draws the lines over those that are there.
    fn drawing(&self) -> String {
        let (Some(style), Some(source)) = (self.style, &self.shown) else { return String::new() };
        let lines = source();
        let (width, height) = stderr::size().unwrap_or((80, 24));
        // The last column stays free, where terminals differ in when they wrap; and one row, for the cursor.
        let lines = lines.iter().take(usize::from(height).saturating_sub(1));
        let texts = lines.map(|line| line.fitted(usize::from(width).saturating_sub(1), style));
        let texts: Vec<String> = texts.collect();
        let back = match texts.len() {
            0 | 1 => String::new(),
            lines => format!("\x1b[{}A", lines - 1),
        };
        format!("\r{}\x1b[J{back}\r", texts.join("\x1b[K\n"))
    }
}

/// Of a terminal that has gone there is nobody left to tell.
fn write(text: &str) {
    let _ = stderr::write(text.as_bytes());
}

/// Stderr, for whole log lines: they go above the lines that are being shown.
pub(crate) struct AboveLines;

impl Write for AboveLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let screen = screen();
        if screen.shown.is_none() {
            stderr::write(bytes)?;
        } else {
            let drawing = screen.drawing();
            stderr::write(&[CLEAR.as_bytes(), bytes, drawing.as_bytes()].concat())?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
