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
    /// Why the pass is an error.
    refused: Option<&'static str>,
}

impl Pieces {
    const WHOLE: Self = Self { sizes: Vec::new(), refused: None };
}

/// Like [`backward`](crate::backward()), with the bits of one pass for each of these numbers of samples, whose gradients
/// are added along a binary tree: the left child of a node has as many pieces as the largest power of two below the
/// node's.
///
/// Each parameter must belong to one operation of this crate, and all operations must compute each sample from that sample
/// alone. Some violations are errors, others change bits.
///
/// # Errors
/// If candle cannot compute a gradient, an encoder has a token mask, a learned score bias or a parameter of another one, or
/// an operation's number of rows is not a multiple of the number of samples.
pub fn backward_in_pieces(loss: &Tensor, sizes: &[usize]) -> Result<GradStore> {
    let sizes = if sizes.len() > 1 { sizes.to_vec() } else { Vec::new() };
    let _pass = Pass(PIECES.replace(Pieces { sizes, refused: None }));
    let gradients = backward(loss)?;
    match PIECES.with_borrow(|pieces| pieces.refused) {
        Some(what) => bail!("expected gradients that can be summed in pieces, got {what}"),
        None => Ok(gradients),
    }
}

/// Puts the pieces of the surrounding pass back when an inner one ends, also by an error or a panic.
struct Pass(Pieces);

impl Drop for Pass {
    fn drop(&mut self) {
        PIECES.set(std::mem::replace(&mut self.0, Pieces::WHOLE));
    }
}

/// Makes the pass an error if it is one in pieces.
pub(crate) fn refuse(what: &'static str) {
    PIECES.with_borrow_mut(|pieces| {
        if !pieces.sizes.is_empty() {
            pieces.refused.get_or_insert(what);
        }
    });
}

