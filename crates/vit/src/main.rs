//! The `vit` command.

#![expect(unsafe_code, reason = "mimalloc's options are set through C")]

use std::process::ExitCode;

/// Keeps freed pages: glibc's allocator would map and unmap the pages of every large tensor.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay`: milliseconds until a freed page returns to the system.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

fn main() -> ExitCode {
    // Longer than a step of a large model, which would otherwise fault in its pages again: a tenth of its time.
    // SAFETY: it stores a number, before there is another thread.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, 30_000) };
    vit::run()
}
