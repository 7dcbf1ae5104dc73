//! The notebook's `state_dict`, which has no configuration: names and shapes determine everything but the notebook's
//! fixed settings.

use vit_patch::{ImageSize, PatchSize, Position};

use super::shapes::{Shapes, grid, root};
use super::{Assumptions, Foreign, Known};
use crate::{Error, Layout, ModelInfo, Preset, TensorInfos, VitConfig};

pub(super) fn described(infos: &TensorInfos, known: &Known) -> Result<Foreign, Error> {
    let shapes = Shapes { infos, layout: Layout::Notebook };
    let mut assumed = Assumptions::default();
    let [dim, pixels] = shapes.of("encoder.weight")?;
    let [classes, _] = shapes.of("vit_head.weight")?;
    let [mlp_dim, _] = shapes.of("blocks.0.ffwd.net.0.weight")?;
    let (channels, patch) = square_patch(pixels)?;
    // The position parameters identify the preset; the other quirks come with it.
    let (preset, image) = if shapes.has("pos_embedding.weight") {
        let image = known.image.unwrap_or((28, 28));
        (Preset::Notebook, image)
    } else {
        let [_, rows, _] = shapes.of("pos_embedding")?;
        (Preset::Shallow, grid(rows, 0, patch, known.image)?.0)
    };
    let of_preset = preset.config();
    if of_preset.position == Position::PatchLinear && known.image.is_none() {
        assumed.0.push("image = 28x28".to_owned());
    }
    assumed.0.push(format!("everything else as in the preset {}", preset.name()));
    let config = VitConfig {
        image: ImageSize { height: image.0, width: image.1, channels },
        patch,
        dim,
        depth: shapes.depth(|block| format!("blocks.{block}.ln1.weight")),
        heads: shapes.depth(|head| format!("blocks.0.sa.heads.{head}.query.weight")),
        mlp_dim,
        classes,
        layer_norm_eps: known.layer_norm_eps.unwrap_or(of_preset.layer_norm_eps),
        ..of_preset
    };
    let normalization = known.normalization.clone().unwrap_or_else(super::Normalization::ours);
    Ok(Foreign {
        layout: Layout::Notebook,
        config,
        normalization,
        info: ModelInfo::default(),
        assumed: assumed.0,
        grey: false,
    })
}

/// Channels and size of a patch with this many numbers.
fn square_patch(pixels: usize) -> Result<(usize, PatchSize), Error> {
    let of = |channels| {
        let side = root(pixels / channels).filter(|_| pixels.is_multiple_of(channels))?;
        Some((channels, PatchSize { height: side, width: side }))
    };
    of(1).or_else(|| of(3)).ok_or_else(|| Error::Undetermined {
        field: "patch",
        reason: format!("{pixels} numbers are not a square patch of 1 or 3 channels"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TensorInfo;
    use candle_core::DType;

    fn infos(config: &VitConfig) -> TensorInfos {
        let info = |shape| TensorInfo { shape, dtype: Some(DType::F32) };
        let parameters = Layout::Notebook.parameters(config).expect("an expressible model");
        parameters.into_iter().map(|(name, shape)| (name, info(shape))).collect()
    }

    #[test]
    fn both_presets_are_recognised() {
        for preset in [Preset::Notebook, Preset::Shallow] {
            let config = VitConfig { depth: 2, heads: 2, classes: 7, ..preset.config() };
            let foreign = Foreign::new(&infos(&config), <_>::default(), &Known::default());
            let foreign = foreign.expect("a file of the notebook's");
            assert_eq!((foreign.layout, foreign.config), (Layout::Notebook, config));
            let told = foreign.assumed.concat();
            assert!(told.ends_with(&format!("preset {}", preset.name())), "{told}");
        }
    }

    #[test]
    fn patches_are_grey_if_that_gives_a_square() {
        let side = |side| PatchSize { height: side, width: side };
        assert_eq!(square_patch(49).ok(), Some((1, side(7))));
        assert_eq!(square_patch(48).ok(), Some((3, side(4))));
        assert!(
            square_patch(50).unwrap_err().to_string().starts_with("cannot determine patch: 50 ")
        );
    }
}
