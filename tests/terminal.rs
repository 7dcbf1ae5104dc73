//! Progress bars and log lines in a terminal on stderr.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::files::test_file;
use crate::interrupt::send;
use crate::running::Running;
use crate::support::{Sandbox, json_lines};

/// A pseudo-terminal that records everything written to it.
struct Terminal {
    /// The controlling side, which sets the size.
    controller: OwnedFd,
    written: JoinHandle<Vec<u8>>,
}

/// The controlling side of a new pseudo-terminal, and the programs' side.
fn sides() -> [OwnedFd; 2] {
    let controller =
        openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&controller).unwrap();
    unlockpt(&controller).unwrap();
    let name = ptsname(&controller, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    [controller, open(&name, flags, Mode::empty()).unwrap()]
}

impl Terminal {
    /// A terminal of this width as a command's stderr.
    fn of(command: &mut Command, columns: u16) -> Self {
        let (terminal, side) = Self::new(columns);
        command.stderr(Stdio::from(side)).env("TERM", "xterm-256color");
        terminal
    }

    /// A terminal of this width as a command's stdout.
    fn of_results(command: &mut Command, columns: u16) -> Self {
        let (terminal, side) = Self::new(columns);
        command.stdout(Stdio::from(side));
        terminal
    }

    /// A terminal, with the programs' side.
    fn new(columns: u16) -> (Self, OwnedFd) {
        let [controller, side] = sides();
        let mut reader = File::from(controller.try_clone().unwrap());
        let written = thread::spawn(move || {
            let mut all = Vec::new();
            // Until the last process has closed the terminal, which Linux reports as an error.
            let _ = reader.read_to_end(&mut all);
            all
        });
        let terminal = Self { controller, written };
        terminal.resize(columns);
        (terminal, side)
    }

    fn resize(&self, columns: u16) {
        let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.controller, size).unwrap();
    }

    /// Everything written, once the command has ended and been dropped.
    fn text(self) -> String {
        String::from_utf8(self.written.join().unwrap()).unwrap()
    }
}

/// Trains in a terminal of this width; returns its output.
fn trained(columns: u16, words: &str) -> String {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&format!("train --dataset digits --run-dir run {words}"));
    let terminal = Terminal::of(&mut command, columns);
    let training = Running::start(&mut command);
    drop(command);
    let outcome = training.end().succeeded();
    assert!(outcome.stdout.starts_with("dataset         digits"), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains('\x1b'));
    terminal.text()
}

/// The text without escape sequences.
fn without_escapes(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |sum, part| {
        let end = part.find(|sign: char| sign.is_ascii_alphabetic()).unwrap();
        sum + &part[end + 1..]
    })
}

/// The text between starts of lines.
fn rows(text: &str) -> Vec<String> {
    let plain = without_escapes(text);
    plain.split(['\r', '\n']).filter(|row| !row.is_empty()).map(str::to_owned).collect()
}

const BARS: [&str; 2] = ["run    ━", "epoch  ━"];

#[test]
fn bars_fit_the_terminal_and_disappear_at_the_end() {
    for columns in [80, 40] {
        let text = trained(columns, "--epochs 2");
        let rows = rows(&text);
        for bar in BARS {
            assert!(rows.iter().any(|row| row.starts_with(bar)), "{columns}: {rows:?}");
        }
        // Log lines stay in the scrollback at full length.
        let drawn = rows.iter().filter(|row| row.contains('─') || row.contains('━'));
        for row in drawn {
            assert!(row.chars().count() < columns.into(), "{columns}: {row}");
        }
        for start in ["epoch     loss ", "1/2 ", "2/2 "] {
            let told: Vec<&String> = rows.iter().filter(|row| row.starts_with(start)).collect();
            assert!(told.len() == 1 && told[0].chars().count() <= columns.into(), "{rows:?}");
        }
        let (_, end) = text.rsplit_once('━').unwrap();
        assert!(end.contains("\x1b[J\rnext:"), "the bars stay: {end:?}");
    }
}

