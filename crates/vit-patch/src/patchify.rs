//! Images to patches and back.

use candle_core::{Result, Tensor, bail};

use crate::{ImageSize, PatchSize};

/// Cuts images into patches, row by row. Each patch is flattened in the order (channels, height, width).
///
/// PyTorch equivalent: `torch.nn.functional.unfold(images, patch, stride=patch).transpose(1, 2)`.
///
/// # Shapes
/// `images` (batch, channels, height, width) -> (batch, patches, pixels)
///
/// # Errors
/// If the patch does not divide the images.
pub fn patchify(images: &Tensor, patch: PatchSize) -> Result<Tensor> {
    vit_ops::patchify(images, (patch.height, patch.width))
}

/// Joins patches to images: the inverse of [`patchify`].
///
/// # Shapes
/// `patches` (batch, patches, pixels) -> (batch, channels, height, width)
///
/// # Errors
/// If the patches do not belong to images of this size.
pub fn unpatchify(patches: &Tensor, image: ImageSize, patch: PatchSize) -> Result<Tensor> {
    let (batch, count, pixels) = patches.dims3()?;
    let ImageSize { height, width, channels } = image;
    let (rows, columns) = grid(height, width, patch)?;
    if count != rows * columns || pixels != channels * patch.height * patch.width {
        bail!(
            "unpatchify: expected patches of shape (batch, {}, {}), got {:?}",
            rows * columns,
            channels * patch.height * patch.width,
            patches.dims()
        );
    }
    patches
        .reshape(&[batch, rows, columns, channels, patch.height, patch.width])?
        .permute(vec![0, 3, 1, 4, 2, 5])? // (batch, channels, rows, patch height, columns, patch width)
        .reshape((batch, channels, height, width))
}

fn grid(height: usize, width: usize, patch: PatchSize) -> Result<(usize, usize)> {
    let divides = |size: usize, part: usize| part > 0 && size.is_multiple_of(part);
    if !divides(height, patch.height) || !divides(width, patch.width) {
        bail!(
            "image of {height}x{width} px is not divisible by patch of {}x{} px",
            patch.height,
            patch.width
        );
    }
    Ok((height / patch.height, width / patch.width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    const IMAGE: ImageSize = ImageSize { height: 4, width: 6, channels: 2 };
    const PATCH: PatchSize = PatchSize { height: 2, width: 3 };

    fn images() -> Result<Tensor> {
        Tensor::arange(0.0_f32, 96.0, &Device::Cpu)?.reshape((2, 2, 4, 6))
    }

    #[test]
    fn patches_come_row_by_row_channel_first() -> Result<()> {
        let patches = patchify(&images()?, PATCH)?.to_vec3::<f32>()?;
        assert_eq!(
            patches[0][1],
            [3.0, 4.0, 5.0, 9.0, 10.0, 11.0, 27.0, 28.0, 29.0, 33.0, 34.0, 35.0]
        );
        assert_eq!(patches[1][2][..3], [60.0, 61.0, 62.0]);
        Ok(())
    }

    #[test]
    fn unpatchify_inverts_patchify() -> Result<()> {
        let there_and_back = unpatchify(&patchify(&images()?, PATCH)?, IMAGE, PATCH)?;
        assert_eq!(there_and_back.dims(), images()?.dims());
        let flat = |xs: &Tensor| xs.flatten_all()?.to_vec1::<f32>();
        assert_eq!(flat(&there_and_back)?, flat(&images()?)?);
        Ok(())
    }

    #[test]
    fn gradients_match_finite_differences() -> Result<()> {
        let images = crate::testing::normal((1, 2, 4, 6))?;
        crate::testing::assert_gradient("images", &images, |xs| patchify(xs, PATCH))?;
        let patches = crate::testing::normal((1, 4, 12))?;
        crate::testing::assert_gradient("patches", &patches, |xs| unpatchify(xs, IMAGE, PATCH))
    }

    #[test]
    fn patches_of_another_image_size_are_named() -> Result<()> {
        let patches = crate::testing::normal((1, 4, 11))?;
        let error = unpatchify(&patches, IMAGE, PATCH).unwrap_err().to_string();
        let want = "unpatchify: expected patches of shape (batch, 4, 12), got [1, 4, 11]";
        assert!(error.contains(want), "{error}");
        Ok(())
    }

    #[test]
    fn patch_that_does_not_divide_is_named() -> Result<()> {
        let images = Tensor::zeros((1, 1, 28, 30), DType::F32, &Device::Cpu)?;
        let error = patchify(&images, PatchSize { height: 7, width: 7 }).unwrap_err();
        assert!(
            error.to_string().contains("image of 28x30 px is not divisible by patch of 7x7 px"),
            "{error}"
        );
        Ok(())
    }
}
