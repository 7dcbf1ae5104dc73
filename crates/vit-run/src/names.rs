//! File names in a run directory and its checkpoints. No other file spells them out.

/// The settings, which repeat the run; also in each checkpoint.
pub const CONFIG: &str = "config.toml";
/// Machine, program and dataset.
pub const ENVIRONMENT: &str = "env.json";
/// Steps and epochs, one object a line.
pub const METRICS: &str = "metrics.jsonl";
/// The metrics as a table.
pub const TABLE: &str = "metrics.csv";
/// The weights of the last step; also in each checkpoint.
pub const MODEL: &str = "model.safetensors";
/// The weights of the epoch with the best validation accuracy; exists only with a validation split.
pub const BEST: &str = "best.safetensors";
/// The folder of checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// Link to the newest checkpoint, in the folder of checkpoints; to the newest run, in the folder of runs.
pub const LAST: &str = "last";
/// Progress of a checkpoint's run.
pub const STATE: &str = "state.json";
/// Parameters, their EMA and the optimiser's moments, in a checkpoint.
pub const TENSORS: &str = "state.safetensors";
/// The report page.
pub const REPORT: &str = "report.html";
/// The folder of figures.
pub const PLOTS: &str = "plots";
/// The folder of TensorBoard's event files.
pub const EVENTS: &str = "tensorboard";
/// Where the run diverged: which number was not finite, and in which step.
pub const DIVERGED: &str = "diverged.json";
/// Skipped pictures, each with its error.
pub const SKIPPED: &str = "skipped.txt";
/// The lock file of the training process.
pub const LOCK: &str = ".lock";

/// Prefix of a checkpoint that is being removed.
pub(crate) const OLD_CHECKPOINT: &str = ".tmp-vit-step-";
/// The link to the newest checkpoint, before it replaces the previous one.
pub(crate) const NEW_LAST: &str = ".tmp-vit-last";
