//! The architectures a program was compiled for.
//!
//! Which GPU runs which code: CUDA C++ Programming Guide, "Compute Capabilities", and for the letters "Feature Set
//! Compiler Targets" there.

use crate::version;

/// Architectures of a program's kernels, and the toolkit that compiled them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// nvcc's name of the architecture, such as `sm_90a`.
    pub architecture: String,
    /// The toolkit's version.
    pub toolkit: (u32, u32),
}

/// An architecture or toolkit version that cannot be parsed.
#[derive(Debug, thiserror::Error)]
#[error("expected {expected}, got {got:?}")]
pub struct NotABuild {
    expected: &'static str,
    got: String,
}

impl Build {
    /// Parses nvcc's names, such as `sm_90a` and `13.0`.
    ///
    /// # Errors
    /// If one of them has another form.
    pub fn parse(architecture: &str, toolkit: &str) -> Result<Self, NotABuild> {
        let not = |expected, got: &str| NotABuild { expected, got: got.to_owned() };
        if Target::parse(architecture).is_none() {
            return Err(not("an architecture such as sm_90a", architecture));
        }
        let version = version::parse(toolkit);
        let toolkit = version.ok_or_else(|| not("a toolkit's version such as 13.0", toolkit))?;
        Ok(Self { architecture: architecture.to_owned(), toolkit })
    }

    /// Whether a GPU of this compute capability runs the build. `false` for an unknown architecture.
    pub(crate) fn runs_on(&self, capability: (u32, u32)) -> bool {
        Target::parse(&self.architecture).is_some_and(|target| target.runs_on(capability))
    }
}

/// A parsed architecture name.
struct Target {
    capability: (u32, u32),
    portable: Portable,
}

/// Which other GPUs run the code.
enum Portable {
    /// None, letter `a`.
    No,
    /// Later ones of the same major number, letter `f`.
    Family,
    /// All later ones, whose driver compiles the PTX.
    Later,
}

impl Target {
    fn parse(architecture: &str) -> Option<Self> {
        let name = architecture.strip_prefix("sm_")?;
        let (digits, portable) = match name.strip_suffix(['a', 'f']) {
            Some(digits) if name.ends_with('a') => (digits, Portable::No),
            Some(digits) => (digits, Portable::Family),
            None => (name, Portable::Later),
        };
        // The last digit is the minor number: 120 is 12.0.
        let number: u32 = digits.parse().ok().filter(|number| *number >= 10)?;
        Some(Self { capability: (number / 10, number % 10), portable })
    }

    fn runs_on(&self, capability: (u32, u32)) -> bool {
        match self.portable {
            Portable::No => capability == self.capability,
            Portable::Family => {
                capability.0 == self.capability.0 && capability.1 >= self.capability.1
            }
            Portable::Later => capability >= self.capability,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(architecture: &str, capability: (u32, u32)) -> bool {
        Build::parse(architecture, "13.0").unwrap().runs_on(capability)
    }

    #[test]
    fn architecture_a_runs_on_its_own_capability_only() {
        assert!(runs("sm_90a", (9, 0)));
        for other in [(8, 9), (9, 1), (10, 0)] {
            assert!(!runs("sm_90a", other), "{other:?}");
        }
    }

    #[test]
    fn architecture_f_runs_on_its_family() {
        assert!(runs("sm_100f", (10, 0)) && runs("sm_100f", (10, 3)));
        assert!(!runs("sm_103f", (10, 0)) && !runs("sm_100f", (12, 0)));
    }

    #[test]
    fn plain_architecture_runs_on_all_later_gpus() {
        for later in [(8, 0), (8, 6), (9, 0), (12, 0)] {
            assert!(runs("sm_80", later), "{later:?}");
        }
        assert!(!runs("sm_80", (7, 5)) && !runs("sm_120", (9, 0)));
    }

    #[test]
    fn invalid_build_is_named_in_the_error() {
        for architecture in ["", "90a", "sm_", "sm_9", "sm_90b", "sm_a", "compute_90"] {
            let message = Build::parse(architecture, "13.0").unwrap_err().to_string();
            let expected = "expected an architecture such as sm_90a, got";
            assert_eq!(message, format!("{expected} {architecture:?}"));
        }
        for toolkit in ["", "13", "13.x", "13.0.88"] {
            let message = Build::parse("sm_90a", toolkit).unwrap_err().to_string();
            let expected = "expected a toolkit's version such as 13.0, got";
            assert_eq!(message, format!("{expected} {toolkit:?}"));
        }
    }
}