/// The rows of each piece, of so many rows in all.
fn of_rows(rows: usize) -> Vec<Range<usize>> {
    PIECES.with_borrow_mut(|pieces| {
        let samples = pieces.sizes.iter().sum::<usize>();
        if samples == 0 {
            return std::iter::once(0..rows).collect();
        }
        if !rows.is_multiple_of(samples) {
            pieces.refused.get_or_insert("a number of rows that is not a multiple of the samples");
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

/// Sums of `len` numbers over rows. `each` writes the sum over a piece's rows.
pub(crate) fn sum(
    size: (usize, usize),
    mut each: impl FnMut(Range<usize>, &mut [f32]),
) -> Vec<f32> {
    sum_several(size, |_| 1, |rows, total, _| each(rows, total))
}

/// The same, where `each` may also be given the rows of several pieces of the same size, a power of two up to `at_once` of
/// that size, and writes the sum along their tree. Its last argument is the size.
pub(crate) fn sum_several(
    (rows, len): (usize, usize),
    at_once: impl Fn(usize) -> usize,
    mut each: impl FnMut(Range<usize>, &mut [f32], usize),
) -> Vec<f32> {
    let mut total = vec![0.0; len];
    let pieces = of_rows(rows);
    // The numbers of pieces in subtrees, from left to right, and the sums of all but the first.
    let (mut nodes, mut sums) = (Vec::new(), Vec::new());
    let mut rest = &pieces[..];
    while let [piece, ..] = rest {
        let mut count = nodes.last().map_or(usize::MAX, |&last| last).min(at_once(piece.len()));
        let are_equal = |pieces: &[Range<usize>]| pieces.iter().all(|of| of.len() == piece.len());
        while !rest.get(..count).is_some_and(are_equal) {
            count /= 2;
        }
        let (these, after) = rest.split_at(count);
        rest = after;
        let rows = piece.start..these[count - 1].end;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tensors;
    use crate::{
        Activation, Affine, Attend, AttentionBranch, BranchEnd, FeedForwardBranch, Norm, Queries,
        Stage, TokenMask,
    };
    use candle_core::Var;

    const DIM: usize = 8;

    type Parameters = Vec<Var>;

    fn parameters(shapes: &[&[usize]]) -> Result<Parameters> {
        shapes.iter().map(|&shape| Var::from_tensor(&tensors::<1>(&[shape])?[0])).collect()
    }

    /// The gradients of samples `range`, in one pass.
    fn gradients(
        forward: &dyn Fn(&Tensor) -> Result<Tensor>,
        (xs, range): (&Tensor, Range<usize>),
        (parameters, sizes): (&Parameters, &[usize]),
    ) -> Result<Vec<Vec<f32>>> {
        let ys = forward(&xs.narrow(0, range.start, range.len())?)?;
        // Weighted, because a plain sum after a layer norm has gradient zero.
        let loss = (&ys * ys.detach().sin()?)?.sum_all()?;
        let gradients = backward_in_pieces(&loss, sizes)?;
        let values = |of: &Var| gradients.get(of).expect("a gradient").flatten_all()?.to_vec1();
        parameters.iter().map(values).collect()
    }

    /// The sum of pieces' gradients, each from a pass of its own.
    fn along_the_tree(pieces: &[Vec<Vec<f32>>]) -> Vec<Vec<f32>> {
        if let [alone] = pieces {
            return alone.clone();
        }
        let (left, right) = pieces.split_at(1 << (pieces.len() - 1).ilog2());
        let [mut left, right] = [left, right].map(along_the_tree);
        for (left, right) in left.iter_mut().zip(&right) {
            slices::add_scaled(left, 1.0, right);
        }
        left
    }

    fn assert_pieces_do_not_show(
        name: &str,
        forward: &dyn Fn(&Tensor) -> Result<Tensor>,
        tokens: usize,
        parameters: &Parameters,
    ) -> Result<()> {
        for sizes in [&[2, 2][..], &[2, 3, 2], &[3, 2, 2, 3, 2, 2, 2], &[2; 16], &[4; 8]] {
            let samples = sizes.iter().sum::<usize>();
            let [xs] = tensors(&[&[samples, tokens, DIM]])?;
            let together = gradients(forward, (&xs, 0..samples), (parameters, sizes))?;
            let mut start = 0;
            let apart = sizes.iter().map(|&size| {
                start += size;
                gradients(forward, (&xs, start - size..start), (parameters, &[size]))
            });
            let apart = along_the_tree(&apart.collect::<Result<Vec<_>>>()?);
            assert!(together == apart, "{name} in pieces of {sizes:?}");
        }
        Ok(())
    }

    #[test]
    fn single_operations_have_the_bits_of_separate_passes() -> Result<()> {
        let of = parameters(&[&[24, DIM], &[24]])?;
        let linear = |xs: &Tensor| crate::linear(xs, &of[0], Some(&of[1]));
        // 600 rows are more than a product sums at once.
        for tokens in [1, 5, 70, 150] {
            assert_pieces_do_not_show("linear", &linear, tokens, &of)?;
        }
        let activation =
            |xs: &Tensor| crate::linear_activation(xs, &of[0], &of[1], Activation::Gelu);
        assert_pieces_do_not_show("linear activation", &activation, 5, &of)?;
        let of = parameters(&[&[DIM], &[DIM]])?;
        let norm = |xs: &Tensor| crate::layer_norm(xs, &of[0], &of[1], 1e-5);
        assert_pieces_do_not_show("layer norm", &norm, 5, &of)?;
        let of = parameters(&[&[DIM], &[1, 5, DIM]])?;
        let tables = |xs: &Tensor| crate::add_each(&crate::scale_features(xs, &of[0])?, &of[1]);
        assert_pieces_do_not_show("tables", &tables, 5, &of)
    }

    fn stages<'a>(of: &'a [Var], queries: Queries) -> [Stage<'a>; 3] {
        let norm = || Norm { weight: &of[0], bias: &of[1], eps: 1e-5 };
        let map =
            |index: usize| Affine { weight: &of[index], bias: Some(of[index + 1].as_tensor()) };
        let end =
            |scale: usize| BranchEnd { dropout: None, scale: Some(&of[scale]), drop_path: None };
        let attend = Attend::new(2, 0.5);
        [
            Stage::Attention(AttentionBranch {
                norm: None,
                qkv: map(2),
                qk_norm: None,
                rotary: None,
                attend,
                queries,
                proj: map(4),
                end: end(6),
            }),
            Stage::FeedForward(FeedForwardBranch {
                norm: None,
                fc1: map(7),
                activation: Activation::Relu,
                fc2: map(9),
                end: end(11),
            }),
            Stage::Norm(norm()),
        ]
    }

    fn encoder() -> Result<Parameters> {
        parameters(&[
            &[DIM],
            &[DIM],
            &[3 * DIM, DIM],
            &[3 * DIM],
            &[DIM, DIM],
            &[DIM],
            &[DIM],
            &[2 * DIM, DIM],
            &[2 * DIM],
            &[DIM, 2 * DIM],
            &[DIM],
            &[DIM],
        ])
    }

    #[test]
    fn an_encoder_has_the_bits_of_separate_passes() -> Result<()> {
        let of = encoder()?;
        for queries in [Queries::All, Queries::First] {
            let forward = |xs: &Tensor| crate::residual_stages(xs, &stages(&of, queries), None);
            assert_pieces_do_not_show("encoder", &forward, 5, &of)?;
        }
        Ok(())
    }

    /// A thread that waits within a pass may compute another one.
    #[test]
    fn an_inner_pass_has_its_own_pieces() -> Result<()> {
        let of = parameters(&[&[24, DIM], &[24]])?;
        let linear = |xs: &Tensor| crate::linear(xs, &of[0], Some(&of[1]));
        let [xs] = tensors(&[&[6, 5, DIM]])?;
        let alone = || gradients(&linear, (&xs, 0..6), (&of, &[6]));
        let want = alone()?;
        let outer = Pieces { sizes: vec![2, 2, 2], refused: None };
        let _outer = Pass(PIECES.replace(outer));
        assert!(alone()? == want);
        assert_eq!(of_rows(12), [0..4, 4..8, 8..12]);
        Ok(())
    }

    #[test]
    fn operations_without_a_sum_in_pieces_are_errors() -> Result<()> {
        let of = encoder()?;
        let [xs] = tensors(&[&[4, 5, DIM]])?;
        let mask = TokenMask::from_lengths(&[3, 5, 4, 5], 5)?;
        let encoded = |xs: &Tensor, mask: Option<&TokenMask>| {
            crate::residual_stages(xs, &stages(&of, Queries::All), mask)
        };
        let masked = encoded(&xs, Some(&mask))?;
        let twice = encoded(&encoded(&xs, None)?, None)?;
        let whole = crate::linear(&xs.narrow(0, 0, 1)?.narrow(1, 0, 3)?, &of[2], None)?;
        for (ys, what) in [
            (&masked, "a token mask"),
            (&twice, "a parameter of two operations"),
            (&whole, "a number of rows that is not a multiple of the samples"),
        ] {
            let loss = ys.sqr()?.sum_all()?;
            let error = backward_in_pieces(&loss, &[2, 2]).expect_err(what).to_string();
            assert!(error.contains(what), "{error}");
            backward(&loss)?;
        }
        Ok(())
    }
}
