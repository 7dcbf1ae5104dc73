//! Progress lines at the bottom of the terminal, if stderr is one.
//!
//! A separate thread draws them, so computing threads only update numbers, and a change of the terminal's size shows
//! quickly. The cursor stays at their start: whatever a resize does to the lines is then behind it, and the next
//! drawing clears it.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::line::{Line, Style};
use crate::terminal::stderr;

/// Time between drawings.
const PAUSE: Duration = Duration::from_millis(100);

/// Clears the lines: the first one, then the rest. Not in one sequence, which makes tmux keep them in its history at
/// the top of the screen.
const CLEAR: &str = "\r\x1b[K\x1b[C\x1b[J\r";

/// Its lock serialises writing to stderr.
static SCREEN: Mutex<Screen> = Mutex::new(Screen { style: None, shown: None });

struct Screen {
    /// `None` if nothing may be drawn.
    style: Option<Style>,
    /// The lines on screen.
    shown: Option<Source>,
}

/// Returns the current lines.
type Source = Arc<dyn Fn() -> Vec<Line> + Send + Sync>;

fn screen() -> MutexGuard<'static, Screen> {
    SCREEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Enables drawing, if stderr is a terminal that can move its cursor.
pub(crate) fn allow(style: Style) {
    let is_dumb = std::env::var_os("TERM").is_some_and(|name| name == "dumb");
    if stderr::is_terminal() && !is_dumb {
        screen().style = Some(style);
    }
}

/// Clears the lines for good, before the program ends.
pub(crate) fn end() {
    let mut screen = screen();
    screen.style = None;
    if screen.shown.take().is_some() {
        write(CLEAR);
    }
}

/// Shows these lines, in place of earlier ones, until the result is dropped.
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

/// Lines on screen.
pub(crate) struct Shown {
    source: Option<Source>,
    /// `None` also if no thread could start: then lines are drawn only with log lines.
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
            // Its result is empty.
            let _ = drawer.join();
        }
    }
}

/// Draws until other lines, or none, are shown.
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

    /// The text that redraws the lines.
    fn drawing(&self) -> String {
        let (Some(style), Some(source)) = (self.style, &self.shown) else { return String::new() };
        let lines = source();
        let (width, height) = stderr::size().unwrap_or((80, 24));
        // Keeps the last column free, because terminals differ in wrapping, and one row for the cursor.
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

/// Errors are ignored: the terminal may be gone.
fn write(text: &str) {
    let _ = stderr::write(text.as_bytes());
}

/// A writer for complete log lines, which appear above the progress lines.
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
