//! Adapting a model's parameters to other images and classes, for fine-tuning.

use candle_core::{Result as TensorResult, Tensor};
use serde_json::{Map, Value};
use vit_patch::Resampling;

use crate::{Error, Tensors, VitConfig, resize};

/// Weights applied to pixels: (dim, channels, patch height, patch width).
const PIXEL_WEIGHTS: [&str; 2] = ["patch_embed.proj.weight", "pos_embed.proj.weight"];
/// Weights of red, green and blue in grey, as in Pillow's `convert("L")` and ITU-R BT.601.
const LUMA: [f64; 3] = [0.299, 0.587, 0.114];
/// Fields in which the fine-tuned model may differ.
const MAY_DIFFER: [&str; 4] = ["image", "classes", "dropout", "drop_path"];

/// Adapts the parameters of a model of `from`, under native names, as initial parameters of a model of `to`. The two
/// may differ in images, classes, dropout and drop path:
///
/// - a learned position table is resampled to the new grid of patches, like timm's;
/// - for grey images the weights of the colours are added, which gives the same output as the image in three equal
///   channels; for colour images grey weights are distributed by luma, which gives the same output as the grey image;
/// - the head is left out if the number of classes changes.
///
/// PyTorch equivalent: `timm.create_model(name, pretrained=True, num_classes=..., img_size=..., in_chans=...)`.
///
/// # Errors
/// If the tensors do not match `from`, or the two differ in anything else.
pub fn for_fine_tuning(
    tensors: &Tensors,
    from: &VitConfig,
    to: &VitConfig,
) -> Result<Tensors, Error> {
    check_fine_tunable(from, to)?;
    let resized = from.clone().at_image_size(to.image.height, to.image.width);
    let mut tensors = resize(tensors, from, &resized, Resampling::Timm)?;
    for name in PIXEL_WEIGHTS {
        if let Some(weight) = tensors.get_mut(name) {
            *weight = with_channels(weight, to.image.channels)?;
        }
    }
    if from.classes != to.classes {
        tensors.retain(|name, _| !name.starts_with("head."));
    }
    Ok(tensors)
}

/// Checks, before any parameters are read, that a model of `to` can be fine-tuned from one of `from`.
///
/// # Errors
/// If they differ in more than images, classes, dropout and drop path, or their channels cannot be converted.
pub fn check_fine_tunable(from: &VitConfig, to: &VitConfig) -> Result<(), Error> {
    to.check()?;
    let fields = |config| match serde_json::to_value(config) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (from_fields, to_fields) = (fields(from), fields(to));
    let names = from_fields.keys().chain(to_fields.keys());
    for field in names.filter(|name| !MAY_DIFFER.contains(&name.as_str())) {
        let [expected, got] = [&from_fields, &to_fields].map(|fields| fields.get(field));
        if expected != got {
            let [expected, got] = [expected, got].map(|value| value.unwrap_or(&Value::Null));
            return Err(Error::AnotherModel {
                field: field.clone(),
                expected: expected.to_string(),
                got: got.to_string(),
            });
        }
    }
    let channels = [from.image.channels, to.image.channels];
    if channels[0] != channels[1] && !matches!(channels, [1, 3] | [3, 1]) {
        return Err(Error::AnotherModel {
            field: "image.channels".to_owned(),
            expected: channels[0].to_string(),
            got: channels[1].to_string(),
        });
    }
    Ok(())
}

/// `weight` (dim, channels, height, width) converted to this number of channels.
fn with_channels(weight: &Tensor, channels: usize) -> TensorResult<Tensor> {
    match (weight.dim(1)?, channels) {
        (3, 1) => weight.sum_keepdim(1),
        (1, 3) => {
            let each = LUMA.map(|share| weight * share).into_iter();
            Tensor::cat(&each.collect::<TensorResult<Vec<_>>>()?, 1)
        }
        _ => Ok(weight.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pool, Preset, VisionTransformer};
    use candle_core::{DType, Device};
    use candle_nn::VarBuilder;
    use vit_layers::{Mode, Parameters};

    fn config(channels: usize, classes: usize) -> VitConfig {
        let mut config = VitConfig { classes, pool: Pool::Cls, ..Preset::Shallow.config() };
        config.image.channels = channels;
        config
    }

    fn parameters(config: &VitConfig) -> Tensors {
        let parameters = Parameters::seeded(1);
        VisionTransformer::new(config, &parameters.builder(DType::F32, &Device::Cpu))
            .expect("the configuration is sound");
        let tensors = parameters.sorted().into_iter();
        tensors.map(|(name, var)| (name, var.as_detached_tensor())).collect()
    }

    fn outputs(config: &VitConfig, tensors: Tensors, images: &Tensor) -> Tensor {
        let vb = VarBuilder::from_tensors(tensors.into_iter().collect(), DType::F32, &Device::Cpu);
        let model = VisionTransformer::new(config, &vb).expect("all parameters");
        model.forward(images, Mode::Eval).expect("such images")
    }

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        let largest = (a - b).and_then(|d| d.abs()?.max_all()?.to_scalar());
        largest.expect("f32 of one shape")
    }

    #[test]
    fn a_grey_image_gives_the_same_output_in_one_channel_and_in_three() {
        let grey = Tensor::arange(0.0_f32, 1568.0, &Device::Cpu).and_then(|places| places.sin());
        let grey = grey.and_then(|pixels| pixels.reshape((2, 1, 28, 28))).expect("1,568 pixels");
        let colour = Tensor::cat(&[&grey, &grey, &grey], 1).expect("three channels");
        for (from, to) in [(3, 1), (1, 3)] {
            let (from, to) = (config(from, 10), config(to, 10));
            let of = |channels: usize| if channels == 1 { &grey } else { &colour };
            let tensors = parameters(&from);
            let adapted = for_fine_tuning(&tensors, &from, &to).expect("other channels");
            let before = outputs(&from, tensors, of(from.image.channels));
            let after = outputs(&to, adapted, of(to.image.channels));
            assert!(difference(&before, &after) < 1e-5, "{from:?}");
        }
    }

    #[test]
    fn other_classes_drop_only_the_head() {
        let (from, to) = (config(1, 10), config(1, 3).at_image_size(56, 42));
        let adapted = for_fine_tuning(&parameters(&from), &from, &to).expect("other classes");
        let mut expected = parameters(&to);
        expected.retain(|name, _| !name.starts_with("head."));
        let shapes = |tensors: &Tensors| -> Vec<(String, Vec<usize>)> {
            tensors.iter().map(|(name, tensor)| (name.clone(), tensor.dims().to_vec())).collect()
        };
        assert_eq!(shapes(&adapted), shapes(&expected));
    }

    #[test]
    fn other_differences_are_named() {
        let refused = |to: VitConfig| {
            for_fine_tuning(&parameters(&config(1, 10)), &config(1, 10), &to)
                .expect_err("another model")
                .to_string()
        };
        assert_eq!(
            refused(VitConfig { depth: 2, ..config(1, 10) }),
            "cannot fine-tune a model with another depth, expected 3, got 2"
        );
        assert_eq!(
            refused(config(2, 10)),
            "cannot fine-tune a model with another image.channels, expected 1, got 2"
        );
    }
}
