//! Measuring a program's peak memory.

use std::env;
use std::fs;
use std::process::{Command, Stdio};

use wait4::Wait4 as _;

/// Exit code, stderr and peak memory in bytes of a program.
pub(crate) struct Measured {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
    pub(crate) peak: u64,
}

/// The command to run, and the file for the result, as JSON.
const WORDS: &str = "VIT_MEASURED_WORDS";
const REPORT: &str = "VIT_MEASURED_REPORT";

/// Runs a program from a small intermediate process: the system's peak memory of a program includes the process that
/// started it, which here holds all tests.
pub(crate) fn measured(command: &Command) -> Measured {
    let report = tempfile::NamedTempFile::new().unwrap();
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let words: Vec<&str> = words.map(|word| word.to_str().unwrap()).collect();
    let mut between = Command::new(env::current_exe().unwrap());
    between.args(["memory::runs_a_program_and_measures_its_peak", "--exact", "--nocapture"]);
    between.current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => between.env(name, value),
            None => between.env_remove(name),
        };
    }
    between.env(WORDS, serde_json::to_string(&words).unwrap()).env(REPORT, report.path());
    let output = between.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let text = fs::read_to_string(report.path()).unwrap();
    let (code, peak) = serde_json::from_str(&text).expect(&stderr);
    Measured { code, stderr, peak }
}

/// The intermediate process.
#[test]
fn runs_a_program_and_measures_its_peak() {
    let (Ok(words), Some(report)) = (env::var(WORDS), env::var_os(REPORT)) else { return };
    let words: Vec<String> = serde_json::from_str(&words).unwrap();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_remove(WORDS).env_remove(REPORT);
    let ended =
        command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap().wait4().unwrap();
    let told = (ended.status.code(), ended.rusage.maxrss);
    fs::write(report, serde_json::to_string(&told).unwrap()).unwrap();
}

#[test]
fn the_peak_is_the_programs_own() {
    let held = vec![1_u8; 300 << 20];
    let Measured { code, stderr, peak } = measured(&crate::support::Sandbox::new().command("info"));
    assert_eq!(code, Some(2), "{stderr}");
    assert!((1 << 20..64 << 20).contains(&peak), "{peak} bytes beside {}", held.len());
}
