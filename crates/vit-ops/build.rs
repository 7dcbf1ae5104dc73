//! Compiles the CUDA kernels with nvcc, like candle's, if the feature `cuda` is on.

#[cfg(feature = "cuda")]
fn main() -> cudaforge::Result<()> {
    const KERNELS: &str = "src/cuda/kernels";
    println!("cargo::rerun-if-changed={KERNELS}");
    println!("cargo::rerun-if-env-changed=CUDA_COMPUTE_CAP");

    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
    let kernels = cudaforge::KernelBuilder::new()
        .source_dir(KERNELS)
        .args(["-std=c++17", "-O3"])
        .build_ptx()?;
    kernels.write(out.join("kernels.rs"))?;

    // `vit-device` uses it to check whether a GPU can run the build.
    let architecture = cudaforge::detect_compute_cap()?.to_nvcc_arch();
    let toolkit = cudaforge::CudaToolkit::detect()?.version.unwrap_or_default();
    println!("cargo::rustc-env=VIT_CUDA_ARCHITECTURE={architecture}");
    println!("cargo::rustc-env=VIT_CUDA_TOOLKIT={toolkit}");
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
