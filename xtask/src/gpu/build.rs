//! Compiling for CUDA.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vit_device::Build;

use super::kit::Kit;
use super::stubs;
use super::toolkit::Toolkit;
use crate::cargo::{cargo, executable, messages, run, target_dir};
use crate::layering::items;

/// Default compute capability without CUDA_COMPUTE_CAP and without a GPU: 9.0, an H100 or H200.
pub(crate) const COMPUTE_CAP: &str = "90";
/// Other variables with which build scripts find a toolkit, possibly another one.
const OTHER_NAMES: [&str; 5] =
    ["CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR", "CUDARC_CUDA_VERSION", "NVCC"];
/// Separates flags in CARGO_ENCODED_RUSTFLAGS.
const SEPARATOR: &str = "\x1f";

/// Which toolkit to use.
#[derive(Clone, Copy)]
pub(crate) enum Origin {
    /// The first one found.
    Found,
    /// The kit, installed if it is missing.
    Kit,
}

impl Origin {
    /// From the flag `--kit`.
    pub(crate) fn of_flag(kit: bool) -> Self {
        if kit { Self::Kit } else { Self::Found }
    }
}

/// External inputs of a CUDA build.
pub(crate) struct Cuda {
    toolkit: Toolkit,
    stubs: PathBuf,
    compute_cap: String,
}

/// The binaries of a CUDA build, and their target.
pub(crate) struct Built {
    pub(crate) tests: PathBuf,
    pub(crate) vit: PathBuf,
    pub(crate) build: Build,
}

impl Cuda {
    pub(crate) fn prepare(origin: Origin) -> Result<Self> {
        Self::prepare_for(compute_cap(), origin)
    }

    /// Builds for this compute capability, independent of the local GPU.
    pub(crate) fn prepare_for(compute_cap: String, origin: Origin) -> Result<Self> {
        ensure!(cfg!(target_os = "linux"), "a CUDA build needs Linux, got another system");
        let target = target_dir()?;
        let kit = Kit::under(&target);
        let toolkit = match origin {
            Origin::Found => Toolkit::find(kit.home())?,
            Origin::Kit => Toolkit::at(kit.install()?)?,
        };
        let stubs = target.join("cuda-link");
        stubs::write(&stubs, &toolkit)?;
        let home = toolkit.home().display();
        eprintln!("building for compute capability {compute_cap} with the CUDA toolkit in {home}");
        Ok(Self { toolkit, stubs, compute_cap })
    }

    /// Checks first that the machine's first GPU can run the build, because the build takes long.
    pub(crate) fn prepare_for_gpu(origin: Origin) -> Result<Self> {
        // Without any GPU, no toolkit is searched.
        vit_device::gpus()?;
        let cuda = Self::prepare(origin)?;
        vit_device::find(0, &cuda.plan()?)?;
        Ok(cuda)
    }

    /// The expected target, as far as it is known before the build.
    fn plan(&self) -> Result<Build> {
        let capability = self.compute_cap.trim_start_matches("sm_").replace('.', "");
        let (major, minor) = self.toolkit.version();
        let plan = Build::parse(&format!("sm_{capability}"), &format!("{major}.{minor}"));
        plan.with_context(|| format!("CUDA_COMPUTE_CAP={}", self.compute_cap))
    }

    /// Builds the program in the release profile.
    pub(crate) fn build_vit(&self) -> Result<PathBuf> {
        executable(&messages(self.cargo("build")?.arg("--bin=vit"))?, "vit")
    }

    /// Builds the GPU tests and the program, small and fast.
    pub(crate) fn build_tests(&self) -> Result<Built> {
        let mut test = self.cargo("test")?;
        // Cargo also builds the program that a test belongs to.
        let messages =
            messages(test.args(["--test=gpu", "--no-run", "--profile=gpu", "--locked"]))?;
        Ok(Built {
            tests: executable(&messages, "gpu")?,
            vit: executable(&messages, "vit")?,
            build: build_of(&messages)?,
        })
    }

    /// Runs clippy on the CUDA-only code; warnings are errors.
    pub(crate) fn check_code(&self) -> Result<()> {
        // In the tests' profile, which avoids recompiling the kernels.
        let targets = ["--bin=vit", "--test=gpu", "--profile=gpu", "--locked"];
        run(self.cargo("clippy")?.args(targets).args(["--", "--deny=warnings"]))
    }

