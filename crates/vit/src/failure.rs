//! Turns errors into messages, hints and exit codes; the only place that does.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use vit_layers::ConfigError;
use vit_model::OtherFormat;

/// Exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The reader of our stdout closed it.
    ClosedPipe = 0,
    Internal = 1,
    Usage = 2,
    Data = 3,
    File = 4,
    Diverged = 5,
    Device = 6,
    /// 128 + SIGINT, as shells say.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    /// Details, printed a line each.
    details: Vec<String>,
    hint: Option<String>,
    divergence: Option<Box<Divergence>>,
}

/// A non-finite number in training.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Divergence {
    pub(crate) step: u64,
    pub(crate) epoch: u64,
    /// The loss, or the parameter with that gradient.
    pub(crate) what: String,
    pub(crate) value: f64,
}

/// A result whose error is shown to the user.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        let (message, details) = (message.into(), Vec::new());
        Self { exit, message, details, hint: None, divergence: None }
    }

    /// Sets the hint.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The hint.
    pub(crate) fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Sets the details, each a line below the message.
    pub(crate) fn details(self, details: Vec<String>) -> Self {
        Self { details, ..self }
    }

    /// Prefixes the message with its subject.
    pub(crate) fn about(self, what: impl std::fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }

    /// Adds the batch size to an out-of-memory error of the GPU.
    pub(crate) fn at_batch_size(self, batch_size: usize) -> Self {
        if self.exit != Exit::Device {
            return self;
        }
        self.about(format!("a batch of {batch_size} images")).hint(
            "pass a smaller --batch-size; --accumulate N keeps the number of images in a step",
        )
    }

    /// Message and details on one line, without the hint.
    pub(crate) fn message(&self) -> String {
        match &self.details[..] {
            [] => self.message.clone(),
            details => format!("{}: {}", self.message, details.join("; ")),
        }
    }

    /// The non-finite number, if that is the cause.
    pub(crate) fn divergence(&self) -> Option<&Divergence> {
        self.divergence.as_deref()
    }

    /// Whether it has this exit code.
    pub(crate) fn is(&self, exit: Exit) -> bool {
        self.exit == exit
    }

    /// Changes the exit code.
    pub(crate) fn exit(self, exit: Exit) -> Self {
        Self { exit, ..self }
    }

    /// Logs the failure to stderr.
    pub(crate) fn log(&self) {
        if self.exit != Exit::ClosedPipe {
            let colon = if self.details.is_empty() { "" } else { ":" };
            tracing::error!("{}{colon}", self.message);
            for detail in &self.details {
                tracing::error!(target: DETAIL, "{detail}");
            }
            if let Some(hint) = &self.hint {
                tracing::error!(target: HINT, "{hint}");
            }
        }
    }

    /// The exit code.
    pub(crate) const fn code(&self) -> i32 {
        self.exit as i32
    }

    /// Logs the failure to stderr; returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        self.log();
        self.exit_code()
    }

    /// [`code`](Self::code) in the form for `main`.
    pub(crate) fn exit_code(&self) -> ExitCode {
        self.exit.into()
    }
}

/// Log target of hints.
pub(crate) const HINT: &str = "hint";

/// Log target of details of the previous error.
pub(crate) const DETAIL: &str = "detail";

/// The error and its causes on one line; a cause that an earlier message already quotes is left out.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |&error| error.source());
    causes.fold(message_of(error), |message, cause| {
        let cause = message_of(cause);
        if message.contains(&cause) { message } else { format!("{message}: {cause}") }
    })
}

/// An error's message, without the backtrace that candle appends under `RUST_BACKTRACE`.
fn message_of(error: &(dyn Error + 'static)) -> String {
    let boxed = error.downcast_ref::<Box<candle_core::Error>>().map(|error| &**error);
    match error.downcast_ref().or(boxed) {
        Some(candle_core::Error::WithBacktrace { inner, .. }) => message_of(&**inner),
        _ => error.to_string(),
    }
}

/// Advice if the system refuses to read or write a file.
fn disk_hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let causes = || std::iter::successors(Some(error), |&error| error.source());
    let of_files = causes().find_map(|cause| cause.downcast_ref::<vit_files::Error>());
    let writes =
        matches!(of_files, Some(vit_files::Error::Io { operation: "create" | "write", .. }));
    match causes().find_map(|cause| cause.downcast_ref::<io::Error>())?.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free some space, and try again")
        }
        io::ErrorKind::FileTooLarge => Some("raise the limit on the size of files, `ulimit -f`"),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Some("choose another place, or change its permissions")
        }
        io::ErrorKind::NotFound if writes => Some("make its folder first"),
        io::ErrorKind::NotFound => Some("check the path; `ls runs` lists your runs"),
        _ => None,
    }
}

