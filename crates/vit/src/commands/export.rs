//! `vit export`: a model under the names of another library.

use std::path::Path;

use serde_json::json;
use vit_files::write_atomically;
use vit_layers::Activation;
use vit_model::{Layout, VitConfig};

use crate::cli;
use crate::failure::Result;
use crate::output;
use crate::saved_model::SavedModel;

pub(super) fn run(args: &cli::Export) -> Result<()> {
    let model = SavedModel::open(&args.model)?;
    let layout = Layout::from(args.layout);
    layout.check_expressible(&model.config)?;
    let tensors = layout.export(&model.parameters, &model.config)?;
    match layout {
        Layout::Hf => {
            std::fs::create_dir_all(&args.output)
                .map_err(vit_files::Error::io("create", &args.output))?;
            let weights = args.output.join("model.safetensors");
            vit_model::write(&weights, &tensors, &model.config)?;
            write_json(&args.output.join("config.json"), &hf_config(&model.config))?;
            let preprocessor = hf_preprocessor(&model.config);
            write_json(&args.output.join("preprocessor_config.json"), &preprocessor)?;
        }
        Layout::Timm | Layout::Notebook => {
            vit_model::write(&args.output, &tensors, &model.config)?;
        }
    }
    tracing::info!("{} tensors in the {layout} layout", tensors.len());
    Ok(output::line(args.output.display())?)
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    Ok(write_atomically(path, format!("{value:#}\n").as_bytes())?)
}

/// What transformers' `ViTConfig` calls the fields of ours.
fn hf_config(config: &VitConfig) -> serde_json::Value {
    let side = |height: usize, width: usize| {
        if height == width { json!(height) } else { json!([height, width]) }
    };
    let labels: serde_json::Map<_, _> =
        (0..config.classes).map(|class| (class.to_string(), json!(class.to_string()))).collect();
    let ids: serde_json::Map<_, _> =
        (0..config.classes).map(|class| (class.to_string(), json!(class))).collect();
    json!({
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "image_size": side(config.image.height, config.image.width),
        "patch_size": side(config.patch.height, config.patch.width),
        "num_channels": config.image.channels,
        "hidden_size": config.dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": config.mlp_dim,
        "hidden_act": match config.activation {
            Activation::Relu => "relu",
            Activation::Gelu => "gelu",
        },
        "qkv_bias": config.qkv_bias,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout_prob": config.dropout.mlp,
        "attention_probs_dropout_prob": config.dropout.attention,
        "id2label": labels,
        "label2id": ids,
    })
}

/// How transformers' `ViTImageProcessor` scales pixels as this project does.
fn hf_preprocessor(config: &VitConfig) -> serde_json::Value {
    let half = vec![0.5; config.image.channels];
    json!({
        "image_processor_type": "ViTImageProcessor",
        "do_resize": true,
        "size": {"height": config.image.height, "width": config.image.width},
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": half,
        "image_std": half,
    })
}
