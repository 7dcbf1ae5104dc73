//! `env.json`: the environment of a run.

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use serde_json::json;
use vit_run::Environment;

use super::set_up::SetUp;
use crate::device;

/// Facts that explain differences in speed or last bits. Nothing that identifies the machine's owner.
pub(super) fn of_this_machine(set_up: &SetUp) -> Environment {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let begun = DateTime::<Utc>::from(SystemTime::now());
    let facts = [
        ("vit", json!(env!("CARGO_PKG_VERSION"))),
        ("commit", json!(option_env!("VIT_COMMIT"))),
        ("begun", json!(begun.format("%Y-%m-%d %H:%M:%S UTC").to_string())),
        ("system", json!(format!("{} {}", std::env::consts::OS, std::env::consts::ARCH))),
        ("processor", json!(processor())),
        ("instructions", json!(vit_ops::instruction_set())),
        ("device", json!(device::name(&set_up.device))),
        ("cores", json!(cores)),
        ("threads", json!(set_up.threads)),
        ("dataset", json!(set_up.found.dataset.name())),
        ("dataset_sha256", json!(set_up.found.digest().to_string())),
    ];
    let known = facts.into_iter().filter(|(_, value)| !value.is_null());
    Environment(known.map(|(name, value)| (name.to_owned(), value)).collect())
}

/// The processor's name, on Linux.
fn processor() -> Option<String> {
    let known = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = known.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
