//! Building, launching and testing training over MPI.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::cargo::{cargo, executable, messages, run};
use crate::failure::Hinted;

/// Debian's packages.
const PACKAGES: [&str; 3] = ["openmpi-bin", "libopenmpi-dev", "libclang-dev"];

/// Advises how to install what is missing.
fn check() -> Result<()> {
    for program in ["mpicc", "mpirun"] {
        if !runs(program) {
            let message = format!("expected {program}, got no such command");
            let hint = format!(
                "install an MPI library, its compiler and libclang: on Debian `apt-get install {}`",
                PACKAGES.join(" ")
            );
            return Err(Hinted::new(message, hint).into());
        }
    }
    Ok(())
}

fn runs(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Builds vit with MPI; returns the command that starts this many ranks.
pub(crate) fn launcher(ranks: u16, args: impl IntoIterator<Item = OsString>) -> Result<Command> {
    check()?;
    let mut build = cargo("build");
    build.args(["--package=vit", "--bin=vit", "--features=mpi"]);
    let vit = executable(&messages(&mut build)?, "vit")?;
    Ok(launch(&version()?, ranks, &vit, args))
}

fn version() -> Result<String> {
    let output = Command::new("mpirun").arg("--version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn launch(
    version: &str,
    ranks: u16,
    vit: &Path,
    args: impl IntoIterator<Item = OsString>,
) -> Command {
    let mut command = Command::new("mpirun");
    command.args(["-n", &ranks.to_string()]);
    if version.contains("Open MPI") {
        // Without binding, a rank's threads use several cores. The timeout leaves time to save after a signal.
        command.args(["--bind-to", "none", "--mca", "odls_base_sigkill_timeout", "2"]);
        command.arg("--oversubscribe");
        if is_root() {
            command.arg("--allow-run-as-root");
        }
    }
    command.arg(vit).arg("train").args(args);
    command
}

#[cfg(unix)]
fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

#[cfg(not(unix))]
fn is_root() -> bool {
    false
}

/// Runs the tests of one to four ranks. Installs what they need if permitted, else skips them with a message.
pub(crate) fn test() -> Result<()> {
    if check().is_err() && !install() {
        eprintln!(
            "skipped: no MPI library is installed, or may be installed (Debian's packages: {})",
            PACKAGES.join(", ")
        );
        return Ok(());
    }
    let targets = ["--lib", "--bins", "--test=mpi", "--example=network"];
    run(cargo("clippy").args(WITH_MPI).args(targets).args(["--", "--deny=warnings"]))?;
    // Panics are tested in `ranks.rs`.
    run(cargo("test").args(WITH_MPI).args(["--lib", "over_mpi"]))?;
    run(&mut tests())
}

/// The tests whose name contains `filter`, with far more repetitions.
pub(crate) fn soak(filter: &str) -> Result<()> {
    run(tests().args([filter, "--nocapture"]).env("VIT_SOAK", "1"))
}

/// The whole workspace, since for a part of it cargo would compile dependencies again, with fewer features.
const WITH_MPI: [&str; 3] = ["--locked", "--workspace", "--features=vit/mpi"];

fn tests() -> Command {
    let mut tests = cargo("test");
    // Some tests wait for seconds while Open MPI ends ranks; more parallel tests would exceed their time limits.
    tests.args(WITH_MPI).args(["--test=mpi", "--", "--test-threads=2", "--show-output"]);
    if has_network_namespaces() {
        tests.arg("--include-ignored");
    }
    tests
}

/// Whether this user may create network namespaces and bridges, which stand for nodes.
fn has_network_namespaces() -> bool {
    let name = format!("vitp{}", std::process::id() % 10_000);
    let ip = |words: String| {
        let mut command = Command::new("ip");
        command.args(words.split(' ')).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let can = [
        ip(format!("netns add {name}")) && ip(format!("netns del {name}")),
        ip(format!("link add {name} type bridge")) && ip(format!("link del {name}")),
    ];
    can == [true; 2]
}

/// Whether an MPI library is installed.
pub(crate) fn is_here() -> bool {
    check().is_ok()
}

fn install() -> bool {
    if !is_root() || !runs("apt-get") {
        return false;
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args).stdout(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let packages = [&["install", "--yes", "--no-install-recommends"][..], &PACKAGES].concat();
    // Package lists are needed to install.
    apt(&packages) || (apt(&["update"]) && apt(&packages))
}

/// The number of ranks in `--mpi`.
pub(crate) fn ranks(text: &str) -> Result<u16> {
    match text.parse() {
        Ok(ranks) if ranks > 0 => Ok(ranks),
        _ => bail!("expected --mpi N, a number of ranks of at least 1, got {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(version: &str) -> Vec<String> {
        let command = launch(version, 4, Path::new("vit"), ["--epochs".into(), "2".into()]);
        command.get_args().map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn open_mpi_gets_no_binding_and_time_to_save() {
        let words = words("mpirun (Open MPI) 4.1.4").join(" ");
        assert!(words.starts_with("-n 4 --bind-to none --mca odls_base_sigkill_timeout 2"));
        assert!(words.ends_with("vit train --epochs 2"), "{words}");
    }

    #[test]
    fn other_launchers_get_no_open_mpi_flags() {
        assert_eq!(words("HYDRA build details").join(" "), "-n 4 vit train --epochs 2");
    }

    #[test]
    fn at_least_one_rank_is_required() {
        assert_eq!(ranks("8").unwrap(), 8);
        assert!(ranks("0").is_err() && ranks("x").is_err());
    }
}
