//! The native names: timm's wherever timm has the name.

use vit_layers::NormPlacement;
use vit_patch::Position;

use super::{Named, with_bias};
use crate::{Pool, VitConfig};

/// All parameters of a model of `config`.
pub(super) fn parameters(config: &VitConfig) -> Vec<Named> {
    let dim = config.dim;
    let patch = patch_shape(config);
    let mut all = Vec::from(with_bias("patch_embed.proj", &patch));
    match config.position {
        Position::Learned => {
            let places = config.patch_config();
            let rows = places.prefix_rows(config.class_token()) + places.patches();
            all.push(("pos_embed".to_owned(), vec![1, rows, dim]));
        }
        Position::PatchLinear => all.extend(with_bias("pos_embed.proj", &patch)),
        Position::None | Position::Sincos2d => {}
    }
    if config.pool == Pool::Cls {
        all.push(("cls_token".to_owned(), vec![1, 1, dim]));
    }
    if config.registers > 0 {
        all.push(("reg_token".to_owned(), vec![1, config.registers, dim]));
    }
    for block in 0..config.depth {
        all.extend(block_parameters(config, &format!("blocks.{block}")));
    }
    if config.norm == NormPlacement::Pre {
        all.extend(with_bias("norm", &[dim]));
    }
    all.extend(with_bias("head", &[config.classes, dim]));
    all
}

fn block_parameters(config: &VitConfig, block: &str) -> Vec<Named> {
    let dim = config.dim;
    let encoder = config.encoder_config();
    let (head_dim, heads_dim) = (encoder.width_of_head(), encoder.width_of_heads());
    let mut layers = vec![
        ("norm1", vec![dim]),
        ("attn.qkv", vec![3 * heads_dim, dim]),
        ("attn.proj", vec![dim, heads_dim]),
        ("norm2", vec![dim]),
        ("mlp.fc1", vec![config.mlp_dim, dim]),
        ("mlp.fc2", vec![dim, config.mlp_dim]),
    ];
    if config.qk_norm {
        layers.extend([("attn.q_norm", vec![head_dim]), ("attn.k_norm", vec![head_dim])]);
    }
    let mut all = Vec::new();
    for (layer, shape) in layers {
        let [weight, bias] = with_bias(&format!("{block}.{layer}"), &shape);
        all.push(weight);
        if layer != "attn.qkv" || config.qkv_bias {
            all.push(bias);
        }
    }
    if config.layer_scale.is_some() {
        all.extend(["ls1", "ls2"].map(|layer| (format!("{block}.{layer}.gamma"), vec![dim])));
    }
    all
}

/// (dim, channels, patch height, patch width), like a convolution's weight.
pub(super) fn patch_shape(config: &VitConfig) -> [usize; 4] {
    [config.dim, config.image.channels, config.patch.height, config.patch.width]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Preset, VisionTransformer};
    use candle_core::{DType, Device};
    use vit_layers::Parameters;
    use vit_patch::PositionRows;

    /// Each field that adds or removes parameters, alone and combined.
    #[test]
    fn table_equals_the_models_parameters() {
        let shallow = Preset::Shallow.config();
        let class_token = VitConfig { pool: Pool::Cls, qkv_bias: true, ..shallow.clone() };
        let modern = VitConfig {
            registers: 3,
            position_rows: PositionRows::Patches,
            qk_norm: true,
            layer_scale: Some(1e-5),
            ..class_token.clone()
        };
        for config in [
            VitConfig { registers: 2, ..class_token.clone() },
            VitConfig { registers: 2, position: Position::Sincos2d, ..shallow.clone() },
            VitConfig { position_rows: PositionRows::Patches, ..class_token },
            VitConfig { head_dim: Some(5), heads: 3, ..modern.clone() },
            VitConfig { norm: NormPlacement::Post, ..modern.clone() },
            VitConfig { norm: NormPlacement::Post, ..shallow },
            modern,
        ] {
            let model = Parameters::seeded(1);
            VisionTransformer::new(&config, &model.builder(DType::F32, &Device::Cpu))
                .expect("the configuration is sound");
            let asked = model.sorted().into_iter().map(|(name, var)| (name, var.dims().to_vec()));
            let mut listed = parameters(&config);
            listed.sort();
            assert_eq!(listed, asked.collect::<Vec<_>>(), "{config:?}");
        }
    }
}
