//! Gradients of parameters, summed as if each piece of a batch had a backward pass of its own.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, bail};

use crate::{backward, slices};

thread_local! {
    /// The pieces of the innermost call of [`backward_in_pieces`] on this thread.
    static PIECES: RefCell<Pieces> = const { RefCell::new(Pieces::WHOLE) };
}

struct Pieces {
    /// The number of samples in each; empty if there is one piece of any size.
    sizes: Vec<usize>,
    /// What an operation could not sum in pieces.
    refused: Option<&'static str>,
}

impl Pieces {
    const WHOLE: Self = Self { sizes: Vec::new(), refused: None };
}

/// Like [`backward`](crate::backward()), with the bits of one pass for each of these numbers of samples, whose gradients are
/// added along a binary tree: the left child of a node has as many pieces as the largest power of two below the node's.
///
/// This holds for operations of this crate with one gradient for each parameter, and for operations that treat samples
/// alike, one by one. It saves the rest of the cost of a pass.
///
/// # Errors
/// If candle cannot compute a gradient, or an operation has a token mask, a learned score bias, a parameter of an
/// earlier one, or no whole rows for each sample.
pub fn backward_in_pieces(loss: &Tensor, sizes: &[usize]) -> Result<GradStore> {
    if sizes.len() < 2 {
        return backward(loss);
    }
    let outer = PIECES.replace(Pieces { sizes: sizes.to_vec(), refused: None });
    let gradients = backward(loss);
    let Pieces { refused, .. } = PIECES.replace(outer);
    let gradients = gradients?;
    match refused {
        Some(what) => bail!("expected gradients that can be summed in pieces, got {what}"),
        None => Ok(gradients),
    }
}

/// Makes the pass an error if it is one in pieces.
pub(crate) fn refuse(what: &'static str) {
    PIECES.with_borrow_mut(|pieces| {
        if !pieces.sizes.is_empty() {
            pieces.refused = Some(what);
        }
    });
}

/// The rows of each piece, of so many rows in all.
fn of_rows(rows: usize) -> Vec<Range<usize>> {
    PIECES.with_borrow_mut(|pieces| {
        let samples = pieces.sizes.iter().sum::<usize>();
        if pieces.sizes.is_empty() || !rows.is_multiple_of(samples) {
            if !pieces.sizes.is_empty() {
                pieces.refused = Some("rows of no whole sample");
            }
            return vec![0..rows];
        }
        let of_sample = rows / samples;
        let ends = pieces.sizes.iter().scan(0, |end, size| {
            let start = *end;
            *end += size * of_sample;
            Some(start..*end)
        });
        ends.collect()
    })
}

/// A sum over rows. `each` returns the sum over some rows, or adds it to the one that it is given.
pub(crate) fn sum(
    rows: usize,
    mut each: impl FnMut(Range<usize>, Option<Vec<f32>>) -> Vec<f32>,
) -> Vec<f32> {
    // The sums of whole subtrees, with their numbers of pieces.
    let mut sums: Vec<(usize, Vec<f32>)> = Vec::new();
    for rows in of_rows(rows) {
        let sibling = sums.pop_if(|(pieces, _)| *pieces == 1);
        let mut pieces = 1 + usize::from(sibling.is_some());
        let mut sum = each(rows, sibling.map(|(_, sum)| sum));
        while let Some((_, left)) = sums.pop_if(|(left, _)| *left == pieces) {
            sum = added(left, &sum);
            pieces *= 2;
        }
        sums.push((pieces, sum));
    }
    let (_, last) = sums.pop().unwrap_or_default();
    sums.into_iter().rev().fold(last, |right, (_, left)| added(left, &right))
}

/// `left + right`
pub(crate) fn added(mut left: Vec<f32>, right: &[f32]) -> Vec<f32> {
    slices::add_scaled(&mut left, 1.0, right);
    left
}

/// The sum of some rows, added to the one that is given, if any.
pub(crate) fn added_to(given: Option<Vec<f32>>, sum: Vec<f32>) -> Vec<f32> {
    match given {
        Some(given) => added(given, &sum),
        None => sum,
    }
}
