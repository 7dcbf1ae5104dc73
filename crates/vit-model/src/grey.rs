//! Grey models as three-channel models, for libraries that read every picture in colour.

use candle_core::{DType, Tensor};

use crate::{Error, Tensors, VitConfig};

/// Weights of green and blue in grey (ITU-R BT.601), as in Pillow's `convert("L")`; red gets the rest.
const GREEN_AND_BLUE: [f64; 2] = [0.587, 0.114];
/// Weights applied to pixels.
const OF_PIXELS: [&str; 2] = ["patch_embed.proj.weight", "pos_embed.proj.weight"];

/// Converts a model of grey images to colour, under native names, multiplying weights by 0.299, 0.587 and 0.114. A grey
/// picture in three equal channels gives the same output up to rounding; a colour picture gives its luma's output.
///
/// [`Foreign::import`](crate::Foreign::import) converts it back bit-identically if
/// [`hf_config_json_of_grey`](crate::hf_config_json_of_grey) lies beside it.
///
/// # Errors
/// If a parameter's values cannot be read.
///
/// # Panics
/// If the model's images have more than one channel.
pub fn grey_as_colour(native: &Tensors, config: &VitConfig) -> Result<(Tensors, VitConfig), Error> {
    assert_eq!(config.image.channels, 1, "a grey model has one channel");
    let mut colour = native.clone();
    for name in OF_PIXELS {
        let Some(weight) = colour.get_mut(name) else { continue };
        let dtype = weight.dtype();
        let wide = weight.to_dtype(DType::F64)?; // (dim, 1, height, width)
        let rounded = |share: f64| (&wide * share)?.to_dtype(dtype);
        let [green, blue] = GREEN_AND_BLUE.map(rounded);
        let (green, blue) = (green?, blue?);
        // The rest, so that the rounded sum of the three is exactly the weight.
        let red = ((&wide - green.to_dtype(DType::F64)?)? - blue.to_dtype(DType::F64)?)?;
        *weight = Tensor::cat(&[&red.to_dtype(dtype)?, &green, &blue], 1)?;
    }
    let mut config = config.clone();
    config.image.channels = 3;
    Ok((colour, config))
}

/// The inverse: the sum over the channels.
pub(crate) fn colour_as_grey(native: &mut Tensors) -> Result<(), Error> {
    for name in OF_PIXELS {
        let Some(weight) = native.get_mut(name) else { continue };
        let sum = weight.to_dtype(DType::F64)?.sum_keepdim(1)?;
        *weight = sum.to_dtype(weight.dtype())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, Preset, VisionTransformer};
    use candle_core::Device;
    use candle_nn::VarBuilder;
    use vit_layers::{Mode, Parameters};

    #[test]
    fn grey_to_colour_and_back_is_bit_identical() {
        let config = Preset::Notebook.config();
        let parameters = Parameters::seeded(1);
        VisionTransformer::new(&config, &parameters.builder(DType::F32, &Device::Cpu))
            .expect("a preset");
        let native: Tensors = parameters
            .sorted()
            .into_iter()
            .map(|(name, var)| (name, var.as_detached_tensor()))
            .collect();
        let (mut colour, of_colour) = grey_as_colour(&native, &config).expect("small tensors");
        assert!(Layout::Timm.import(&colour, &of_colour).is_ok());

        let images = |channels: usize| {
            let values = (0..2 * 28 * 28).map(|at| (at * 7919 % 256) as f32 / 127.5 - 1.0);
            let grey = Tensor::from_vec(values.collect(), (2, 1, 28, 28), &Device::Cpu)?;
            grey.repeat((1, channels, 1, 1))
        };
        let output = |config: &VitConfig, native: &Tensors| {
            let tensors = native.clone().into_iter().collect();
            let vb = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
            let images = images(config.image.channels)?;
            VisionTransformer::new(config, &vb)?.forward(&images, Mode::Eval)
        };
        let difference = output(&of_colour, &colour).and_then(|got| {
            (got - output(&config, &native)?)?.abs()?.max_all()?.to_scalar::<f32>()
        });
        assert!(difference.expect("small tensors") < 1e-6);

        colour_as_grey(&mut colour).expect("small tensors");
        for (name, tensor) in &native {
            let bits = |tensor: &Tensor| {
                let values = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>());
                values.expect("f32").into_iter().map(f32::to_bits).collect::<Vec<_>>()
            };
            assert!(bits(&colour[name]) == bits(tensor), "{name}");
            assert_eq!(colour[name].dims(), tensor.dims(), "{name}");
        }
    }
}
