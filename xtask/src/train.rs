//! `cargo xtask train`: from a fresh clone to a trained model.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Context, Result, ensure};
use clap::Args;
use vit_fetch::{Options, Outcome, Source, data_root, user_mirrors};

use crate::cargo::build_vit;
use crate::gpu::{Cuda, Origin};
use crate::mpi;

/// Builds vit and trains; downloads a missing dataset during the build
///
/// If no dataset can be downloaded, `vit train` uses the built-in one, and says so. `cargo xtask train -- --help` lists
/// the arguments of `vit train`.
#[derive(Args)]
pub(crate) struct Train {
    /// Build for CUDA, and train on the GPU unless --device says otherwise; see `cargo xtask test-gpu --help` for the
    /// toolkit
    #[arg(long)]
    cuda: bool,
    /// Like --cuda, with a toolkit from Python packages, installed under cargo's target folder
    #[arg(long)]
    kit: bool,
    /// Build with MPI and train on this many ranks: needs an MPI library, `mpicc` and libclang
    #[arg(long, value_name = "N")]
    mpi: Option<String>,
    /// Arguments of `vit train`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

impl Train {
    pub(crate) fn run(mut self) -> Result<ExitCode> {
        if let Some(ranks) =
            self.mpi.take().map_or_else(|| take_value(&mut self.args, "--mpi"), Some)
        {
            return self.run_on(mpi::ranks(&ranks)?);
        }
        let cuda = self.cuda()?;
        let fetching =
            Download::wanted(&self.args).map(|download| thread::spawn(|| download.run()));
        // A failed build ends the program, and with it the download, which resumes next time.
        let vit = cuda.map_or_else(build_vit, |cuda| cuda.build_vit())?;
        if let Some(fetching) = fetching {
            if !fetching.is_finished() {
                eprintln!("vit is built; still downloading the dataset");
            }
            fetching.join().expect("a fetch returns its errors");
        }
        replace_by(Command::new(vit).arg("train").args(self.args))
    }

    /// Trains on several MPI ranks.
    fn run_on(self, ranks: u16) -> Result<ExitCode> {
        ensure!(!self.cuda && !self.kit, "expected --mpi or --cuda, got both: ranks train on CPUs");
        if let Some(download) = Download::wanted(&self.args) {
            download.run();
        }
        replace_by(&mut mpi::launcher(ranks, self.args)?)
    }

    /// The CUDA build, if it is requested; also makes `vit train` use the GPU.
    fn cuda(&mut self) -> Result<Option<Cuda>> {
        // Not short-circuited: remaining arguments are passed on to `vit train`.
        let kit = self.kit | take(&mut self.args, "--kit");
        let cuda = self.cuda | take(&mut self.args, "--cuda") | kit;
        if !cuda {
            return Ok(None);
        }
        let origin = Origin::of_flag(kit);
        if value_of(&self.args, "--device").is_some() {
            return Cuda::prepare(origin).map(Some);
        }
        self.args.splice(0..0, ["--device", "cuda"].map(OsString::from));
        Cuda::prepare_for_gpu(origin).map(Some)
    }
}

/// A dataset that `vit train` will need.
#[derive(Debug)]
struct Download {
    source: &'static Source,
    data_dir: Option<PathBuf>,
    mirror: Option<String>,
}

impl Download {
    /// The dataset that these arguments need. `None` if it is unknown (a configuration or an earlier run may name any),
    /// a folder, or built in.
    fn wanted(args: &[OsString]) -> Option<Self> {
        let has = |flag| value_of(args, flag).is_some() || args.iter().any(|arg| arg == flag);
        if ["--config", "--resume", "--help", "-h"].into_iter().any(has) {
            return None;
        }
        let dataset = value_of(args, "--dataset").unwrap_or("mnist".into());
        let source = Source::named(dataset.to_str()?)?;
        let data_dir = value_of(args, "--data-dir").map(PathBuf::from);
        let mirror = value_of(args, "--mirror").and_then(|url| url.into_string().ok());
        Some(Self { source, data_dir, mirror })
    }

    /// A failure is only a warning: `vit train` falls back, or reports what is missing.
    fn run(self) {
        let name = self.source.name;
        match self.fetch() {
            Ok(Outcome::AlreadyThere) => {}
            Ok(Outcome::Downloaded { .. }) => eprintln!("fetched {name}"),
            Err(error) => eprintln!("warning: cannot download {name}: {error:#}"),
        }
    }

