//! The `vit` binary in an empty sandbox folder, without network, home or data.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// Nothing listens there, so every download fails at once.
const DEAD_PROXY: &str = "http://127.0.0.1:9";
const PROXIES: [&str; 6] =
    ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
/// Not an address: the hub's client would try a refused one five times, for two seconds.
const NO_HUB: (&str, &str) = ("HF_ENDPOINT", "none");
/// Environment variables of the user that would affect results.
const UNSET: [&str; 8] = [
    "VIT_DATA",
    "VIT_MIRROR",
    "HF_HOME",
    "HF_HUB_CACHE",
    "NO_PROXY",
    "no_proxy",
    "COLUMNS",
    "NO_COLOR",
];

/// A temporary working folder.
pub(crate) struct Sandbox {
    folder: TempDir,
    vit: PathBuf,
    environment: Vec<(&'static str, OsString)>,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self::of(env!("CARGO_BIN_EXE_vit").into(), Vec::new())
    }

    /// With another `vit` and additional environment variables.
    pub(crate) fn of(vit: PathBuf, environment: Vec<(&'static str, OsString)>) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), vit, environment }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Every file and folder, except the cache and home.
    pub(crate) fn entries(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut open = vec![self.folder.path().to_owned()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let path = entry.path().strip_prefix(self.folder.path()).unwrap().to_owned();
                if path == Path::new("home") {
                    continue;
                }
                if entry.file_type().unwrap().is_dir() {
                    open.push(entry.path());
                }
                found.insert(path);
            }
        }
        found
    }

    /// Checks that no temporary files are left.
    #[track_caller]
    pub(crate) fn assert_nothing_temporary(&self) {
        let entries = self.entries();
        let temporary = entries
            .iter()
            .find(|path| path.to_string_lossy().contains("/.tmp-") || path.starts_with(".tmp-"));
        assert_eq!(temporary, None);
    }

    /// `vit` with these space-separated words.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(&self.vit);
        command.args(words.split_whitespace()).current_dir(self.folder.path());
        for name in UNSET {
            command.env_remove(name);
        }
        command.envs(PROXIES.map(|name| (name, DEAD_PROXY))).envs([NO_HUB]);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let home = self.path("home");
        command.env("XDG_CACHE_HOME", home.join("cache")).env("HOME", home);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A shell script in which `"$0" "$@"` is `vit` with these words, optionally run by another program.
    #[cfg(unix)]
    pub(crate) fn script(&self, within: &[&str], script: &str, words: &str) -> Command {
        let mut line = within.iter().copied().chain(["sh", "-c", script]);
        let program = line.next().expect("the shell at least");
        self.command_by(program, &line.collect::<Vec<_>>(), words)
    }

    /// `vit` with these words, started by another program that takes the command as its last arguments.
    #[cfg(unix)]
    pub(crate) fn command_by(&self, program: &str, args: &[&str], words: &str) -> Command {
        let vit = self.command(words);
        let mut command = Command::new(program);
        command.args(args).arg(vit.get_program()).args(vit.get_args());
        command.current_dir(self.folder.path());
        for (name, value) in vit.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, words: &str) -> Outcome {
        Outcome::of(&self.command(words).output().unwrap())
    }

    /// Trains on the built-in digits, in the directory `run`.
    pub(crate) fn train_digits(&self, words: &str) -> Outcome {
        self.run(&format!("train --dataset digits --run-dir run {words}")).succeeded()
    }

    /// Checks that the command is rejected: with this exit code, one line with the reason, at most one hint, and
    /// nothing left behind.
    #[track_caller]
    pub(crate) fn refuses(&self, code: i32, words: &str) -> Refusal {
        let before = self.entries();
        let outcome = self.run(&format!("-q {words}"));
        assert_eq!(outcome.code, Some(code), "vit {words}: {}", outcome.stderr);
        assert_eq!(outcome.stdout, "", "vit {words}");
        assert_eq!(self.entries(), before, "vit {words} left something behind");
        let lines: Vec<&str> = outcome.stderr.lines().filter(|line| !line.is_empty()).collect();
        let message = lines.first().and_then(|line| line.strip_prefix("error: "));
        let message = message.unwrap_or_else(|| panic!("vit {words}: {}", outcome.stderr));
        let hint = match lines[1..] {
            [] | ["For more information, try '--help'."] => String::new(),
            [hint] if hint.starts_with("hint: ") => hint["hint: ".len()..].to_owned(),
            _ => panic!("vit {words}: expected an error and a hint, got {}", outcome.stderr),
        };
        Refusal { message: message.to_owned(), hint }
    }
}

/// The outcome of a command.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    pub(crate) fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        Self { code: output.status.code(), stdout, stderr }
    }

    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self
    }

    /// The single line of stdout, as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("{}", self.stdout))
    }
}

/// The error of a rejected command.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Refusal {
    /// Checks that the message contains these parts.
    #[track_caller]
    pub(crate) fn saying(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.message.contains(part), "expected {part:?} in {:?}", self.message);
        }
        self
    }
}

/// The values in a file of JSON lines.
pub(crate) fn json_lines(text: impl AsRef<[u8]>) -> Vec<Value> {
    let text = String::from_utf8(text.as_ref().to_vec()).unwrap();
    let line = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    text.lines().map(line).collect()
}

/// Metrics without the fields that measure time.
pub(crate) fn timeless(metrics: &[u8]) -> Vec<Value> {
    let mut records = json_lines(metrics);
    for record in records.iter_mut().filter_map(Value::as_object_mut) {
        let is_epoch = record["kind"] == "epoch";
        for key in ["images_per_second", "seconds", "waiting_seconds"] {
            assert_eq!(record.remove(key).is_some(), is_epoch, "{key} in {record:?}");
        }
    }
    records
}
