//! Which crate may depend on which.

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::cargo::metadata;
use crate::{circles, tree};

/// A crate's permitted dependencies. Dev-dependencies are exempt, because users do not build them.
struct Layer {
    name: &'static str,
    /// Permitted crates of this workspace.
    ours: &'static [&'static str],
    /// Permitted crates of candle.
    candle: &'static [&'static str],
}

const NO_CANDLE: &[&str] = &[];
/// Crates for other projects do not depend on datasets.
const CANDLE_ALONE: &[&str] = &["candle-core", "candle-nn"];
const ANY_CANDLE: &[&str] = &["candle-core", "candle-nn", "candle-datasets"];

const LAYERS: &[Layer] = &[
    Layer { name: "vit-random", ours: &[], candle: NO_CANDLE },
    Layer { name: "vit-files", ours: &[], candle: NO_CANDLE },
    Layer { name: "vit-run", ours: &["vit-files"], candle: NO_CANDLE },
    Layer { name: "vit-device", ours: &[], candle: NO_CANDLE },
    Layer { name: "vit-ops", ours: &["vit-random"], candle: CANDLE_ALONE },
    Layer { name: "vit-patch", ours: &["vit-ops"], candle: CANDLE_ALONE },
    Layer { name: "vit-layers", ours: &["vit-ops", "vit-random"], candle: CANDLE_ALONE },
    Layer {
        name: "vit-model",
        ours: &["vit-ops", "vit-patch", "vit-layers", "vit-files"],
        candle: CANDLE_ALONE,
    },
    Layer {
        name: "vit-onnx",
        ours: &["vit-patch", "vit-layers", "vit-model"],
        candle: &["candle-core"],
    },
    Layer { name: "vit-pictures", ours: &["vit-random", "vit-files"], candle: NO_CANDLE },
    Layer { name: "vit-digits", ours: &["vit-pictures"], candle: NO_CANDLE },
    Layer {
        name: "vit-data",
        ours: &["vit-random", "vit-files", "vit-pictures"],
        candle: ANY_CANDLE,
    },
    Layer { name: "vit-fetch", ours: &["vit-files"], candle: NO_CANDLE },
    Layer {
        name: "vit-train",
        ours: &["vit-ops", "vit-random", "vit-run", "vit-files"],
        candle: CANDLE_ALONE,
    },
    Layer { name: "vit-cluster", ours: &["vit-train"], candle: NO_CANDLE },
    Layer { name: "vit-report", ours: &["vit-run", "vit-files"], candle: NO_CANDLE },
    Layer { name: "vit-serve", ours: &["vit-run", "vit-files"], candle: NO_CANDLE },
    Layer {
        name: "vit",
        ours: &[
            "vit-random",
            "vit-files",
            "vit-device",
            "vit-ops",
            "vit-patch",
            "vit-layers",
            "vit-model",
            "vit-onnx",
            "vit-data",
            "vit-pictures",
            "vit-digits",
            "vit-fetch",
            "vit-train",
            "vit-cluster",
            "vit-report",
            "vit-run",
            "vit-serve",
        ],
        candle: ANY_CANDLE,
    },
    Layer { name: "xtask", ours: &["vit-fetch", "vit-device"], candle: NO_CANDLE },
];

/// Checks all manifests.
pub(crate) fn check() -> Result<()> {
    let violations = violations(&metadata()?);
    ensure!(violations.is_empty(), "{}", violations.join("; "));
    circles::check()?;
    tree::check()
}

fn violations(metadata: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    for package in items(&metadata["packages"]) {
        let name = text(&package["name"]);
        let Some(layer) = LAYERS.iter().find(|layer| layer.name == name) else {
            violations.push(format!("{name} is not in the table of layers"));
            continue;
        };
        let dependencies = items(&package["dependencies"]);
        for used in
            dependencies.filter(|used| used["kind"] != "dev").map(|used| text(&used["name"]))
        {
            if !layer.allows(used) {
                violations.push(format!("{name} must not depend on {used}"));
            }
        }
    }
    violations
}

impl Layer {
    fn allows(&self, used: &str) -> bool {
        if used.starts_with("candle-") {
            self.candle.contains(&used)
        } else {
            // External crates are permitted.
            self.ours.contains(&used) || !LAYERS.iter().any(|layer| layer.name == used)
        }
    }
}

pub(crate) fn items(array: &Value) -> impl Iterator<Item = &Value> {
    array.as_array().into_iter().flatten()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(package: &str, kind: &Value, used: &str) -> Vec<String> {
        let dependencies = [json!({ "name": used, "kind": kind })];
        violations(&json!({ "packages": [{ "name": package, "dependencies": dependencies }] }))
    }

    #[test]
    fn forbidden_dependencies_are_named() {
        let normal = Value::Null;
        assert_eq!(of("vit-ops", &normal, "vit-layers"), ["vit-ops must not depend on vit-layers"]);
        assert_eq!(of("xtask", &normal, "candle-core"), ["xtask must not depend on candle-core"]);
        let expected = ["vit-model must not depend on candle-datasets"];
        assert_eq!(of("vit-model", &normal, "candle-datasets"), expected);
        let expected = ["vit-files must not depend on vit-random"];
        assert_eq!(of("vit-files", &json!("build"), "vit-random"), expected);
        assert_eq!(of("vit-new", &normal, "serde"), ["vit-new is not in the table of layers"]);
    }

    #[test]
    fn permitted_external_and_dev_dependencies_pass() {
        for used in ["vit-random", "candle-core", "serde"] {
            assert!(of("vit-ops", &Value::Null, used).is_empty(), "{used}");
        }
        assert!(of("vit-train", &json!("dev"), "vit-model").is_empty());
    }
}
