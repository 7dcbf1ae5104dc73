//! The names of transformers' `ViTForImageClassification`, with separate queries, keys and values.
//!
//! Up to 5.8 the `state_dict` and the files share one naming. Since 5.9 the `state_dict` has another, while
//! `save_pretrained` still writes the old one (unless `save_original_format=False`) and `from_pretrained` still reads
//! it. Tried with 4.57.6 and 5.24.0; version 4 reads only the old one.

use super::native::patch_shape;
use super::{Named, Row, renamed};
use crate::{TensorInfos, VitConfig};

/// The tensor that identifies this layout.
pub(super) const PATCHES: &str = "vit.embeddings.patch_embeddings.projection.weight";

/// One of the two namings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// Written and read by every version.
    OnDisk,
    /// The `state_dict` since 5.9.
    InMemory,
}

impl Naming {
    /// The naming of these tensors.
    pub(super) fn of(infos: &TensorInfos) -> Self {
        let in_memory = infos.keys().any(|name| name.starts_with("vit.layers."));
        if in_memory { Self::InMemory } else { Self::OnDisk }
    }

    /// The prefix of a block and its parts: query, key, value, output, and the two linear maps.
    const fn names(self) -> (&'static str, [&'static str; 6]) {
        match self {
            Self::OnDisk => (
                "vit.encoder.layer",
                [
                    "attention.attention.query",
                    "attention.attention.key",
                    "attention.attention.value",
                    "attention.output.dense",
                    "intermediate.dense",
                    "output.dense",
                ],
            ),
            Self::InMemory => (
                "vit.layers",
                [
                    "attention.q_proj",
                    "attention.k_proj",
                    "attention.v_proj",
                    "attention.o_proj",
                    "mlp.fc1",
                    "mlp.fc2",
                ],
            ),
        }
    }
}

pub(super) fn rows(config: &VitConfig, naming: Naming) -> Vec<Row> {
    let dim = config.dim;
    let patch = patch_shape(config);
    let projection = PATCHES.strip_suffix(".weight").expect("it is a weight");
    let mut rows = Vec::from(renamed("patch_embed.proj", projection, &patch, &patch));
    rows.push(same_shape("cls_token", "vit.embeddings.cls_token", vec![1, 1, dim]));
    let table = vec![1, config.tokens(), dim];
    rows.push(same_shape("pos_embed", "vit.embeddings.position_embeddings", table));
    let (blocks, [query, key, value, output, fc1, fc2]) = naming.names();
    for block in 0..config.depth {
        let (native, foreign) = (format!("blocks.{block}"), format!("{blocks}.{block}"));
        let qkv = [query, key, value].map(|part| format!("{foreign}.{part}"));
        rows.push(packed(&native, &qkv, "weight", &[dim, dim]));
        if config.qkv_bias {
            rows.push(packed(&native, &qkv, "bias", &[dim]));
        }
        let layers = [
            ("norm1", "layernorm_before", vec![dim]),
            ("attn.proj", output, vec![dim, dim]),
            ("norm2", "layernorm_after", vec![dim]),
            ("mlp.fc1", fc1, vec![config.mlp_dim, dim]),
            ("mlp.fc2", fc2, vec![dim, config.mlp_dim]),
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

/// One native tensor from queries, keys and values.
fn packed(native: &str, qkv: &[String; 3], parameter: &str, shape: &[usize]) -> Row {
    let part = |part: &String| -> Named { (format!("{part}.{parameter}"), shape.to_vec()) };
    let mut packed = shape.to_vec();
    packed[0] *= 3;
    Row {
        native: (format!("{native}.attn.qkv.{parameter}"), packed),
        foreign: qkv.iter().map(part).collect(),
    }
}