#[test]
fn results_fit_the_terminal() {
    let sandbox = Sandbox::new();
    for run in ["runs/a-name-that-is-rather-long-for-a-run", "runs/b"] {
        let words = format!("train --dataset digits --max-steps 2 --run-dir {run}");
        sandbox.run(&words).succeeded();
    }
    for name in ["digit.png", "a-picture-whose-name-is-longer-than-forty-columns.png"] {
        std::fs::copy(test_file("fixtures/digit.png"), sandbox.path(name)).unwrap();
    }
    let commands = [
        ("eval runs/b", "dataset   digits (built in), test images"),
        ("info runs/b", "runs/b/model.safetensors (timm layout)"),
        ("compare runs/a-name-that-is-rather-long-for-a-run runs/b", "run  "),
        ("predict runs/b . --top-k 2", "picture  "),
    ];
    for (columns, (words, first)) in
        [80, 40].into_iter().flat_map(|columns| commands.map(|command| (columns, command)))
    {
        let mut command = sandbox.command(words);
        let terminal = Terminal::of_results(&mut command, columns);
        let shown = Running::start(&mut command);
        drop(command);
        shown.end().succeeded();
        let text = terminal.text();
        assert!(text.starts_with(first), "{columns}: {text}");
        for row in text.lines() {
            let width = row.trim_end().chars().count();
            assert!(width <= columns.into(), "vit {words} in {columns}: {row:?}");
        }
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }
}

#[test]
fn bars_adapt_to_a_resized_terminal() {
    let sandbox = Sandbox::new();
    let words = "train --dataset digits --epochs 1000 --run-dir run";
    let mut command = sandbox.command(words);
    let terminal = Terminal::of(&mut command, 80);
    let mut training = Running::start(&mut command);
    drop(command);
    let metrics = sandbox.path("run/metrics.jsonl");
    training.wait_until(|| metrics.metadata().is_ok_and(|metrics| metrics.len() > 0));
    terminal.resize(40);
    thread::sleep(Duration::from_secs(1));
    send("INT", &mut training);
    assert_eq!(training.end().code, Some(130));
    let text = terminal.text();
    let rows = rows(&text);
    let widths =
        rows.iter().filter(|row| row.starts_with("run    ")).map(|row| row.chars().count());
    let widths: Vec<usize> = widths.collect();
    assert!(widths.contains(&79), "{widths:?}");
    assert!(widths.ends_with(&[39, 39]), "{widths:?}");
    assert!(without_escapes(&text).contains("\rwarning: interrupted; the run is saved in run\r\n"));
    let (_, end) = text.rsplit_once('━').unwrap();
    assert!(end.ends_with("\x1b[J\r"), "the bars stay: {end:?}");
}

#[test]
fn quiet_and_json_logs_have_no_bars() {
    assert_eq!(trained(80, "-q --max-steps 3"), "");
    let text = trained(80, "--log-format json --max-steps 3");
    assert!(!text.contains('\x1b'), "{text:?}");
    assert!(json_lines(text).len() >= 2);
}

#[test]
fn errors_are_json_lines_in_a_terminal_too() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command("--log-format json fetch nothing");
    let terminal = Terminal::of(&mut command, 40);
    let fetching = Running::start(&mut command);
    drop(command);
    assert_eq!(fetching.end().code, Some(3));
    let lines = json_lines(terminal.text());
    let levels: Vec<_> = lines.iter().map(|line| (&line["level"], &line["target"])).collect();
    assert_eq!(levels.len(), 2, "{lines:?}");
    assert_eq!((levels[0].0, levels[1].1), (&"ERROR".into(), &"hint".into()));
}

