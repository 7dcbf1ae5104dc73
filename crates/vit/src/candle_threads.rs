//! Threads of candle's own, which stay unused.
#![expect(unsafe_code, reason = "the environment is the only switch that candle has")]

const SWITCH: &str = "CANDLE_NUM_THREADS";

/// Keeps candle from splitting operations over threads, unless the environment says how many it may have.
///
/// To be called before all else. candle splits each elementwise operation of 65,536 elements or more over one
/// pool, which the shards would queue for, spinning; every core is at work on a shard already.
pub(crate) fn leave_unused() {
    if std::env::var_os(SWITCH).is_none() {
        // SAFETY: the program has one thread yet, so no other reads the environment.
        unsafe { std::env::set_var(SWITCH, "1") };
    }
}
