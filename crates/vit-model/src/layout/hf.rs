//! The names of transformers' `ViTForImageClassification`: queries, keys and values apart.

use super::native::patch_shape;
use super::{Named, Row, renamed};
use crate::VitConfig;

pub(super) fn rows(config: &VitConfig) -> Vec<Row> {
    let dim = config.dim;
    let patch = patch_shape(config);
    let projection = "vit.embeddings.patch_embeddings.projection";
    let mut rows = Vec::from(renamed("patch_embed.proj", projection, &patch, &patch));
    rows.push(same_shape("cls_token", "vit.embeddings.cls_token", vec![1, 1, dim]));
    let table = vec![1, config.tokens(), dim];
    rows.push(same_shape("pos_embed", "vit.embeddings.position_embeddings", table));
    for block in 0..config.depth {
        let (native, foreign) = (format!("blocks.{block}"), format!("vit.encoder.layer.{block}"));
        rows.push(qkv(&native, &foreign, "weight", &[dim, dim]));
        if config.qkv_bias {
            rows.push(qkv(&native, &foreign, "bias", &[dim]));
        }
        let layers = [
            ("norm1", "layernorm_before", vec![dim]),
            ("attn.proj", "attention.output.dense", vec![dim, dim]),
            ("norm2", "layernorm_after", vec![dim]),
            ("mlp.fc1", "intermediate.dense", vec![config.mlp_dim, dim]),
            ("mlp.fc2", "output.dense", vec![dim, config.mlp_dim]),
        ];
        for (ours, theirs, shape) in layers {
            let (ours, theirs) = (format!("{native}.{ours}"), format!("{foreign}.{theirs}"));
            rows.extend(renamed(&ours, &theirs, &shape, &shape));
        }
    }
    rows.extend(renamed("norm", "vit.layernorm", &[dim], &[dim]));
    let head = [config.classes, dim];
    rows.extend(renamed("head", "classifier", &head, &head));
    rows
}

fn same_shape(native: &str, foreign: &str, shape: Vec<usize>) -> Row {
    Row { native: (native.to_owned(), shape.clone()), foreign: vec![(foreign.to_owned(), shape)] }
}

fn qkv(native: &str, foreign: &str, parameter: &str, shape: &[usize]) -> Row {
    let part = |part: &str| -> Named {
        (format!("{foreign}.attention.attention.{part}.{parameter}"), shape.to_vec())
    };
    let mut packed = shape.to_vec();
    packed[0] *= 3;
    Row {
        native: (format!("{native}.attn.qkv.{parameter}"), packed),
        foreign: ["query", "key", "value"].map(part).to_vec(),
    }
}
