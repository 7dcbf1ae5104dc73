//! The libraries that candle's CUDA build loads when it makes a device.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};

use crate::Unusable;
use crate::driver::open_first;

/// A library, and the version in its file name if it differs from the toolkit's.
struct Needed {
    library: &'static str,
    version: Option<u32>,
}

/// cuBLASLt comes before cuBLAS, which needs it and would otherwise be named instead.
const NEEDED: [Needed; 3] = [
    Needed { library: "cublasLt", version: None },
    Needed { library: "cublas", version: None },
    Needed { library: "curand", version: Some(10) },
];

/// Opens all of them.
pub(crate) fn check(toolkit: (u32, u32)) -> Result<(), Unusable> {
    for Needed { library, version } in NEEDED {
        let usual = usual(library, version.unwrap_or(toolkit.0));
        let mut names = candidates(library, toolkit);
        // The last error is reported, so the name that users can search for comes last.
        names.push(usual.clone());
        open_first(&names).map_err(|reason| Unusable::NoLibrary { library: usual, reason })?;
    }
    Ok(())
}

/// NVIDIA's name of the file.
fn usual(library: &str, version: u32) -> String {
    if cfg!(windows) {
        format!("{library}64_{version}.dll")
    } else {
        format!("{DLL_PREFIX}{library}{DLL_SUFFIX}.{version}")
    }
}

/// The names that cudarc 0.19 (`get_lib_name_candidates`) tries, in order, when it loads the library for candle.
fn candidates(library: &str, (major, minor): (u32, u32)) -> Vec<String> {
    let infixes = [
        String::new(),
        "64".to_owned(),
        format!("64_{major}"),
        format!("64_{major}{minor}"),
        format!("64_{major}{minor}_0"),
        format!("64_{major}0_{minor}"),
        "64_10".to_owned(),
        "64_11".to_owned(),
        "64_12".to_owned(),
        format!("64_{major}0_0"),
        "64_9".to_owned(),
    ];
    let whole = infixes.iter().map(|infix| format!("{DLL_PREFIX}{library}{infix}{DLL_SUFFIX}"));
    let versions = [major, 12, 11, 10, 9, 1];
    let numbered = versions.map(|version| format!("{DLL_PREFIX}{library}{DLL_SUFFIX}.{version}"));
    whole.chain(numbered).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn names_equal_cudarcs() {
        let names = candidates("cublas", (13, 0));
        assert_eq!(names.len(), 17);
        assert_eq!(names[..3], ["libcublas.so", "libcublas64.so", "libcublas64_13.so"]);
        assert_eq!(names[11..13], ["libcublas.so.13", "libcublas.so.12"]);
    }

    #[test]
    fn usual_names_are_tried() {
        for toolkit in [(12, 0), (12, 9), (13, 0)] {
            for Needed { library, version } in NEEDED {
                let usual = usual(library, version.unwrap_or(toolkit.0));
                if !cfg!(target_os = "macos") {
                    assert!(candidates(library, toolkit).contains(&usual), "{usual}");
                }
            }
        }
    }
}
