//! Cuts images into patches.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use crate::slices;

/// Cuts images into patches, row by row. Each patch is flattened in the order (channels, height, width).
///
/// PyTorch equivalent: `torch.nn.functional.unfold(images, patch, stride=patch).transpose(1, 2)`. The gradient of
/// candle's `unfold` is wrong for patches.
///
/// # Shapes
/// `images` (batch, channels, height, width), `patch` (height, width) -> (batch, patches, pixels)
///
/// # Errors
/// If the patch does not divide the images.
pub fn patchify(images: &Tensor, patch: (usize, usize)) -> Result<Tensor> {
    let op = Patchify::of(images, patch)?;
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(images) {
        return crate::cuda::patchify(images, op.on_gpu());
    }
    if slices::fused(images) {
        images.contiguous()?.apply_op1(op)
    } else {
        composed::patchify(images, patch)
    }
}

pub(crate) mod composed {
    use super::{Patchify, Result, Tensor};

    /// [`patchify`](crate::patchify()) from candle's tensor operations.
    ///
    /// # Errors
    /// If the patch does not divide the images.
    pub fn patchify(images: &Tensor, patch: (usize, usize)) -> Result<Tensor> {
        let Patchify { batch, channels, grid: (rows, columns), .. } = Patchify::of(images, patch)?;
        images
            .reshape(&[batch, channels, rows, patch.0, columns, patch.1])?
            .permute(vec![0, 2, 4, 1, 3, 5])? // (batch, rows, columns, channels, patch height, patch width)
            .reshape((batch, rows * columns, channels * patch.0 * patch.1))
    }
}

#[derive(Clone, Copy, Debug)]
struct Patchify {
    batch: usize,
    channels: usize,
    /// Rows and columns of patches.
    grid: (usize, usize),
    patch: (usize, usize),
}

impl Patchify {
    fn of(images: &Tensor, patch: (usize, usize)) -> Result<Self> {
        let (batch, channels, height, width) = images.dims4()?;
        let divides = |part: usize, size: usize| part > 0 && size.is_multiple_of(part);
        if !divides(patch.0, height) || !divides(patch.1, width) {
            bail!(
                "image of {height}x{width} px is not divisible by patch of {}x{} px",
                patch.0,
                patch.1
            );
        }
        Ok(Self { batch, channels, grid: (height / patch.0, width / patch.1), patch })
    }

    #[cfg(feature = "cuda")]
    fn on_gpu(self) -> crate::cuda::Patches {
        let [channels, rows, columns, height, width] =
            [self.channels, self.grid.0, self.grid.1, self.patch.0, self.patch.1]
                .map(|count| count as u32);
        crate::cuda::Patches { channels, rows, columns, height, width }
    }

    /// Calls `line` with the start of each patch line in the images, in patch order.
    fn each_line(self, mut line: impl FnMut(usize)) {
        let (rows, columns) = self.grid;
        let (height, width) = self.patch;
        let image_row = columns * width;
        let plane = rows * height * image_row;
        for image in 0..self.batch {
            for row in 0..rows {
                for column in 0..columns {
                    for channel in 0..self.channels {
                        let corner = (image * self.channels + channel) * plane
                            + row * height * image_row
                            + column * width;
                        (0..height).for_each(|y| line(corner + y * image_row));
                    }
                }
            }
        }
    }
}

/// Copies a line to the start of `to`: eight numbers if there is room, because the next line overwrites the excess.
fn copy_line(from: &[f32], to: &mut [f32], width: usize) {
    match (from.first_chunk::<8>(), to.first_chunk_mut::<8>()) {
        (Some(from), Some(to)) if width <= 8 => *to = *from,
        _ => slices::copy(&from[..width], to),
    }
}

impl CustomOp1 for Patchify {
    fn name(&self) -> &'static str {
        "patchify"
    }

    fn cpu_fwd(&self, images: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let images = slices::of_storage(images, layout)?;
        let (height, width) = self.patch;
        let mut out = vec![0.0; images.len()];
        let mut at = 0;
        self.each_line(|start| {
            copy_line(&images[start..], &mut out[at..], width);
            at += width;
        });
        let pixels = self.channels * height * width;
        slices::output(out, (self.batch, self.grid.0 * self.grid.1, pixels))
    }

    fn bwd(&self, images: &Tensor, _out: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let width = self.patch.1;
        let grad = slices::upstream(grad)?;
        let mut grad_images = vec![0.0; images.elem_count()];
        slices::read(&grad, |grad| {
            let mut lines = grad.chunks_exact(width);
            self.each_line(|start| {
                if let Some(line) = lines.next() {
                    slices::copy(line, &mut grad_images[start..]);
                }
            });
            Ok(())
        })?;
        slices::gradient(grad_images, images)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        for (images, patch) in [
            ([1, 1, 1, 1], (1, 1)),
            ([2, 1, 28, 28], (7, 7)),
            ([2, 3, 4, 6], (2, 3)),
            ([1, 1, 8, 8], (2, 8)),
            ([1, 2, 32, 48], (16, 16)),
        ] {
            Case::new(&[&images])?.fused_equals_composed(
                |t| patchify(&t[0], patch),
                |t| composed::patchify(&t[0], patch),
            )?;
        }
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        Case::new(&[&[2, 1, 4, 6]])?
            .gradients_match_differences(|t| composed::patchify(&t[0], (2, 3)))
    }

    #[test]
    fn transposed_and_empty_inputs_work() -> Result<()> {
        Case::new(&[&[2, 1, 4, 6]])?.fused_equals_composed(
            |t| patchify(&t[0].transpose(2, 3)?, (3, 2)),
            |t| composed::patchify(&t[0].transpose(2, 3)?.contiguous()?, (3, 2)),
        )?;
        let [none] = tensors(&[&[0, 1, 4, 6]])?;
        assert_eq!(patchify(&none, (2, 3))?.dims(), [0, 4, 6]);
        Ok(())
    }

    #[test]
    fn patch_that_does_not_divide_is_named() -> Result<()> {
        let [images] = tensors(&[&[1, 1, 28, 30]])?;
        for patch in [(7, 7), (7, 0)] {
            let error = patchify(&images, patch).unwrap_err().to_string();
            assert!(error.contains("image of 28x30 px is not divisible by patch of 7x"), "{error}");
        }
        Ok(())
    }
}
