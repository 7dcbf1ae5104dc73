//! What our crates add to the dependencies of candle's users.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};

use crate::cargo::{cargo, stdout_of};

/// A crate, and the crates it adds beyond candle-core and candle-nn.
struct Added {
    name: &'static str,
    added: &'static [&'static str],
}

/// docs/dependencies.md has the same table.
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

/// Checks the dependency trees.
pub(crate) fn check() -> Result<()> {
    let mut candle = tree("candle-core")?;
    candle.extend(tree("candle-nn")?);
    for Added { name, added } in ADDED {
        let found = tree(name)?;
        // A second version of one of candle's crates counts as added.
        let found: Vec<&str> =
            found.difference(&candle).filter_map(|found| found.split(' ').next()).collect();
        ensure!(
            found == added,
            "{name}: expected to add {} to candle's dependencies, got {}",
            added.join(", "),
            found.join(", ")
        );
    }
    Ok(())
}

/// Names and versions of all crates compiled for this one.
fn tree(name: &str) -> Result<BTreeSet<String>> {
    let mut tree = cargo("tree");
    tree.args(["--locked", "--package", name, "--edges=normal,build", "--prefix=none"]);
    Ok(names_and_versions(&String::from_utf8(stdout_of(&mut tree)?)?))
}

/// The first two words of each line: `name v1.2.3 (*)`.
fn names_and_versions(tree: &str) -> BTreeSet<String> {
    let two_words = |line: &str| -> Option<String> {
        let mut words = line.split_whitespace();
        Some(format!("{} {}", words.next()?, words.next()?))
    };
    tree.lines().filter_map(two_words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_of_a_crate_is_listed_once() {
        let tree = "a v0.1.0 (/here)\nb v1.2.3\nb v1.2.3 (*)\nb v2.0.0 (proc-macro)\n\n";
        let want = ["a v0.1.0", "b v1.2.3", "b v2.0.0"].map(str::to_owned);
        assert_eq!(names_and_versions(tree), want.into());
    }
}
