//! transformers' `ViTConfig`: its JSON, or what names and shapes show without it.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use vit_layers::Activation;
use vit_patch::{ImageSize, PatchSize};

use super::preprocessor::normalization;
use super::shapes::{Shapes, grid, vit};
use super::{Assumptions, Foreign, Known};
use crate::{DropoutConfig, Error, Layout, ModelInfo, TensorInfos, VitConfig};

const CONFIG: &str = "config.json";

/// The `config.json` of a model that [`Layout::Hf`] can express.
///
/// Classes get `info`'s names, else their numbers. `hidden_dropout_prob`, which transformers applies in three places,
/// is the feed-forward's rate.
#[must_use]
pub fn hf_config_json(config: &VitConfig, info: &ModelInfo) -> String {
    format!("{:#}\n", hf_config(config, info))
}

/// The `config.json` for a grey model converted by [`grey_as_colour`](crate::grey_as_colour). It records the conversion
/// for the import, in a field that transformers keeps but ignores.
#[must_use]
pub fn hf_config_json_of_grey(config: &VitConfig, info: &ModelInfo) -> String {
    let mut value = hf_config(config, info);
    value["vit_grey"] = json!(true);
    format!("{value:#}\n")
}

fn hf_config(config: &VitConfig, info: &ModelInfo) -> Value {
    let names = info.all_names(config.classes);
    let names = || names.iter().zip(0..);
    let labels: Map<_, _> = names().map(|(name, id)| (id.to_string(), json!(name))).collect();
    let ids: Map<_, _> = names().map(|(name, id)| (name.clone(), json!(id))).collect();
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

fn side(height: usize, width: usize) -> Value {
    if height == width { json!(height) } else { json!([height, width]) }
}

/// The fields of `ViTConfig` that matter; missing ones have transformers' defaults.
#[derive(Deserialize)]
#[serde(default)]
struct Config {
    model_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    hidden_dropout_prob: f64,
    attention_probs_dropout_prob: f64,
    layer_norm_eps: f64,
    image_size: Side,
    patch_size: Side,
    num_channels: usize,
    qkv_bias: bool,
    head_dim: Option<usize>,
    num_labels: Option<usize>,
    problem_type: Option<String>,
    id2label: Option<Map<String, Value>>,
    /// Our own field: see [`hf_config_json_of_grey`].
    vit_grey: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            model_type: "vit".to_owned(),
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            intermediate_size: 3072,
            hidden_act: "gelu".to_owned(),
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            layer_norm_eps: EPS,
            image_size: Side::Square(224),
            patch_size: Side::Square(16),
            num_channels: 3,
            qkv_bias: true,
            head_dim: None,
            num_labels: None,
            problem_type: None,
            id2label: None,
            vit_grey: false,
        }
    }
}

const EPS: f64 = 1e-12;

#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Side {
    Square(usize),
    Rectangle(usize, usize),
}

impl Side {
    const fn pair(self) -> (usize, usize) {
        match self {
            Self::Square(side) => (side, side),
            Self::Rectangle(height, width) => (height, width),
        }
    }
}

/// Whether this is transformers' `config.json`; timm's has an `architecture` instead.
pub(super) fn is_hf(json: &str) -> Result<bool, Error> {
    let document = |source| Error::Document { document: CONFIG, source };
    let value: Value = serde_json::from_str(json).map_err(document)?;
    Ok(value.get("model_type").is_some())
}

/// Describes a folder that transformers saved.
pub(super) fn described(
    infos: &TensorInfos,
    json: &str,
    preprocessor: Option<&str>,
    known: &Known,
) -> Result<Foreign, Error> {
    let shapes = Shapes { infos, layout: Layout::Hf };
    let document = |source| Error::Document { document: CONFIG, source };
    let theirs: Config = serde_json::from_str(json).map_err(document)?;
    if theirs.model_type != "vit" {
        return Err(shapes.unsupported("model_type", &theirs.model_type, "vit"));
    }
    refuse(&shapes)?;
    let grey = theirs.vit_grey && theirs.num_channels == 3;
    let config = theirs.ours(&shapes, known)?;
    let mut assumed = Assumptions::default();
    let normalization = normalization(&shapes, preprocessor, known, &mut assumed)?;
    Ok(Foreign {
        layout: Layout::Hf,
        config,
        normalization,
        info: ModelInfo::default(),
        assumed: assumed.0,
        grey,
    })
}