    /// This cargo on the program, for CUDA.
    ///
    /// The cfg for dynamic loading is passed to cudarc directly. As a feature it would conflict with candle's, which
    /// links the libraries: cudarc's build script rejects both together. With `--target`, build scripts do not get
    /// these flags, so it sees only one.
    fn cargo(&self, subcommand: &str) -> Result<Command> {
        let mut command = cargo(subcommand);
        command.args(["--package=vit", "--features=cuda", "--target"]).arg(host()?);
        OTHER_NAMES.iter().for_each(|name| _ = command.env_remove(name));
        command.env("CUDA_HOME", self.toolkit.home());
        let path = env::var_os("PATH").unwrap_or_default();
        let path = [self.toolkit.bin()].into_iter().chain(env::split_paths(&path));
        command.env("PATH", env::join_paths(path)?);
        command.env("CUDA_COMPUTE_CAP", &self.compute_cap);
        if env::var_os("CUDAFORGE_THREADS").is_none() {
            // By default it would use half of them.
            let threads = available_parallelism().map_or(1, usize::from);
            command.env("CUDAFORGE_THREADS", threads.to_string());
        }
        command.env("CARGO_ENCODED_RUSTFLAGS", self.rustflags());
        Ok(command)
    }

    /// The user's flags and ours, encoded so that paths may contain spaces.
    fn rustflags(&self) -> OsString {
        let mut stubs = OsString::from("native=");
        stubs.push(&self.stubs);
        let dynamic_loading = r#"feature="dynamic-loading""#;
        let ours = ["--cfg".as_ref(), dynamic_loading.as_ref(), "-L".as_ref(), stubs.as_os_str()];
        let users = users_flags(env::var_os("CARGO_ENCODED_RUSTFLAGS"), env::var("RUSTFLAGS").ok());
        let users = users.iter().map(OsString::as_os_str).filter(|flags| !flags.is_empty());
        let flags: Vec<&OsStr> = users.chain(ours).collect();
        flags.join(SEPARATOR.as_ref())
    }
}

/// rustc flags from the user's environment; encoded ones win over plain ones, as in cargo.
fn users_flags(encoded: Option<OsString>, plain: Option<String>) -> Option<OsString> {
    let encode =
        |plain: String| plain.split_whitespace().collect::<Vec<_>>().join(SEPARATOR).into();
    encoded.or_else(|| plain.map(encode))
}

/// The compute capability: the user's, else the first GPU's.
fn compute_cap() -> String {
    let first = || {
        let (major, minor) = vit_device::gpus().ok()?.first()?.compute_capability;
        Some(format!("{major}{minor}"))
    };
    let asked = env::var("CUDA_COMPUTE_CAP").ok();
    asked.or_else(first).unwrap_or_else(|| COMPUTE_CAP.to_owned())
}

/// The host's target tuple.
fn host() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "host-tuple"]).output();
    let output = output.context("cannot start rustc")?;
    ensure!(output.status.success(), "rustc --print host-tuple failed ({})", output.status);
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The target of the kernels, as vit-ops' build script reports it.
fn build_of(messages: &[Value]) -> Result<Build> {
    let told = |name: &str| {
        let mut variables = messages.iter().flat_map(|message| items(&message["env"]));
        let variable = variables.find(|variable| variable[0] == name);
        let value = variable.and_then(|variable| variable[1].as_str());
        value.with_context(|| format!("expected vit-ops' build script to set {name}, got nothing"))
    };
    Ok(Build::parse(told("VIT_CUDA_ARCHITECTURE")?, told("VIT_CUDA_TOOLKIT")?)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn user_flags_are_kept_and_encoded_ones_win() {
        let plain = || Some("-C  target-cpu=native".to_owned());
        let encoded: OsString = "--cfg\x1fa b".into();
        assert_eq!(users_flags(Some(encoded.clone()), plain()), Some(encoded));
        assert_eq!(users_flags(None, plain()), Some("-C\x1ftarget-cpu=native".into()));
        assert_eq!(users_flags(None, None), None);
    }

    #[test]
    fn the_build_target_is_the_build_scripts() {
        let variables = [["VIT_CUDA_ARCHITECTURE", "sm_90a"], ["VIT_CUDA_TOOLKIT", "13.0"]];
        let messages = [json!({ "reason": "build-finished" }), json!({ "env": variables })];
        let expected = Build::parse("sm_90a", "13.0").unwrap();
        assert_eq!(build_of(&messages).unwrap(), expected);

        let message = build_of(&messages[..1]).unwrap_err().to_string();
        assert_eq!(
            message,
            "expected vit-ops' build script to set VIT_CUDA_ARCHITECTURE, got nothing"
        );
    }
}
