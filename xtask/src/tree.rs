//! What a crate for other projects brings with it, beside what candle brings anyway.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::cargo::{cargo, stdout_of};

/// A crate, and all that its users compile which users of candle-core and candle-nn do not.
struct Added {
    name: &'static str,
    added: &'static [&'static str],
}

/// docs/dependencies.md tells of it.
const ADDED: [Added; 4] = [
    Added { name: "vit-ops", added: &["vit-ops", "vit-random"] },
    Added { name: "vit-patch", added: &["vit-ops", "vit-patch", "vit-random"] },
    Added { name: "vit-layers", added: &["vit-layers", "vit-ops", "vit-random"] },
    Added {
        name: "vit-model",
        added: &[
            "block-buffer",
            "const-oid",
            "cpufeatures",
            "crypto-common",
            "digest",
            "hybrid-array",
            "sha2",
            "typenum",
            "vit-files",
            "vit-layers",
            "vit-model",
            "vit-ops",
            "vit-patch",
            "vit-random",
        ],
    },
];

/// Holds the trees to the table.
pub(crate) fn check() -> Result<()> {
    let mut candle = tree("candle-core")?;
    candle.extend(tree("candle-nn")?);
    for Added { name, added } in ADDED {
        let found: Vec<String> = tree(name)?.difference(&candle).cloned().collect();
        ensure!(
            found == added,
            "{name}: expected to add {} to candle's dependencies, got {}",
            added.join(", "),
            found.join(", ")
        );
    }
    Ok(())
}

/// The names of all crates that are compiled for this one.
fn tree(name: &str) -> Result<BTreeSet<String>> {
    let mut tree = cargo("tree");
    tree.args(["--locked", "--package", name, "--edges=normal,build", "--prefix=none"]);
    Ok(names(&String::from_utf8(stdout_of(&mut tree)?)?))
}

/// The first word of each line: `name v1.2.3 (*)`.
fn names(tree: &str) -> BTreeSet<String> {
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_is_named_once_whatever_stands_behind_its_name() {
        let tree = "a v0.1.0 (/here)\nb v1.2.3\nb v1.2.3 (*)\nc v2.0.0 (proc-macro)\n\n";
        assert_eq!(names(tree), ["a", "b", "c"].map(str::to_owned).into());
    }
}
