//! The `vit` command.

/// Keeps freed pages: glibc's allocator would map and unmap the pages of every large tensor.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    vit::run()
}
