//! Scores to attention weights and back, row by row.

use super::sample::Rows;
use crate::exp::exp;
use crate::lanes::Lanes;
use crate::simd::Kernel;
use crate::slices::{LANES, copy};

/// The numbers added to the scaled scores of one head of one sample.
#[derive(Clone, Copy, Default)]
pub(super) struct Added<'a> {
    /// Added to each row, in whole registers: negative infinity for padding.
    pub(super) mask: Option<&'a [f32]>,
    /// Whether query `i` sees only keys up to `i`.
    pub(super) causal: bool,
    /// (queries, tokens), in rows as long as the longest sample's.
    pub(super) bias: Option<Rows<'a>>,
}

impl<'a> Added<'a> {
    /// Whether all rows get the same numbers.
    #[inline(always)]
    pub(super) fn to_all_rows(self) -> bool {
        !self.causal && self.bias.is_none()
    }

    /// The number of keys that a query sees.
    #[inline(always)]
    fn seen(self, query: usize, tokens: usize) -> usize {
        if self.causal { tokens.min(query + 1) } else { tokens }
    }

    /// The row of one query, if it fits into a register.
    #[inline(always)]
    pub(super) fn register<L: Lanes>(self, lanes: L, query: usize, tokens: usize) -> L::Vector {
        let mut row = [f32::NEG_INFINITY; LANES];
        let seen = self.seen(query, tokens);
        match self.bias {
            Some(bias) => copy(&bias.get(query)[..seen], &mut row),
            None => {
                for x in row.iter_mut().take(seen) {
                    *x = 0.0;
                }
            }
        }
        match self.mask.and_then(<[f32]>::first_chunk) {
            Some(mask) => lanes.add(lanes.load(&row), lanes.load(mask)),
            None => lanes.load(&row),
        }
    }
}

/// Replaces rows of scores with `softmax(scale s + added)` over the tokens, with zeros at the ends. A row that sees no
/// key becomes zeros.
pub(super) struct Softmax<'a> {
    pub(super) tokens: usize,
    pub(super) scale: f32,
    pub(super) added: Added<'a>,
    /// The query of the first row.
    pub(super) first: usize,
    /// (rows, `tokens` in whole registers)
    pub(super) scores: &'a mut [f32],
}

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { tokens, added, first, .. } = self;
        let scale = lanes.splat(self.scale);
        let row_len = tokens.next_multiple_of(LANES);
        for (row, query) in self.scores.chunks_exact_mut(row_len).zip(first..) {
            let seen = added.seen(query, tokens);
            let (row, unseen) = row.split_at_mut(seen.next_multiple_of(LANES));
            set_ends(unseen, 0, 0.0);
            let mut largest = lanes.splat(f32::NEG_INFINITY);
            for block in row.as_chunks_mut().0 {
                lanes.store(lanes.mul(scale, lanes.load(block)), block);
            }
            if let Some(bias) = added.bias {
                add(lanes, row, &bias.get(query)[..seen]);
            }
            set_ends(row, seen, f32::NEG_INFINITY);
            let row = row.as_chunks_mut().0;
            if let Some(mask) = added.mask {
                for (block, mask) in row.iter_mut().zip(mask.as_chunks().0) {
                    lanes.store(lanes.add(lanes.load(block), lanes.load(mask)), block);
                }
            }
            for block in row.iter() {
                largest = lanes.max(largest, lanes.load(block));
            }
            let largest = lanes.splat(finite(lanes.largest(largest)));
            let mut total = lanes.splat(0.0);
            for block in row.iter_mut() {
                let power = exp(lanes, lanes.sub(lanes.load(block), largest));
                total = lanes.add(total, power);
                lanes.store(power, block);
            }
            let share = lanes.splat(share(lanes.sum(total)));
            for block in row {
                lanes.store(lanes.mul(share, lanes.load(block)), block);
            }
        }
    }
}

/// `row_i += xs_i`, up to the length of `xs`.
#[inline(always)]
fn add<L: Lanes>(lanes: L, row: &mut [f32], xs: &[f32]) {
    let (blocks, rest) = xs.as_chunks();
    let (rows, rest_of_row) = row.as_chunks_mut();
    for (row, xs) in rows.iter_mut().zip(blocks) {
        lanes.store(lanes.add(lanes.load(row), lanes.load(xs)), row);
    }
    let rest_of_row = rows.get_mut(blocks.len()).map_or(rest_of_row, |row| &mut row[..]);
    for (x, y) in rest_of_row.iter_mut().zip(rest) {
        *x += y;
    }
}

/// The largest score, or 0 if no key is seen, because infinity minus itself would be NaN.
#[inline(always)]
fn finite(largest: f32) -> f32 {
    if largest == f32::NEG_INFINITY { 0.0 } else { largest }
}

/// The factor of the exponentials; 0 if their sum is 0.
#[inline(always)]
fn share(total: f32) -> f32 {
    if total == 0.0 { 0.0 } else { 1.0 / total }
}

/// Replaces rows of gradients of dropped weights with gradients of scores: with weights `P` before and `W` after
/// dropout,
/// `dS = scale (W ∘ dW - P sum(W ∘ dW))`.
pub(super) struct GradScores<'a> {
    pub(super) tokens: usize,
    pub(super) scale: f32,
    /// Whether query `i` sees only keys up to `i`; the first row is query 0. The gradients of other keys are not read
    /// and become zeros.
    pub(super) causal: bool,
    pub(super) before_dropout: &'a [f32],
    pub(super) after_dropout: &'a [f32],
    pub(super) grad: &'a mut [f32],
    /// The unscaled gradient, which belongs to the numbers added to the scores, if requested.
    pub(super) of_added: Option<&'a mut [f32]>,
}

