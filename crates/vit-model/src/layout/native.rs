//! The native names, which are timm's where timm has the name.

use vit_patch::Position;

use super::{Named, with_bias};
use crate::{Pool, VitConfig};

/// Every parameter of a model of `config`.
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
        let layers = [
            ("norm1", vec![dim]),
            ("attn.qkv", vec![3 * dim, dim]),
            ("attn.proj", vec![dim, dim]),
            ("norm2", vec![dim]),
            ("mlp.fc1", vec![config.mlp_dim, dim]),
            ("mlp.fc2", vec![dim, config.mlp_dim]),
        ];
        for (layer, shape) in layers {
            let [weight, bias] = with_bias(&format!("blocks.{block}.{layer}"), &shape);
            all.push(weight);
            if layer != "attn.qkv" || config.qkv_bias {
                all.push(bias);
            }
        }
    }
    all.extend(with_bias("norm", &[dim]));
    all.extend(with_bias("head", &[config.classes, dim]));
    all
}

/// (dim, channels, patch height, patch width), as a convolution's weight.
pub(super) fn patch_shape(config: &VitConfig) -> [usize; 4] {
    [config.dim, config.image.channels, config.patch.height, config.patch.width]
}