/// Names of the error in the driver and in cuBLAS, which candle passes on only as text.
const OUT_OF_MEMORY: [&str; 2] = ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"];

impl From<candle_core::Error> for Failure {
    fn from(error: candle_core::Error) -> Self {
        let error = match error {
            candle_core::Error::Io(error) => match error.downcast::<vit_pictures::Error>() {
                Ok(error) => return error.into(),
                Err(error) => candle_core::Error::Io(error),
            },
            error => error,
        };
        let said = chain(&error);
        let backtrace = match &error {
            candle_core::Error::WithBacktrace { backtrace, .. } => backtrace.to_string(),
            _ => String::new(),
        };
        let backtrace: Vec<String> = backtrace.lines().map(str::to_owned).collect();
        if OUT_OF_MEMORY.iter().any(|name| said.contains(name)) {
            let message = format!("the GPU has too little free memory: {said}");
            let hint = "check with `nvidia-smi` what uses it, or pass --device cpu";
            return Self::new(Exit::Device, message).details(backtrace).hint(hint);
        }
        Self::new(Exit::Internal, said).details(backtrace)
    }
}

/// Advice on the user's own dataset.
fn data_hint(error: &vit_data::Error) -> Option<&'static str> {
    use vit_data::Error;
    Some(match error {
        Error::Unreadables { .. } => "repair or remove them, or pass --skip-unreadable",
        Error::NoPictures { .. } => {
            "sort pictures into a folder for each class: CLASS/..., or train/CLASS/... and test/CLASS/..."
        }
        Error::NoTables { .. } => {
            "expected names such as data/train-00000-of-00001.parquet, or train/0000.parquet"
        }
        Error::Configuration { .. } => {
            "pass hf:OWNER/NAME/CONFIGURATION, or the configuration's folder"
        }
        Error::HubDataset { .. } => {
            "check its name; without network, pass a folder with its parquet files"
        }
        Error::EmptyClass { .. } => "put pictures into it, or remove it",
        Error::Classes { got: 0 | 1, .. } => {
            "pass the folder above, with a folder of pictures for each class"
        }
        Error::UntrainedClass { .. } => "remove the class there, or put pictures of it into train/",
        Error::NoText { .. } => "rename the folder",
        Error::Kind { got, .. } if got.contains("Git LFS") => "get the file itself: git lfs pull",
        Error::Kind { got, .. } if got.contains("numbers in") => {
            "convert it to unsigned bytes, as numpy's astype(\"uint8\") does"
        }
        Error::Absent { .. } => {
            "pass a folder of the four IDX files, or of pictures sorted into classes"
        }
        Error::Several { .. } => "put each dataset into its own folder",
        Error::GzipEnd { .. } | Error::Truncated { .. } | Error::TrailingBytes { .. } => {
            "replace it by a complete file"
        }
        Error::Normalization { .. } => "set --normalize, or mean and std under [data]",
        _ => return None,
    })
}

impl From<vit_data::Error> for Failure {
    fn from(error: vit_data::Error) -> Self {
        if let vit_data::Error::Augment { field, .. } = error {
            let hint =
                format!("set it with --augment-{field}, or under [augment] in the --config file");
            return Self::new(Exit::Usage, chain(&error)).hint(hint);
        }
        if let vit_data::Error::TooPacked { .. } = error {
            let hint = "if the data are complete, unpack it with gunzip";
            return Self::new(Exit::Data, chain(&error)).hint(hint);
        }
        let error = match error {
            vit_data::Error::Picture(error) => return error.into(),
            vit_data::Error::Files(error) => return error.into(),
            vit_data::Error::Candle(error) => return error.into(),
            error => error,
        };
        Self { hint: data_hint(&error).map(str::to_owned), ..Self::new(Exit::Data, chain(&error)) }
    }
}