/// Describes a file without its folder.
pub(super) fn by_shapes(
    infos: &TensorInfos,
    preprocessor: Option<&str>,
    known: &Known,
) -> Result<Foreign, Error> {
    let shapes = Shapes { infos, layout: Layout::Hf };
    refuse(&shapes)?;
    let [dim, channels, height, width] =
        shapes.of("vit.embeddings.patch_embeddings.projection.weight")?;
    let patch = PatchSize { height, width };
    let [_, rows, _] = shapes.of("vit.embeddings.position_embeddings")?;
    let (image, _) = grid(rows, 1, patch, known.image)?;
    let [classes, _] = shapes.of("classifier.weight")?;
    let in_memory = shapes.has("vit.layers.0.layernorm_before.weight");
    let (blocks, query, fc1) = if in_memory {
        ("vit.layers", "attention.q_proj", "mlp.fc1")
    } else {
        ("vit.encoder.layer", "attention.attention.query", "intermediate.dense")
    };
    let [mlp_dim, _] = shapes.of(&format!("{blocks}.0.{fc1}.weight"))?;
    let mut assumed = Assumptions::default();
    let config = VitConfig {
        image: ImageSize { height: image.0, width: image.1, channels },
        patch,
        dim,
        depth: shapes.depth(|block| format!("{blocks}.{block}.layernorm_before.weight")),
        heads: assumed.heads(dim, known.heads)?,
        mlp_dim,
        classes,
        qkv_bias: shapes.has(&format!("{blocks}.0.{query}.bias")),
        activation: assumed.activation(known.activation),
        layer_norm_eps: assumed.layer_norm_eps(known.layer_norm_eps, EPS),
        ..vit()
    };
    let normalization = normalization(&shapes, preprocessor, known, &mut assumed)?;
    Ok(Foreign {
        layout: Layout::Hf,
        config,
        normalization,
        info: ModelInfo::default(),
        assumed: assumed.0,
        grey: false,
    })
}

/// Rejects parameters that `ViTForImageClassification` does not have.
fn refuse(shapes: &Shapes<'_>) -> Result<(), Error> {
    shapes.refuse(&[
        ("pooler.", "pooler", "present", "ViTForImageClassification, which has none"),
        ("mask_token", "mask_token", "present", "ViTForImageClassification, which has none"),
        ("distillation_token", "distillation_token", "present", "a class token alone"),
    ])?;
    if shapes.infos.keys().any(|name| name.starts_with("embeddings.")) {
        return Err(shapes.unsupported("architectures", "ViTModel", "ViTForImageClassification"));
    }
    Ok(())
}

