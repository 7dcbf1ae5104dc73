//! Faults, in real processes: what a run loses, what it leaves behind, and its messages.
//!
//! `VIT_SOAK=1`, which `cargo xtask soak` sets, repeats randomised tests far more often.

mod damage;
mod disk;
mod divergence;
mod every_step;
#[cfg(target_os = "linux")]
mod hostile;
mod interrupted;
#[cfg(unix)]
mod irregular;
mod kept;
mod kill;
mod other;
mod place;
#[cfg(target_os = "linux")]
mod temporary;

use std::fs;
use std::path::Path;
#[cfg(target_os = "linux")]
use std::process::Command;

use crate::small_run::{
    Dice, SETTINGS, Trained, assert_checkpoints_are_whole, checkpoints, outcome, sandbox, times,
    uninterrupted,
};
use crate::support::Sandbox;

/// Copies a folder recursively; links stay links.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&from, &to);
        } else if kind.is_symlink() {
            #[cfg(unix)]
            std::os::unix::fs::symlink(fs::read_link(from).unwrap(), to).unwrap();
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// Rewrites the last checkpoint of the run `whole` with these bytes as one of its files, and matching digests, so that
/// only the content is wrong.
fn rewrite(sandbox: &Sandbox, name: &str, bytes: &[u8]) {
    let run = sandbox.path("whole");
    let path = run.join("checkpoints/step-000040");
    let names = ["config.toml", "model.safetensors", "state.json", "state.safetensors"];
    let old = names.map(|name| (name, fs::read(path.join(name)).unwrap()));
    let files =
        old.each_ref().map(|(other, old)| (*other, if *other == name { bytes } else { old }));
    vit_files::write_folder_atomically(&path, &run, &files).unwrap();
}

/// Compiles `NAME.so`, which a program loads before the C library (`LD_PRELOAD`).
#[cfg(target_os = "linux")]
fn compile(sandbox: &Sandbox, name: &str, code: &str) {
    sandbox.write(&format!("{name}.c"), code);
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-w", "-o", &format!("{name}.so"), &format!("{name}.c")]);
    let output =
        cc.current_dir(sandbox.path("")).output().expect("the tests need a C compiler, cc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
