//! Pixel normalisation, and folding it into the patch embedding.

use candle_core::{DType, Device, Result, Tensor};

use crate::Tensors;

/// `(pixel - mean) / std` per channel, for pixels in [0, 1].
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    /// One per channel, or one for all.
    pub mean: Vec<f64>,
    /// One per channel, or one for all.
    pub std: Vec<f64>,
}

impl Normalization {
    /// This project's normalisation: `(pixel - 0.5) / 0.5`.
    #[must_use]
    pub fn ours() -> Self {
        Self { mean: vec![0.5], std: vec![0.5] }
    }

    /// Whether it is [`ours`](Self::ours).
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.mean.iter().chain(&self.std).all(|&value| value == 0.5)
    }

    /// Whether it suits `channels` channels and is invertible.
    pub(super) fn fits(&self, channels: usize) -> bool {
        let counts = [self.mean.len(), self.std.len()];
        let numbers = self.mean.iter().chain(&self.std);
        counts.iter().all(|&count| count == 1 || count == channels)
            && numbers.clone().all(|value| value.is_finite())
            && self.std.iter().all(|&std| std != 0.0)
    }

    /// Folds it into the patch embedding of native parameters, which then gives the same for our pixels.
    ///
    /// Ours are `u = (x - 0.5) / 0.5`, so `(x - mean) / std = u 0.5/std + (0.5 - mean)/std`. The embedding is linear,
    /// so
    /// `W' = W 0.5/std` in each channel and `b' = b + ΣW (0.5 - mean)/std`, computed in `f64`.
    pub(super) fn fold(&self, native: &mut Tensors) -> Result<()> {
        let (weight, bias) = ("patch_embed.proj.weight", "patch_embed.proj.bias");
        let dtype = native[weight].dtype();
        let wide = native[weight].to_dtype(DType::F64)?; // (dim, channels, height, width)
        let channels = wide.dim(1)?;
        let of_channels = |value: &dyn Fn(f64, f64) -> f64| {
            let each = |channel: usize| {
                let at = |values: &[f64]| values[channel.min(values.len() - 1)];
                value(at(&self.mean), at(&self.std))
            };
            let values: Vec<f64> = (0..channels).map(each).collect();
            Tensor::from_vec(values, (1, channels, 1, 1), &Device::Cpu)
        };
        let shift = of_channels(&|mean, std| (0.5 - mean) / std)?;
        let shift = wide.broadcast_mul(&shift)?.sum((1, 2, 3))?; // (dim)
        let moved = (native[bias].to_dtype(DType::F64)? + shift)?.to_dtype(dtype)?;
        let scaled = wide.broadcast_mul(&of_channels(&|_, std| 0.5 / std)?)?.to_dtype(dtype)?;
        native.insert(weight.to_owned(), scaled);
        native.insert(bias.to_owned(), moved);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pool, Preset, VisionTransformer, VitConfig};
    use candle_nn::VarBuilder;
    use vit_layers::{Mode, Parameters};
    use vit_patch::ImageSize;

    /// The original model on its pixels, and the folded one on ours.
    #[test]
    fn folded_parameters_give_the_same_outputs_for_our_pixels() -> Result<()> {
        let image = ImageSize { height: 14, width: 7, channels: 3 };
        let config = VitConfig { image, pool: Pool::Cls, ..Preset::Shallow.config() };
        let parameters = Parameters::seeded(1);
        VisionTransformer::new(&config, &parameters.builder(DType::F64, &Device::Cpu))?;
        let mut native: Tensors = parameters
            .sorted()
            .into_iter()
            .map(|(name, var)| (name, var.as_detached_tensor()))
            .collect();
        let numbers = (0..2 * 3 * 14 * 7).map(|index| f64::from(index * 7919 % 256) / 255.0);
        let pixels = Tensor::from_vec(numbers.collect(), (2, 3, 14, 7), &Device::Cpu)?;
        let output = |native: &Tensors, images: &Tensor| {
            let tensors = native.clone().into_iter().collect();
            let vb = VarBuilder::from_tensors(tensors, DType::F64, &Device::Cpu);
            VisionTransformer::new(&config, &vb)?.forward(images, Mode::Eval)
        };
        let channels = |values: &[f64]| Tensor::new(values, &Device::Cpu)?.reshape((1, 3, 1, 1));
        // ImageNet's, as in DeiT and most of timm.
        let imagenet =
            Normalization { mean: vec![0.485, 0.456, 0.406], std: vec![0.229, 0.224, 0.225] };
        let theirs = pixels
            .broadcast_sub(&channels(&imagenet.mean)?)?
            .broadcast_div(&channels(&imagenet.std)?)?;
        let expected = output(&native, &theirs)?;
        imagenet.fold(&mut native)?;
        let ours = ((&pixels - 0.5)? / 0.5)?;
        let difference = (output(&native, &ours)? - expected)?.abs()?.flatten_all()?.max(0)?;
        assert!(difference.to_scalar::<f64>()? < 1e-12, "{difference}");
        Ok(())
    }

    #[test]
    fn one_number_per_channel_or_one_for_all() {
        let of =
            |mean: &[f64], std: &[f64]| Normalization { mean: mean.to_vec(), std: std.to_vec() };
        assert!(Normalization::ours().is_ours() && Normalization::ours().fits(3));
        assert!(of(&[0.5; 3], &[0.5; 3]).is_ours());
        assert!(of(&[0.0; 3], &[1.0]).fits(3) && !of(&[0.0; 3], &[1.0]).is_ours());
        assert!(!of(&[0.5; 3], &[0.5; 3]).fits(1));
        assert!(!of(&[0.5], &[0.0]).fits(1) && !of(&[f64::NAN], &[0.5]).fits(1));
        assert!(!of(&[], &[0.5]).fits(1));
    }
}
