//! Scores to attention weights and back, row by row.

use crate::lanes::Lanes;
use crate::simd::Kernel;
use crate::slices::LANES;

/// Rows of scores become `softmax(scale s + mask)` over the tokens, with zeros at their ends.
pub(super) struct Softmax<'a> {
    pub(super) tokens: usize,
    pub(super) scale: f32,
    /// What is added to each row of scaled scores, in whole registers.
    pub(super) mask: Option<&'a [f32]>,
    /// (rows, `tokens` in whole registers)
    pub(super) scores: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let scale = lanes.splat(self.scale);
        for row in self.scores.chunks_exact_mut(self.tokens.next_multiple_of(LANES)) {
            let mut largest = lanes.splat(f32::NEG_INFINITY);
            for block in row.as_chunks_mut().0 {
                lanes.store(lanes.mul(scale, lanes.load(block)), block);
            }
            set_ends(row, self.tokens, f32::NEG_INFINITY);
            let row = row.as_chunks_mut().0;
            if let Some(mask) = self.mask {
                for (block, mask) in row.iter_mut().zip(mask.as_chunks().0) {
                    lanes.store(lanes.add(lanes.load(block), lanes.load(mask)), block);
                }
            }
            for block in row.iter() {
                largest = lanes.max(largest, lanes.load(block));
            }
            let largest = lanes.splat(lanes.largest(largest));
            let mut total = lanes.splat(0.0);
            for block in row.iter_mut() {
                let power = lanes.exp(lanes.sub(lanes.load(block), largest));
                total = lanes.add(total, power);
                lanes.store(power, block);
            }
            let share = lanes.splat(1.0 / lanes.sum(total));
            for block in row {
                lanes.store(lanes.mul(share, lanes.load(block)), block);
            }
        }
    }
}

/// Rows of gradients of dropped weights become those of scores: with weights `P` before and `W` after dropout,
/// `dS = scale (W ∘ dW - P sum(W ∘ dW))`.
pub(super) struct GradScores<'a> {
    pub(super) tokens: usize,
    pub(super) scale: f32,
    pub(super) before_dropout: &'a [f32],
    pub(super) after_dropout: &'a [f32],
    pub(super) grad: &'a mut [f32],
}

impl Kernel for GradScores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let row_len = self.tokens.next_multiple_of(LANES);
        let scale = lanes.splat(self.scale);
        let before = self.before_dropout.chunks_exact(row_len);
        let weights = before.zip(self.after_dropout.chunks_exact(row_len));
        for (row, (before, after)) in self.grad.chunks_exact_mut(row_len).zip(weights) {
            // What was there before may be no number.
            set_ends(row, self.tokens, 0.0);
            let (row, before, after) =
                (row.as_chunks_mut().0, before.as_chunks().0, after.as_chunks().0);
            let mut total = lanes.splat(0.0);
            for (grad, after) in row.iter_mut().zip(after) {
                let product = lanes.mul(lanes.load(grad), lanes.load(after));
                total = lanes.add(total, product);
                lanes.store(product, grad);
            }
            let total = lanes.splat(lanes.sum(total));
            for (grad, before) in row.iter_mut().zip(before) {
                let taken_off = lanes.mul(lanes.load(before), total);
                lanes.store(lanes.mul(scale, lanes.sub(lanes.load(grad), taken_off)), grad);
            }
        }
    }
}

/// Sets what follows a row's tokens, without the call that filling an unknown length is.
#[inline(always)]
fn set_ends(row: &mut [f32], tokens: usize, end: f32) {
    for x in &mut row[tokens..] {
        *x = end;
    }
}

/// What is added to a register of scores: the mask's, or 0 for tokens and negative infinity beyond them.
#[derive(Clone, Copy)]
pub(super) struct Beyond<L: Lanes>(L::Vector);

impl<L: Lanes> Beyond<L> {
    #[inline(always)]
    pub(super) fn of(lanes: L, tokens: usize, mask: Option<&[f32]>) -> Self {
        if let Some(mask) = mask.and_then(<[f32]>::first_chunk) {
            return Self(lanes.load(mask));
        }
        let mut beyond = [0.0; LANES];
        for x in beyond.iter_mut().skip(tokens) {
            *x = f32::NEG_INFINITY;
        }
        Self(lanes.load(&beyond))
    }
}

/// Replaces each register by its softmax, step by step for all of them, since each step waits for the one before.
#[inline(always)]
pub(super) fn softmax_registers<L: Lanes, const R: usize>(
    lanes: L,
    rows: &mut [L::Vector; R],
    scale: f32,
    beyond: Beyond<L>,
) {
    let scale = lanes.splat(scale);
    let mut edges = [0.0; R];
    for (row, largest) in rows.iter_mut().zip(&mut edges) {
        *row = lanes.add(lanes.mul(scale, *row), beyond.0);
        *largest = lanes.largest(*row);
    }
    for (row, largest) in rows.iter_mut().zip(&edges) {
        *row = lanes.exp(lanes.sub(*row, lanes.splat(*largest)));
    }
    for (row, total) in rows.iter().zip(&mut edges) {
        *total = lanes.sum(*row);
    }
    // Apart from what follows, for one division of them all.
    let shares = edges.map(|total| 1.0 / total);
    for (row, share) in rows.iter_mut().zip(&shares) {
        *row = lanes.mul(lanes.splat(*share), *row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::run_on_every_path;

    #[derive(Clone, Copy)]
    struct ThereAndBack<'a> {
        scores: &'a [f32],
        tokens: usize,
    }

    impl Kernel for ThereAndBack<'_> {
        type Output = [Vec<f32>; 2];

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> [Vec<f32>; 2] {
            let Self { scores, tokens } = self;
            let mut weights = scores.to_vec();
            let mut grad: Vec<f32> = scores.iter().map(|x| x * x).collect();
            Softmax { tokens, scale: 0.5, mask: None, scores: &mut weights }.run(lanes);
            let (before_dropout, after_dropout) = (&weights[..], &weights[..]);
            let grad_mut = &mut grad[..];
            GradScores { tokens, scale: 0.5, before_dropout, after_dropout, grad: grad_mut }
                .run(lanes);
            [weights, grad]
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for tokens in [1_usize, 15, 16, 17, 197] {
            let len = 3 * tokens.next_multiple_of(LANES);
            let scores: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
            let paths = run_on_every_path(ThereAndBack { scores: &scores, tokens });
            for (path, bits) in &paths {
                assert_eq!(bits, &paths[0].1, "{path}, {tokens} tokens");
            }
        }
    }

    #[test]
    fn rows_sum_to_one_even_where_exp_would_overflow() {
        let mut row = vec![0.0; 32];
        row[..3].copy_from_slice(&[1e4, 9e3, -1e4]);
        for (path, [weights, _]) in run_on_every_path(ThereAndBack { scores: &row, tokens: 17 }) {
            assert_eq!(weights[..3], [1.0, 0.0, 0.0], "{path}");
            assert_eq!(weights[17..], [0.0; 15], "{path}");
        }
    }

    #[test]
    fn what_lay_beyond_the_tokens_does_not_matter() {
        let clean: Vec<f32> = (0..32).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut dirty = clean.clone();
        dirty[17..].fill(f32::NAN);
        let [clean, dirty] = [&clean, &dirty]
            .map(|scores| run_on_every_path(ThereAndBack { scores, tokens: 17 }).remove(0).1);
        assert_eq!(clean, dirty);
    }
}
