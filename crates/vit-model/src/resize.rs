//! Adapting a model's parameters to another image size (ViT, arXiv 2010.11929, section 3.2).

use serde_json::Value;
use vit_patch::{Position, Resampling, resample_positions};

use crate::{Error, Layout, Tensors, VitConfig};

/// Name of the learned position table.
const TABLE: &str = "pos_embed";

/// Converts the parameters of a model of `from`, under native names, to `to`: the same model at another image size. A
/// learned position table is resampled to the new grid of patches; everything else is unchanged.
///
/// PyTorch equivalent: `timm.layers.resample_abs_pos_embed` or transformers' `interpolate_pos_encoding=True`, chosen by
/// [`Resampling`].
///
/// ```
/// use candle_core::{DType, Device};
/// use vit_layers::Parameters;
/// use vit_patch::Resampling;
/// use vit_model::{Pool, Preset, VisionTransformer, VitConfig, resize};
///
/// # fn main() -> Result<(), vit_model::Error> {
/// let small = VitConfig { pool: Pool::Cls, ..Preset::Shallow.config() };
/// let parameters = Parameters::seeded(42);
/// VisionTransformer::new(&small, &parameters.builder(DType::F32, &Device::Cpu))?;
/// let tensors = parameters.sorted().into_iter();
/// let tensors = tensors.map(|(name, var)| (name, var.as_detached_tensor())).collect();
///
/// let large = small.clone().at_image_size(56, 42);
/// let resized = resize(&tensors, &small, &large, Resampling::Timm)?;
/// assert_eq!(resized["pos_embed"].dims(), [1, 1 + 8 * 6, 32]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// If the tensors do not match `from`, or the two differ in anything but the height and width of their images.
pub fn resize(
    tensors: &Tensors,
    from: &VitConfig,
    to: &VitConfig,
    resampling: Resampling,
) -> Result<Tensors, Error> {
    to.check()?;
    check_same_model(from, to)?;
    let mut tensors = Layout::Timm.import(tensors, from)?;
    if from.position == Position::Learned {
        let places = from.patch_config();
        let prefix = places.prefix_rows(from.class_token());
        let (grid, new_grid) = (places.grid(), to.patch_config().grid());
        let table = resample_positions(&tensors[TABLE], prefix, grid, new_grid, resampling)?;
        tensors.insert(TABLE.to_owned(), table);
    }
    Ok(tensors)
}

/// Compares all fields as serialised, so that none is forgotten.
fn check_same_model(from: &VitConfig, to: &VitConfig) -> Result<(), Error> {
    let at_one_size = to.clone().at_image_size(from.image.height, from.image.width);
    let fields = |config| serde_json::to_value(config).expect("a configuration is plain data");
    let (from, to) = (fields(from), fields(&at_one_size));
    let names = [&from, &to].into_iter().filter_map(Value::as_object).flat_map(|map| map.keys());
    for field in names {
        if from[field] != to[field] {
            let [expected, got] = [&from[field], &to[field]].map(Value::to_string);
            return Err(Error::NotAResize { field: field.clone(), expected, got });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pool, Preset, VisionTransformer};
    use candle_core::{DType, Device, Tensor};
    use candle_nn::VarBuilder;
    use vit_layers::{Mode, Parameters};
    use vit_patch::PositionRows;

    fn config() -> VitConfig {
        VitConfig { pool: Pool::Cls, registers: 2, ..Preset::Shallow.config() }
    }

    fn parameters(config: &VitConfig) -> Tensors {
        let parameters = Parameters::seeded(1);
        VisionTransformer::new(config, &parameters.builder(DType::F32, &Device::Cpu))
            .expect("the configuration is sound");
        let tensors = parameters.sorted().into_iter();
        tensors.map(|(name, var)| (name, var.as_detached_tensor())).collect()
    }

    #[test]
    fn a_resized_model_takes_images_of_its_size() {
        for rows in [PositionRows::Tokens, PositionRows::Patches] {
            for position in [Position::Learned, Position::Sincos2d, Position::PatchLinear] {
                let from = VitConfig { position, position_rows: rows, ..config() };
                let to = from.clone().at_image_size(42, 14);
                let resized =
                    resize(&parameters(&from), &from, &to, Resampling::Hf).expect("another size");
                let vb = VarBuilder::from_tensors(
                    resized.into_iter().collect(),
                    DType::F32,
                    &Device::Cpu,
                );
                let images = Tensor::zeros((2, 1, 42, 14), DType::F32, &Device::Cpu);
                let logits = VisionTransformer::new(&to, &vb)
                    .and_then(|model| model.forward(&images?, Mode::Eval));
                assert_eq!(logits.expect("such images").dims(), [2, 10], "{from:?}");
            }
        }
    }

    #[test]
    fn the_same_size_changes_nothing_and_prefixes_are_kept() {
        let tensors = parameters(&config());
        let bits = |tensor: &Tensor| {
            let flat = tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).expect("f32");
            flat.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let same = resize(&tensors, &config(), &config(), Resampling::Timm).expect("the same size");
        assert!(tensors.iter().all(|(name, tensor)| bits(tensor) == bits(&same[name])));
        let larger = resize(&tensors, &config(), &config().at_image_size(35, 35), Resampling::Timm);
        let larger = larger.expect("another size");
        for (name, tensor) in &tensors {
            let (old, new) = (bits(tensor), bits(&larger[name]));
            let kept = if name == TABLE { 3 * 32 } else { old.len() };
            assert_eq!(old[..kept], new[..kept], "{name}");
        }
    }

    #[test]
    fn other_differences_are_named() {
        let tensors = parameters(&config());
        let refused = |to: VitConfig| {
            resize(&tensors, &config(), &to, Resampling::Timm).unwrap_err().to_string()
        };
        assert_eq!(
            refused(VitConfig { depth: 2, ..config() }),
            "only the image size may change, expected depth = 3, got 2"
        );
        let mut colour = config().at_image_size(14, 14);
        colour.image.channels = 3;
        assert!(refused(colour).contains("expected image"));
        assert_eq!(
            refused(config().at_image_size(30, 28)),
            "image of 30x28 px is not divisible by patch of 7x7 px"
        );
        let mut lacking = tensors.clone();
        lacking.remove(TABLE);
        let error =
            resize(&lacking, &config(), &config(), Resampling::Timm).unwrap_err().to_string();
        assert!(error.contains("pos_embed: missing, expected shape [1, 19, 32]"), "{error}");
    }
}