impl Config {
    fn ours(self, shapes: &Shapes<'_>, known: &Known) -> Result<VitConfig, Error> {
        if let Some(problem) =
            self.problem_type.filter(|problem| problem != "single_label_classification")
        {
            let expected = "single_label_classification, whose outputs are one probability each";
            return Err(shapes.unsupported("problem_type", &problem, expected));
        }
        let activation = match self.hidden_act.as_str() {
            "gelu" => Activation::Gelu,
            "relu" => Activation::Relu,
            other => return Err(shapes.unsupported("hidden_act", other, "gelu or relu")),
        };
        let heads = known.heads.unwrap_or(self.num_attention_heads);
        if let Some(width) =
            self.head_dim.filter(|width| width.checked_mul(heads) != Some(self.hidden_size))
        {
            let expected = "hidden_size / num_attention_heads, as in version 4";
            return Err(shapes.unsupported("head_dim", &width.to_string(), expected));
        }
        let ((height, width), patch) = (self.image_size.pair(), self.patch_size.pair());
        let named = self.id2label.map(|labels| labels.len());
        let hidden = self.hidden_dropout_prob;
        Ok(VitConfig {
            image: ImageSize { height, width, channels: self.num_channels },
            patch: PatchSize { height: patch.0, width: patch.1 },
            dim: self.hidden_size,
            depth: self.num_hidden_layers,
            heads,
            mlp_dim: self.intermediate_size,
            classes: named.or(self.num_labels).unwrap_or(2),
            activation,
            qkv_bias: self.qkv_bias,
            dropout: DropoutConfig {
                embedding: hidden,
                attention: self.attention_probs_dropout_prob,
                projection: hidden,
                mlp: hidden,
            },
            layer_norm_eps: known.layer_norm_eps.unwrap_or(self.layer_norm_eps),
            ..vit()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foreign::{Documents, hf_preprocessor_json};
    use crate::{Preset, TensorInfo};
    use candle_core::DType;

    fn infos(config: &VitConfig) -> TensorInfos {
        let info = |shape| TensorInfo { shape, dtype: Some(DType::F32) };
        let parameters = Layout::Hf.parameters(config).expect("an expressible model");
        parameters.into_iter().map(|(name, shape)| (name, info(shape))).collect()
    }

    fn read(config: &VitConfig, json: &str, preprocessor: Option<&str>) -> Result<Foreign, Error> {
        let documents = Documents { config: Some(json), preprocessor };
        Foreign::new(&infos(config), documents, &Known::default())
    }

    fn rectangular() -> VitConfig {
        VitConfig {
            image: ImageSize { height: 32, width: 48, channels: 1 },
            patch: PatchSize { height: 16, width: 8 },
            heads: 6,
            classes: 7,
            activation: Activation::Relu,
            qkv_bias: false,
            layer_norm_eps: 1e-5,
            dropout: DropoutConfig { attention: 0.25, ..vit().with_dropout(0.125).dropout },
            ..vit()
        }
    }

    #[test]
    fn configurations_round_trip() {
        let rectangular = rectangular();
        let same = DropoutConfig { embedding: 0.125, ..rectangular.dropout };
        let papers = Preset::all()[4..].iter().map(|preset| preset.config());
        for config in papers.chain([VitConfig { dropout: same, ..rectangular }]) {
            let json = hf_config_json(&config, &ModelInfo::default());
            let preprocessor = hf_preprocessor_json(&config, None);
            let foreign = read(&config, &json, Some(&preprocessor)).expect("what was written");
            assert_eq!(foreign.config, config);
            assert!(foreign.normalization.is_ours() && foreign.assumed.is_empty());
        }
    }

    #[test]
    fn a_file_without_its_folder_is_recognised_by_its_shapes() {
        let config = VitConfig { layer_norm_eps: EPS, ..vit() };
        let by = |infos: &TensorInfos| Foreign::new(infos, Documents::default(), &Known::default());
        let foreign = by(&infos(&config)).expect("a published model");
        assert_eq!((&foreign.config, foreign.assumed.len()), (&config, 4));
        // Under the names that transformers uses in memory since 5.9.
        let renamed = |name: &String| {
            [
                ("encoder.layer.", "layers."),
                ("attention.attention.query", "attention.q_proj"),
                ("attention.attention.key", "attention.k_proj"),
                ("attention.attention.value", "attention.v_proj"),
                ("attention.output.dense", "attention.o_proj"),
                ("intermediate.dense", "mlp.fc1"),
                (".output.dense", ".mlp.fc2"),
            ]
            .iter()
            .fold(name.clone(), |name, (old, new)| name.replace(old, new))
        };
        let infos = infos(&config).into_iter().map(|(name, info)| (renamed(&name), info));
        assert_eq!(by(&infos.collect()).expect("the same model"), foreign);
    }

    #[test]
    fn missing_fields_have_transformers_defaults() {
        let config = VitConfig { classes: 2, ..Preset::VitB16.config() };
        let foreign = read(&config, r#"{"model_type": "vit", "id2label": null}"#, Some("{}"));
        let foreign = foreign.expect("a model of the default size");
        assert_eq!(foreign.config, VitConfig { layer_norm_eps: EPS, ..config });
        assert!(foreign.normalization.is_ours());
    }

    #[test]
    fn unsupported_settings_are_rejected_by_name() {
        let config = vit();
        for (from, to, refused) in [
            ("\"vit\"", "\"deit\"", "model_type = deit in the hf layout, expected vit"),
            (
                "\"gelu\"",
                "\"gelu_new\"",
                "hidden_act = gelu_new in the hf layout, expected gelu or relu",
            ),
            ("{", "{\"head_dim\": 32,", "head_dim = 32 in the hf layout, expected hidden_size"),
        ] {
            let json = hf_config_json(&config, &ModelInfo::default()).replacen(from, to, 1);
            let error = read(&config, &json, None).unwrap_err().to_string();
            assert!(error.starts_with(&format!("unsupported {refused}")), "{error}");
        }
        let mut infos = infos(&config);
        infos.insert("vit.pooler.dense.bias".to_owned(), infos["classifier.bias"].clone());
        let error = Foreign::new(&infos, Documents::default(), &Known::default()).unwrap_err();
        assert!(error.to_string().starts_with("unsupported pooler = present"), "{error}");
        for scaling in [r#"{"image_std": 0}"#, r#"{"image_mean": [0.1, 0.2]}"#] {
            let error =
                read(&config, &hf_config_json(&config, &ModelInfo::default()), Some(scaling))
                    .unwrap_err();
            assert!(error.to_string().starts_with("unsupported mean and std = "), "{error}");
        }
        let json = hf_config_json(&config, &ModelInfo::default())
            .replace("\"hidden_size\": 192", "\"hidden_size\": []");
        for broken in [json.as_str(), "{", ""] {
            let error = read(&config, broken, None).unwrap_err().to_string();
            assert_eq!(error, "cannot parse config.json", "{broken}");
        }
    }
}