impl From<vit_files::Error> for Failure {
    fn from(error: vit_files::Error) -> Self {
        let exit = match error {
            vit_files::Error::Home { .. } => Exit::Usage,
            _ => Exit::File,
        };
        Self { hint: disk_hint(&error).map(str::to_owned), ..Self::new(exit, chain(&error)) }
    }
}

impl From<vit_pictures::Error> for Failure {
    fn from(error: vit_pictures::Error) -> Self {
        let exit = match error {
            vit_pictures::Error::Disk(_) => Exit::File,
            _ => Exit::Data,
        };
        Self { hint: error.hint().map(str::to_owned), ..Self::new(exit, chain(&error)) }
    }
}

impl From<vit_report::Error> for Failure {
    fn from(error: vit_report::Error) -> Self {
        Self { hint: disk_hint(&error).map(str::to_owned), ..Self::new(Exit::File, chain(&error)) }
    }
}

impl From<vit_fetch::Error> for Failure {
    fn from(error: vit_fetch::Error) -> Self {
        use vit_fetch::Error;
        let exit = match &error {
            Error::Mirror { .. } | Error::NoHome | Error::Files(vit_files::Error::Home { .. }) => {
                Exit::Usage
            }
            Error::Files(_) => Exit::File,
            _ => Exit::Data,
        };
        Self { hint: error.hint(), ..Self::new(exit, chain(&error)) }
    }
}

impl From<vit_model::Error> for Failure {
    fn from(error: vit_model::Error) -> Self {
        use vit_model::Error;
        if let Error::Tensor(error) = error {
            return error.into();
        }
        let (exit, hint) = match &error {
            Error::Encoder(ConfigError::Rate { field, .. }) if field.starts_with("dropout") => {
                (Exit::Usage, Some("pass another --dropout, or change it under [model.dropout]"))
            }
            Error::Encoder(_)
            | Error::Patch(_)
            | Error::Classes { .. }
            | Error::ImageTooLarge { .. }
            | Error::TooManyTokens { .. }
            | Error::TooLarge { .. } => {
                (Exit::Usage, Some("change the model under [model] in the --config file"))
            }
            Error::Inexpressible { .. } => (
                Exit::Usage,
                Some(
                    "pass --layout onnx, which expresses every model, or train one such as vit-ti16",
                ),
            ),
            Error::UnknownPreset { .. } | Error::Unsupported { .. } | Error::NotAResize { .. } => {
                (Exit::Usage, None)
            }
            Error::Undetermined { field, .. } => (
                Exit::Usage,
                match *field {
                    "heads" => Some("pass --heads N"),
                    "image" => Some("pass --image-size HxW, the size of its training images"),
                    _ => None,
                },
            ),
            Error::OtherFormat { format, .. } => (Exit::File, Some(what_to_do(*format))),
            Error::Parameters { .. } => (
                Exit::File,
                Some(
                    "the file contains another model: pass the --preset or --config it was trained with",
                ),
            ),
            _ => (Exit::File, disk_hint(&error)),
        };
        let hint = hint.map(str::to_owned);
        if let Error::Parameters { layout, problems } = error {
            let message = format!("{layout} parameters do not fit the configuration");
            return Self { hint, ..Self::new(exit, message).details(problems) };
        }
        Self { hint, ..Self::new(exit, chain(&error)) }
    }
}

/// Advice on turning another format into a safetensors file.
const fn what_to_do(format: OtherFormat) -> &'static str {
    match format {
        OtherFormat::LfsPointer => "fetch the file itself: `git lfs pull`",
        OtherFormat::Onnx => {
            "only `vit info FILE.onnx` reads graphs; pass the run or safetensors file that it was exported from"
        }
        OtherFormat::Html => {
            "download the file itself: its address has `resolve` in place of `blob`"
        }
        _ => {
            "convert it in Python: import torch, safetensors.torch as s; c = torch.load(PATH, weights_only=True, \
             map_location=\"cpu\"); c = c.get(\"state_dict\", c.get(\"model\", c)); s.save_file({k: v.clone() for k, v in \
             c.items() if torch.is_tensor(v)}, \"model.safetensors\")"
        }
    }
}

impl From<vit_onnx::Error> for Failure {
    fn from(error: vit_onnx::Error) -> Self {
        use vit_onnx::Error;
        let (exit, hint) = match error {
            Error::Model(error) => return error.into(),
            Error::Tensor(error) => return error.into(),
            Error::TooLarge { .. } => {
                (Exit::Usage, Some("export safetensors, which has no such limit: --layout timm"))
            }
            _ => (Exit::File, None),
        };
        Self { hint: hint.map(str::to_owned), ..Self::new(exit, chain(&error)) }
    }
}

