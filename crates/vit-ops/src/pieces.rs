//! Gradients of parameters, summed as if each piece of a batch had a backward pass of its own.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{Result, Tensor, bail};

use crate::buffer::Buffer;
use crate::{backward, simd, slices};

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

/// Sums of `len` numbers over rows. `each` writes the sum over some rows. These may be two equal pieces of up to `pairs_of`
/// rows: the third argument is the number of rows in a piece, and the sum is the sum of both pieces' sums.
pub(crate) fn sum(
    (rows, len): (usize, usize),
    pairs_of: usize,
    mut each: impl FnMut(Range<usize>, &mut [f32], usize),
) -> Vec<f32> {
    let mut total = vec![0.0; len];
    let pieces = of_rows(rows);
    // The numbers of pieces in subtrees, from left to right, and the sums of all but the first.
    let (mut nodes, mut sums) = (Vec::new(), Vec::new());
    let mut rest = &pieces[..];
    while let [piece, after @ ..] = rest {
        let is_left = nodes.last() != Some(&1) && piece.len() <= pairs_of;
        let (rows, count) = match after {
            [next, ..] if is_left && next.len() == piece.len() => (piece.start..next.end, 2),
            _ => (piece.clone(), 1),
        };
        rest = &rest[count..];
        nodes.push(count);
        let sum = match nodes.len() {
            1 => &mut total,
            index => {
                if index > sums.len() + 1 {
                    sums.push(Buffer::dirty(len));
                }
                &mut *sums[index - 2]
            }
        };
        each(rows, sum, piece.len());
        while let [.., left, right] = nodes[..]
            && left == right
        {
            merge(&mut total, &mut sums, &mut nodes);
        }
    }
    while nodes.len() > 1 {
        merge(&mut total, &mut sums, &mut nodes);
    }
    total
}

/// Adds the last node to the one before it.
fn merge(total: &mut [f32], sums: &mut [Buffer], nodes: &mut Vec<usize>) {
    let (before, right) = sums.split_at_mut(nodes.len() - 2);
    let left = before.last_mut().map_or(total, |left| left);
    simd::dispatch(
        #[inline(always)]
        || slices::add_scaled(left, 1.0, &right[0]),
    );
    let right = nodes.pop().unwrap_or(0);
    if let Some(left) = nodes.last_mut() {
        *left += right;
    }
}
