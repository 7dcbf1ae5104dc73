//! Keeps candle's own thread pool unused.
#![expect(unsafe_code, reason = "candle's only setting for threads is an environment variable")]

const SWITCH: &str = "CANDLE_NUM_THREADS";

/// Stops candle from splitting operations over threads, unless the environment variable is set already.
///
/// Call it first. candle splits each elementwise operation of 65,536 elements or more over one pool, for which all
/// shards would queue, spinning; but every core is computing a shard already.
pub(crate) fn leave_unused() {
    if std::env::var_os(SWITCH).is_none() {
        // SAFETY: the program has only one thread yet, so no other thread reads the environment.
        unsafe { std::env::set_var(SWITCH, "1") };
    }
}