impl From<vit_run::Error> for Failure {
    fn from(error: vit_run::Error) -> Self {
        use vit_run::Error;
        let (exit, hint) = match &error {
            Error::Exists { .. } => {
                (Exit::Usage, Some("pass another --run-dir, or leave it out to get a new one"))
            }
            Error::InUse { .. } => (Exit::File, Some("wait until it ends, or stop it")),
            _ => (Exit::File, disk_hint(&error)),
        };
        Self { hint: hint.map(str::to_owned), ..Self::new(exit, chain(&error)) }
    }
}

/// How to change a setting of the trainer.
fn setting_hint(field: &str) -> &'static str {
    match field {
        "epochs" => "pass another --epochs",
        "max_steps" => "pass another --max-steps",
        "batch_size" => "pass another --batch-size",
        "log_every" => "pass another --log-every",
        "accumulate" => "pass another --accumulate",
        "patience" => "pass another --patience",
        "label_smoothing" => "pass another --label-smoothing",
        "clip" => "pass another --clip",
        "ema" => "pass another --ema",
        "lr" => "pass another --lr",
        "weight_decay" => "pass another --weight-decay",
        "schedule.min_lr" => "pass another --min-lr",
        _ => "change it under [train] in the --config file",
    }
}

impl From<vit_train::Error> for Failure {
    fn from(error: vit_train::Error) -> Self {
        use vit_train::Error;
        let error = match error {
            Error::Tensor(error) => return error.into(),
            Error::Run(error) => return error.into(),
            error => error,
        };
        let (exit, hint) = match &error {
            Error::Ranks { .. } => (
                Exit::Usage,
                Some("start fewer ranks, or raise `shards` under [train] in the --config file"),
            ),
            Error::NoBatch { .. } => (Exit::Usage, Some("pass a smaller --batch-size")),
            Error::Setting { field, .. } => (Exit::Usage, Some(setting_hint(field))),
            Error::MixedOnGpu => {
                (Exit::Usage, Some("pass --device cpu, or --augment-mixup 0 to train without it"))
            }
            Error::OnGpu { .. } => (Exit::Usage, Some("pass --device cpu")),
            Error::Unreadable { .. } | Error::State { .. } => (Exit::File, disk_hint(&error)),
            Error::NotFinite { .. } => (Exit::Diverged, Some("try a smaller --lr")),
            _ => (Exit::Internal, None),
        };
        let divergence = match &error {
            Error::NotFinite { step, epoch, what, value } => Some(Box::new(Divergence {
                step: *step,
                epoch: *epoch,
                what: what.clone(),
                value: *value,
            })),
            _ => None,
        };
        let hint = hint.map(str::to_owned);
        Self { hint, divergence, ..Self::new(exit, chain(&error)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn out_of_memory() -> candle_core::Error {
        let said = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        candle_core::Error::Cuda(said.into())
    }

    #[test]
    fn a_full_gpu_is_a_device_error() {
        for failure in [
            Failure::from(out_of_memory()),
            vit_train::Error::from(out_of_memory()).into(),
            vit_model::Error::from(out_of_memory()).into(),
        ] {
            assert!(failure.is(Exit::Device), "{failure:?}");
        }
        assert!(Failure::from(candle_core::Error::Msg("other".to_owned())).is(Exit::Internal));
    }

    #[test]
    fn mixup_on_a_gpu_is_a_usage_error() {
        let failure = Failure::from(vit_train::Error::MixedOnGpu);
        assert!(failure.is(Exit::Usage), "{failure:?}");
        assert!(failure.hint.is_some_and(|hint| hint.contains("--device cpu")));
    }

    #[test]
    fn a_batch_too_large_for_a_gpu_is_named() {
        let failure = Failure::from(vit_train::Error::from(out_of_memory())).at_batch_size(4096);
        let expected = "a batch of 4096 images: the GPU has too little free memory: ";
        assert!(failure.message.starts_with(expected), "{failure:?}");
        assert!(failure.hint.is_some_and(|hint| hint.contains("--batch-size")));
        let other = Failure::new(Exit::Diverged, "other").at_batch_size(4096);
        assert_eq!(other.message, "other");
    }
}