#[test]
fn no_color_removes_colours_from_bars() {
    for (value, coloured) in [("", true), ("1", false)] {
        let sandbox = Sandbox::new();
        let mut command = sandbox.command("train --dataset digits --max-steps 3 --run-dir run");
        command.env("NO_COLOR", value);
        let terminal = Terminal::of(&mut command, 80);
        let training = Running::start(&mut command);
        drop(command);
        training.end().succeeded();
        let text = terminal.text();
        assert!(rows(&text).iter().any(|row| row.starts_with("run    ")), "{text:?}");
        // Colour sequences end in `m`.
        assert_eq!(text.contains("\x1b[36m"), coloured, "{text:?}");
    }
}

#[test]
fn a_dumb_terminal_gets_no_bars() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command("train --dataset digits --max-steps 3 --run-dir run");
    let terminal = Terminal::of(&mut command, 80);
    command.env("TERM", "dumb");
    let training = Running::start(&mut command);
    drop(command);
    training.end().succeeded();
    let text = terminal.text();
    assert!(text.contains("\n 1/20 "), "{text:?}");
    assert!(!text.contains('\x1b'), "{text:?}");
}

#[test]
fn an_evaluation_shows_progress() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    let mut command = sandbox.command("eval run");
    let terminal = Terminal::of(&mut command, 40);
    let evaluating = Running::start(&mut command);
    drop(command);
    evaluating.end().succeeded();
    let text = terminal.text();
    assert!(rows(&text).iter().any(|row| row.starts_with("testing  ")), "{text:?}");
    assert!(text.ends_with("\x1b[J\r"), "{text:?}");
}

/// The window is closed; the system signals the process that controls the terminal.
#[test]
fn closing_the_terminal_ends_its_run_soon() {
    let sandbox = Sandbox::new();
    let words = "train --dataset digits --epochs 1000 --log-every 1 --run-dir run";
    let mut command = sandbox.command_by("setsid", &["--ctty"], words);
    let [controller, terminal] = sides();
    command.stdin(Stdio::from(terminal.try_clone().unwrap()));
    command.stdout(Stdio::from(terminal.try_clone().unwrap())).stderr(Stdio::from(terminal));
    command.env("TERM", "xterm-256color");
    let mut training = Running::start(&mut command);
    drop(command);
    let metrics = sandbox.path("run/metrics.jsonl");
    training.wait_until(|| metrics.metadata().is_ok_and(|metrics| metrics.len() > 0));
    drop(controller);
    let begun = Instant::now();
    assert_eq!(training.end().code, Some(130));
    assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
    sandbox.run("verify run").succeeded();
}

/// The terminal stays open but is full, so neither bars nor log lines get through. The blocked run is saved all the
/// same.
#[test]
fn an_unread_terminal_does_not_delay_an_interruption() {
    for words in ["-vv train", "train"] {
        let sandbox = Sandbox::new();
        let words = format!("{words} --dataset digits --epochs 1000 --log-every 1 --run-dir run");
        let [controller, terminal] = sides();
        let mut command = sandbox.command(&words);
        command.stdout(Stdio::null()).stderr(Stdio::from(terminal));
        command.env("TERM", "xterm-256color");
        let mut training = Running::start(&mut command);
        drop(command);
        let metrics = sandbox.path("run/metrics.jsonl");
        training.wait_until(|| metrics.metadata().is_ok_and(|metrics| metrics.len() > 0));
        // With -vv it is full by then; with bars alone, ten a second, it is not.
        thread::sleep(Duration::from_secs(1));
        let begun = Instant::now();
        send("INT", &mut training);
        assert_eq!(training.child().wait().unwrap().code(), Some(130));
        assert!(begun.elapsed() < Duration::from_secs(2), "it took {:?}", begun.elapsed());
        let recorded = json_lines(sandbox.read("run/metrics.jsonl"));
        let last = recorded.last().unwrap()["step"].as_u64().unwrap();
        assert!(sandbox.path(format!("run/checkpoints/step-{last:06}")).exists(), "{last} steps");
        drop(controller);
    }
}