    fn fetch(self) -> Result<Outcome> {
        let folder = self.source.folder(&data_root(self.data_dir)?);
        let options =
            Options { mirrors: user_mirrors(self.mirror.as_deref())?, ..Options::default() };
        // Silent: the build is using the terminal.
        Ok(vit_fetch::fetch(self.source, &folder, &options, &mut |_| {})?)
    }
}

/// Removes our flag from the arguments of `vit train`, which has no such flag.
fn take(args: &mut Vec<OsString>, flag: &str) -> bool {
    let before = args.len();
    args.retain(|arg| arg != flag);
    args.len() < before
}

/// Removes our `--flag VALUE` or `--flag=VALUE` from the arguments of `vit train`, and returns the value.
fn take_value(args: &mut Vec<OsString>, flag: &str) -> Option<String> {
    let value = value_of(args, flag)?.into_string().ok()?;
    if let Some(at) = args.iter().position(|arg| arg == flag) {
        args.drain(at..(at + 2).min(args.len()));
    } else {
        let joined = format!("{flag}={value}");
        args.retain(|arg| arg != joined.as_str());
    }
    Some(value)
}

/// The value of `--flag VALUE` or `--flag=VALUE`; the last one counts.
fn value_of(args: &[OsString], flag: &str) -> Option<OsString> {
    let joined = |arg: &OsStr| Some(arg.to_str()?.strip_prefix(flag)?.strip_prefix('=')?.into());
    let after = |arg: &OsStr, next: Option<&OsString>| next.filter(|_| arg == flag).cloned();
    let mut values = args
        .iter()
        .enumerate()
        .filter_map(|(i, arg)| joined(arg).or_else(|| after(arg, args.get(i + 1))));
    values.next_back()
}

/// Replaces this process by the command, so that signals and the exit code are the command's.
#[cfg(unix)]
fn replace_by(command: &mut Command) -> Result<ExitCode> {
    use std::os::unix::process::CommandExt;
    Err(command.exec()).with_context(|| format!("cannot start {}", command.get_program().display()))
}

/// Runs the command and passes on its exit code.
#[cfg(not(unix))]
fn replace_by(command: &mut Command) -> Result<ExitCode> {
    let status = command.status();
    let status =
        status.with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    fn wanted(args: &str) -> Option<(&'static str, Option<PathBuf>)> {
        let args: Vec<OsString> = args.split_whitespace().map(OsString::from).collect();
        Download::wanted(&args).map(|download| (download.source.name, download.data_dir))
    }

    #[test]
    fn mnist_is_downloaded_unless_another_dataset_is_named() {
        assert_eq!(wanted(""), Some(("mnist", None)));
        assert_eq!(wanted("--epochs 3 --dataset=mnist"), Some(("mnist", None)));
        assert_eq!(wanted("--dataset fashion-mnist"), Some(("fashion-mnist", None)));
        assert_eq!(wanted("--dataset digits"), None);
        assert_eq!(wanted("--dataset ./my/folder"), None);
    }

    #[test]
    fn the_data_folder_is_the_one_vit_uses() {
        assert_eq!(wanted("--data-dir here"), Some(("mnist", Some("here".into()))));
        assert_eq!(wanted("--data-dir=here --seed 1"), Some(("mnist", Some("here".into()))));
    }

    #[test]
    fn nothing_is_downloaded_if_the_dataset_is_unknown() {
        for args in ["--config my.toml", "--config=my.toml", "--resume runs/x", "--help"] {
            assert_eq!(wanted(args), None, "{args}");
        }
    }

    #[test]
    fn our_flags_are_found_anywhere_in_the_arguments() {
        let parse = |args: &str| {
            let args = ["train"].into_iter().chain(args.split_whitespace());
            Train::from_arg_matches(
                &Train::augment_args(clap::Command::new("train")).get_matches_from(args),
            )
            .unwrap()
        };
        for args in ["--cuda --epochs 2", "--epochs 2 --cuda"] {
            let Train { cuda, mut args, .. } = parse(args);
            assert!(cuda | take(&mut args, "--cuda"));
            assert_eq!(args, ["--epochs", "2"]);
        }
        let Train { cuda, kit, mut args, .. } = parse("--epochs 2");
        assert!(!cuda && !kit && !take(&mut args, "--cuda"));
        for args in ["--mpi 4 --epochs 2", "--epochs 2 --mpi 4", "--epochs 2 --mpi=4"] {
            let Train { mpi, mut args, .. } = parse(args);
            assert_eq!(mpi.or_else(|| take_value(&mut args, "--mpi")).as_deref(), Some("4"));
            assert_eq!(args, ["--epochs", "2"]);
        }
    }
}
