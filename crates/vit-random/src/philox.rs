//! Philox4x32-10: ten rounds of multiply, exchange and add on a 128-bit counter under a 64-bit key.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
/// Weyl sequence: the golden ratio and the square root of three, minus one, in 32 bits.
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// The four 32-bit numbers at `counter`.
pub(crate) const fn block(mut counter: [u32; 4], seed: u64) -> [u32; 4] {
    let mut key = [seed as u32, (seed >> 32) as u32];
    let mut round = 0;
    while round < 10 {
        let product0 = MULTIPLIERS[0] as u64 * counter[0] as u64;
        let product1 = MULTIPLIERS[1] as u64 * counter[2] as u64;
        counter = [
            (product1 >> 32) as u32 ^ counter[1] ^ key[0],
            product1 as u32,
            (product0 >> 32) as u32 ^ counter[3] ^ key[1],
            product0 as u32,
        ];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
        round += 1;
    }
    counter
}

/// Blocks computed at once: one per 32-bit lane of the widest vector register.
pub(crate) const LANES: usize = 16;

/// The numbers of [`LANES`] consecutive blocks from `counter` on.
#[inline(always)]
pub(crate) fn blocks(counter: [u32; 4], seed: u64) -> [u32; 4 * LANES] {
    let mut state = counter.map(|word| [word; LANES]);
    for (lane, word) in state[0].iter_mut().enumerate() {
        *word = word.wrapping_add(lane as u32);
    }
    let mut key = [seed as u32, (seed >> 32) as u32];
    for _ in 0..10 {
        let [c0, c1, c2, c3] = state;
        for lane in 0..LANES {
            let product0 = u64::from(MULTIPLIERS[0]) * u64::from(c0[lane]);
            let product1 = u64::from(MULTIPLIERS[1]) * u64::from(c2[lane]);
            state[0][lane] = (product1 >> 32) as u32 ^ c1[lane] ^ key[0];
            state[1][lane] = product1 as u32;
            state[2][lane] = (product0 >> 32) as u32 ^ c3[lane] ^ key[1];
            state[3][lane] = product0 as u32;
        }
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    let mut out = [0; 4 * LANES];
    for (lane, block) in out.chunks_exact_mut(4).enumerate() {
        for (word, number) in block.iter_mut().enumerate() {
            *number = state[word][lane];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{LANES, block, blocks};

    #[test]
    fn blocks_at_once_equal_single_blocks() {
        let counter = [u32::MAX - 3, 7, 8, 9];
        let singly = (0..LANES as u32).flat_map(|lane| {
            let first = counter[0].wrapping_add(lane);
            block([first, counter[1], counter[2], counter[3]], 0x1234_5678_9abc_def0)
        });
        assert!(blocks(counter, 0x1234_5678_9abc_def0).into_iter().eq(singly));
    }

    /// The known answers of Random123's test, `kat_vectors`.
    #[test]
    fn numbers_equal_random123() {
        assert_eq!(block([0; 4], 0), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            block([u32::MAX; 4], u64::MAX),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            block([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], 0x299f_31d0_a409_3822),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }
}
