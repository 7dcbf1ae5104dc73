//! The names of what lies in a run folder and in its checkpoints. No other file spells them.

/// Settings that repeat the run; also in each checkpoint.
pub const CONFIG: &str = "config.toml";
/// What the run takes place on.
pub const ENVIRONMENT: &str = "env.json";
/// Steps and epochs, one object a line.
pub const METRICS: &str = "metrics.jsonl";
/// The same as a table.
pub const TABLE: &str = "metrics.csv";
/// The weights of the last step; also in each checkpoint.
pub const MODEL: &str = "model.safetensors";
/// The weights of the epoch with the best validation accuracy, where there is a validation split.
pub const BEST: &str = "best.safetensors";
/// The folder of checkpoints.
pub const CHECKPOINTS: &str = "checkpoints";
/// The link to the newest checkpoint, among them, and to the newest run, among runs.
pub const LAST: &str = "last";
/// How far a checkpoint's run had come.
pub const STATE: &str = "state.json";
/// The parameters, their moving average and the optimiser's moments, in a checkpoint.
pub const TENSORS: &str = "state.safetensors";
/// The page that shows the run.
pub const REPORT: &str = "report.html";
/// The folder of figures.
pub const PLOTS: &str = "plots";
/// The folder of TensorBoard's event files.
pub const EVENTS: &str = "tensorboard";
/// Where a run's numbers ceased to be finite.
pub const DIVERGED: &str = "diverged.json";
/// The pictures that a run left out, with what is wrong with each.
pub const SKIPPED: &str = "skipped.txt";
/// The file that is locked by the process that trains.
pub const LOCK: &str = ".lock";

/// A checkpoint that is being removed has a name that begins so.
pub(crate) const OLD_CHECKPOINT: &str = ".tmp-vit-step-";
/// The link to the newest checkpoint, before it is put in the place of the one before.
pub(crate) const NEW_LAST: &str = ".tmp-vit-last";
