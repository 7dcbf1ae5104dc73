//! The names of the notebook's `state_dict`: flattened patches, separate heads.

use vit_patch::Position;

use super::native::patch_shape;
use super::{Named, Row, renamed};
use crate::VitConfig;

pub(super) fn rows(config: &VitConfig) -> Vec<Row> {
    let dim = config.dim;
    let patch = patch_shape(config);
    let flat_patch = [dim, config.patch_config().pixels()];
    let mut rows = Vec::from(renamed("patch_embed.proj", "encoder", &patch, &flat_patch));
    if config.position == Position::PatchLinear {
        rows.extend(renamed("pos_embed.proj", "pos_embedding", &patch, &flat_patch));
    } else {
        let shape = vec![1, config.tokens(), dim];
        rows.push(Row {
            native: ("pos_embed".to_owned(), shape.clone()),
            foreign: vec![("pos_embedding".to_owned(), shape)],
        });
    }
    for block in 0..config.depth {
        let block = format!("blocks.{block}");
        rows.push(Row {
            native: (format!("{block}.attn.qkv.weight"), vec![3 * dim, dim]),
            foreign: heads(&block, config),
        });
        let layers = [
            ("attn.proj", "sa.proj", vec![dim, dim]),
            ("mlp.fc1", "ffwd.net.0", vec![config.mlp_dim, dim]),
            ("mlp.fc2", "ffwd.net.2", vec![dim, config.mlp_dim]),
            ("norm1", "ln1", vec![dim]),
            ("norm2", "ln2", vec![dim]),
        ];
        for (native, foreign, shape) in layers {
            let (native, foreign) = (format!("{block}.{native}"), format!("{block}.{foreign}"));
            rows.extend(renamed(&native, &foreign, &shape, &shape));
        }
    }
    rows.extend(renamed("norm", "ln_f", &[dim], &[dim]));
    let head = [config.classes, dim];
    rows.extend(renamed("head", "vit_head", &head, &head));
    rows
}

/// All queries, all keys, all values: the rows of one packed weight.
fn heads(block: &str, config: &VitConfig) -> Vec<Named> {
    let shape = vec![config.dim / config.heads, config.dim];
    let mut heads = Vec::new();
    for part in ["query", "key", "value"] {
        for head in 0..config.heads {
            heads.push((format!("{block}.sa.heads.{head}.{part}.weight"), shape.clone()));
        }
    }
    heads
}