impl Kernel for GradScores<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let row_len = self.tokens.next_multiple_of(LANES);
        let scale = lanes.splat(self.scale);
        let before = self.before_dropout.chunks_exact(row_len);
        let weights = before.zip(self.after_dropout.chunks_exact(row_len));
        let mut of_added = self.of_added.map(|of_added| of_added.chunks_exact_mut(row_len));
        let added = Added { causal: self.causal, ..Added::default() };
        let rows = self.grad.chunks_exact_mut(row_len).zip(weights);
        for (query, (row, (before, after))) in rows.enumerate() {
            let seen = added.seen(query, self.tokens);
            // The memory may hold NaN.
            set_ends(row, seen, 0.0);
            let row = &mut row[..seen.next_multiple_of(LANES)];
            let (row, before, after) =
                (row.as_chunks_mut().0, before.as_chunks().0, after.as_chunks().0);
            let mut total = lanes.splat(0.0);
            for (grad, after) in row.iter_mut().zip(after) {
                let product = lanes.mul(lanes.load(grad), lanes.load(after));
                total = lanes.add(total, product);
                lanes.store(product, grad);
            }
            let total = lanes.splat(lanes.sum(total));
            if let Some(of_added) = of_added.as_mut().and_then(Iterator::next) {
                set_ends(of_added, seen, 0.0);
                let of_added = of_added.as_chunks_mut().0.iter_mut();
                for ((of_added, grad), before) in of_added.zip(row.iter()).zip(before) {
                    let taken_off = lanes.mul(lanes.load(before), total);
                    lanes.store(lanes.sub(lanes.load(grad), taken_off), of_added);
                }
            }
            for (grad, before) in row.iter_mut().zip(before) {
                let taken_off = lanes.mul(lanes.load(before), total);
                lanes.store(lanes.mul(scale, lanes.sub(lanes.load(grad), taken_off)), grad);
            }
        }
    }
}

/// Sets the numbers after a row's tokens without a `memset` call.
#[inline(always)]
fn set_ends(row: &mut [f32], tokens: usize, end: f32) {
    for x in &mut row[tokens..] {
        *x = end;
    }
}

/// Replaces each register with its softmax. All registers go through each step together, because each step waits for
/// the previous one.
#[inline(always)]
pub(super) fn softmax_registers<L: Lanes, const R: usize>(
    lanes: L,
    rows: &mut [L::Vector; R],
    scale: f32,
    added: impl Fn(usize) -> L::Vector,
) {
    let scale = lanes.splat(scale);
    let mut edges = [0.0; R];
    for (r, (row, largest)) in rows.iter_mut().zip(&mut edges).enumerate() {
        *row = lanes.add(lanes.mul(scale, *row), added(r));
        *largest = finite(lanes.largest(*row));
    }
    for (row, largest) in rows.iter_mut().zip(&edges) {
        *row = exp(lanes, lanes.sub(*row, lanes.splat(*largest)));
    }
    for (row, total) in rows.iter().zip(&mut edges) {
        *total = lanes.sum(*row);
    }
    // A separate step, so that one division serves all.
    let shares = edges.map(share);
    for (row, share) in rows.iter_mut().zip(&shares) {
        *row = lanes.mul(lanes.splat(*share), *row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{self, run_on_every_path};

    #[derive(Clone, Copy)]
    struct ThereAndBack<'a> {
        scores: &'a [f32],
        tokens: usize,
        causal: bool,
    }

    impl Kernel for ThereAndBack<'_> {
        type Output = [Vec<f32>; 2];

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> [Vec<f32>; 2] {
            let Self { scores, tokens, .. } = self;
            let mut weights = scores.to_vec();
            let mut grad: Vec<f32> = scores.iter().map(|x| x * x).collect();
            let added = Added { causal: self.causal, ..Added::default() };
            Softmax { tokens, scale: 0.5, added, first: 0, scores: &mut weights }.run(lanes);
            let (before_dropout, after_dropout) = (&weights[..], &weights[..]);
            let grad_mut = &mut grad[..];
            GradScores {
                tokens,
                scale: 0.5,
                causal: self.causal,
                before_dropout,
                after_dropout,
                grad: grad_mut,
                of_added: None,
            }
            .run(lanes);
            [weights, grad]
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for tokens in [1_usize, 15, 16, 17, 197] {
            let len = 3 * tokens.next_multiple_of(LANES);
            let scores: Vec<f32> = (0..len).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
            for causal in [false, true] {
                let there_and_back = ThereAndBack { scores: &scores, tokens, causal };
                simd::assert_paths_agree((tokens, causal), |arch| {
                    simd::run_on(arch, there_and_back).concat()
                });
            }
        }
    }

    #[test]
    fn rows_sum_to_one_even_if_exp_would_overflow() {
        let mut row = vec![0.0; 32];
        row[..3].copy_from_slice(&[1e4, 9e3, -1e4]);
        for (path, [weights, _]) in
            run_on_every_path(ThereAndBack { scores: &row, tokens: 17, causal: false })
        {
            assert_eq!(weights[..3], [1.0, 0.0, 0.0], "{path}");
            assert_eq!(weights[17..], [0.0; 15], "{path}");
        }
    }

    #[test]
    fn numbers_beyond_the_tokens_do_not_matter() {
        let clean: Vec<f32> = (0..32).map(|i| (i as f32 * 0.37).sin()).collect();
        let mut dirty = clean.clone();
        dirty[17..].fill(f32::NAN);
        let [clean, dirty] = [&clean, &dirty]
            .map(|scores| ThereAndBack { scores, tokens: 17, causal: false })
            .map(|there_and_back| run_on_every_path(there_and_back).remove(0).1);
        assert_eq!(clean, dirty);
    }
}
