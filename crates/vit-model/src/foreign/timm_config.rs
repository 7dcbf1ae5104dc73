//! timm's `config.json`: the architecture, its arguments, and the preprocessing.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use vit_layers::Activation;
use vit_patch::PositionRows;

use super::shapes::Shapes;
use crate::{Error, Fit, Interpolation, Layout, ModelInfo, Pool, Transform, VitConfig};

/// For each epsilon of the layer norms, an architecture that has it; arguments override everything else. The second one
/// also has a norm before the first block, which is turned off.
const ARCHITECTURE_BY_EPS: [(f64, &str); 2] =
    [(1e-6, "vit_base_patch16_224"), (1e-5, "vit_base_patch16_clip_224")];

/// The `config.json` with which timm's `create_model("local-dir:FOLDER", pretrained=True)` opens a folder whose
/// `model.safetensors` has the names of [`Layout::Timm`].
///
/// # Errors
/// If timm has no such model: it has no argument for a custom head width, and only epsilons of 1e-6 and 1e-5.
pub fn timm_config_json(config: &VitConfig, info: &ModelInfo) -> Result<String, Error> {
    Layout::Timm.check_expressible(config)?;
    let refused = |field, value: String, expected| {
        Err(Error::Inexpressible { layout: Layout::Timm, field, value, expected })
    };
    if let Some(width) = config.head_dim.filter(|width| width * config.heads != config.dim) {
        return refused("head_dim", width.to_string(), "dim / heads in a folder for timm");
    }
    let eps = config.layer_norm_eps;
    let Some((_, architecture)) = ARCHITECTURE_BY_EPS.iter().find(|(known, _)| *known == eps)
    else {
        return refused("layer_norm_eps", format!("{eps:e}"), "1e-6 or 1e-5 in a folder for timm");
    };
    let (image, patch) = (config.image, config.patch);
    let pool = if config.pool == Pool::Cls { "token" } else { "avg" };
    let transform = info.transform.clone().unwrap_or_else(|| Transform::of(Fit::Stretch));
    let each = |numbers: &[f64]| -> Vec<f64> {
        numbers.iter().copied().cycle().take(image.channels).collect()
    };
    let (crop_mode, crop_pct) = match transform.fit {
        Fit::Mnist | Fit::Stretch => ("squash", 1.0),
        Fit::Pad => ("border", 1.0),
        Fit::Crop => ("center", share(image.height.min(image.width), transform.resize)),
    };
    let mut value = json!({
        "architecture": architecture,
        "num_classes": config.classes,
        "num_features": config.dim,
        "global_pool": pool,
        "model_args": {
            "img_size": [image.height, image.width],
            "patch_size": [patch.height, patch.width],
            "in_chans": image.channels,
            "embed_dim": config.dim,
            "depth": config.depth,
            "num_heads": config.heads,
            "mlp_ratio": ratio(config.dim, config.mlp_dim),
            "qkv_bias": config.qkv_bias,
            "qk_norm": config.qk_norm,
            "init_values": config.layer_scale,
            "class_token": config.pool == Pool::Cls,
            "global_pool": pool,
            "fc_norm": false,
            "pre_norm": false,
            "reg_tokens": config.registers,
            "no_embed_class": config.position_rows == PositionRows::Patches,
            "act_layer": match config.activation {
                Activation::Relu => "relu",
                Activation::Gelu => "gelu",
            },
        },
        "pretrained_cfg": {
            "custom_load": false,
            "input_size": [image.channels, image.height, image.width],
            "fixed_input_size": true,
            "interpolation": match transform.interpolation {
                Interpolation::Bilinear => "bilinear",
                Interpolation::Bicubic => "bicubic",
            },
            "crop_pct": crop_pct,
            "crop_mode": crop_mode,
            "mean": each(&transform.mean),
            "std": each(&transform.std),
            "num_classes": config.classes,
            "pool_size": null,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    });
    if !info.class_names.is_empty() {
        value["label_names"] = json!(info.class_names);
    }
    Ok(format!("{value:#}\n"))
}

/// The ratio that gives `mlp_dim` when timm multiplies `dim` by it and truncates.
fn ratio(dim: usize, mlp_dim: usize) -> f64 {
    let of = |mlp_dim: f64| mlp_dim / dim as f64;
    let exact = of(mlp_dim as f64);
    if (dim as f64 * exact) as usize == mlp_dim { exact } else { of(mlp_dim as f64 + 0.5) }
}

/// The `crop_pct` that gives `resize` when timm divides the side by it and truncates.
fn share(side: usize, resize: Option<usize>) -> f64 {
    let Some(resize) = resize else { return 1.0 };
    let of = |resize: f64| side as f64 / resize;
    let exact = of(resize as f64);
    if (side as f64 / exact) as usize == resize { exact } else { of(resize as f64 + 0.5) }
}

/// The fields of `config.json` that matter.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Document {
    architecture: String,
    global_pool: Option<String>,
    pub(super) model_args: Map<String, Value>,
    pub(super) pretrained_cfg: Pretrained,
}

/// The preprocessing.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Pretrained {
    input_size: Option<[usize; 3]>,
    pub(super) mean: Option<Vec<f64>>,
    pub(super) std: Option<Vec<f64>>,
}

/// Architectures with the parameter names and shapes of others that compute something unsupported.
const ARCHITECTURES: [(&str, &str, &str, &str); 7] = [
    ("quickgelu", "act_layer", "quick_gelu", "gelu or relu"),
    ("base_patch32_siglip", "act_layer", "gelu_tanh", "gelu or relu"),
    ("large_patch16_siglip_512", "act_layer", "gelu_tanh", "gelu or relu"),
    ("large_patch16_siglip_gap_512", "act_layer", "gelu_tanh", "gelu or relu"),
    ("so400m_patch16_siglip", "act_layer", "gelu_tanh", "gelu or relu"),
    ("giantopt_patch16_siglip", "act_layer", "gelu_tanh", "gelu or relu"),
    ("_rpn_", "block_fn", "ResPostBlock", "Block"),
];

/// Parts of the names of architectures whose head width is neither 64 nor determined by the embedding width.
const HEADS: [(&str, usize); 5] = [
    ("vit_base_patch16_gap_", 16),
    ("test_vit2", 2),
    ("test_vit3", 3),
    ("test_vit4", 3),
    ("test_vit", 2),
];

/// Arguments that the parameters also show, or that only matter in training.
const HANDLED_ELSEWHERE: [&str; 25] = [
    "attn_drop_rate",
    "class_token",
    "depth",
    "drop_path_rate",
    "drop_rate",
    "dynamic_img_pad",
    "dynamic_img_size",
    "embed_dim",
    "fc_norm",
    "final_norm",
    "fix_init",
    "in_chans",
    "mlp_ratio",
    "no_embed_class",
    "num_classes",
    "patch_drop_rate",
    "patch_size",
    "pos_drop_rate",
    "pre_norm",
    "proj_drop_rate",
    "qk_norm",
    "qkv_bias",
    "reg_tokens",
    "strict_img_size",
    "weight_init",
];

impl Document {
    /// Rejects unsupported settings that the parameters do not show.
    pub(super) fn check(&self, shapes: &Shapes<'_>) -> Result<(), Error> {
        let family = ["vit_", "deit", "flexivit_", "test_vit"];
        if !family.iter().any(|family| self.architecture.starts_with(family)) {
            return Err(shapes.unsupported("architecture", &self.architecture, "a vit_* or deit*"));
        }
        for (part, field, value, expected) in ARCHITECTURES {
            let overridden = self.model_args.contains_key(field);
            if self.architecture.contains(part) && !overridden {
                return Err(shapes.unsupported(field, value, expected));
            }
        }
        let class_token = shapes.has("cls_token");
        let pool = self.model_args.get("global_pool").and_then(Value::as_str);
        match (pool.or(self.global_pool.as_deref()), class_token) {
            (None, _) | (Some("token"), true) | (Some("avg"), false) => {}
            (Some(pool), true) => return Err(shapes.unsupported("global_pool", pool, "token")),
            (Some(pool), false) => return Err(shapes.unsupported("global_pool", pool, "avg")),
        }
        for (name, value) in &self.model_args {
            let own = ["act_layer", "global_pool", "img_size", "init_values", "num_heads"];
            let harmless = match value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => {
                    matches!(
                        (name.as_str(), text.as_str()),
                        ("norm_layer", "layernorm") | ("pos_embed", "learn")
                    )
                }
                _ => false,
            };
            let handled =
                HANDLED_ELSEWHERE.contains(&name.as_str()) || own.contains(&name.as_str());
            if !handled && !harmless {
                let expected = "timm's default";
                return Err(shapes.unsupported(name, &value.to_string(), expected));
            }
        }
        Ok(())
    }

    /// Activation of the feed-forwards.
    pub(super) fn activation(&self, shapes: &Shapes<'_>) -> Result<Activation, Error> {
        match self.model_args.get("act_layer") {
            None | Some(Value::Null) => Ok(Activation::Gelu),
            Some(Value::String(name)) if name == "gelu" => Ok(Activation::Gelu),
            Some(Value::String(name)) if name == "relu" => Ok(Activation::Relu),
            Some(Value::String(name)) => Err(shapes.unsupported("act_layer", name, "gelu or relu")),
            Some(other) => Err(shapes.unsupported("act_layer", &other.to_string(), "gelu or relu")),
        }
    }

    /// Epsilon of the layer norms.
    pub(super) fn layer_norm_eps(&self) -> f64 {
        let known = ARCHITECTURE_BY_EPS.iter().find(|(_, name)| *name == self.architecture);
        known.map_or(super::timm::EPS, |&(eps, _)| eps)
    }

    /// Number of heads, from the arguments or from an architecture with an unusual head width.
    pub(super) fn heads(&self) -> Option<usize> {
        let of_architecture = || {
            let known = HEADS.iter().find(|(part, _)| self.architecture.contains(part));
            known.filter(|_| !self.model_args.contains_key("embed_dim")).map(|&(_, heads)| heads)
        };
        self.number("num_heads").or_else(of_architecture)
    }

    /// The head's input, if the arguments set it.
    pub(super) fn pool(&self) -> Option<Pool> {
        let pool = self.model_args.get("global_pool").and_then(Value::as_str);
        match pool.or(self.global_pool.as_deref()) {
            Some("token") => Some(Pool::Cls),
            Some("avg") => Some(Pool::Mean),
            _ => None,
        }
    }

    /// An integer argument of the model.
    fn number(&self, name: &str) -> Option<usize> {
        self.model_args.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
    }

    /// Height and width of the images.
    pub(super) fn image(&self) -> Option<(usize, usize)> {
        let sides = self.model_args.get("img_size").and_then(Value::as_array);
        let sides: Option<Vec<usize>> =
            sides.and_then(|sides| sides.iter().map(|n| n.as_u64()?.try_into().ok()).collect());
        match (self.number("img_size"), sides.as_deref()) {
            (Some(side), _) => Some((side, side)),
            (None, Some(&[height, width])) => Some((height, width)),
            _ => self.pretrained_cfg.input_size.map(|[_, height, width]| (height, width)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foreign::{Documents, Foreign, Known};
    use crate::{Preset, TensorInfo};
    use candle_core::DType;

    fn class_token() -> VitConfig {
        VitConfig {
            pool: Pool::Cls,
            activation: Activation::Gelu,
            qkv_bias: true,
            layer_norm_eps: 1e-6,
            dropout: Preset::VitTi16.config().dropout,
            ..Preset::Shallow.config()
        }
    }

    #[test]
    fn timm_configurations_round_trip() {
        let info = ModelInfo {
            class_names: (0..10).map(|class| format!("class {class}")).collect(),
            transform: Some(Transform { resize: Some(37), ..Transform::of(Fit::Crop) }),
        };
        for config in [
            class_token(),
            VitConfig { pool: Pool::Mean, mlp_dim: 99, dim: 36, ..class_token() },
            VitConfig { layer_norm_eps: 1e-5, ..class_token() },
            VitConfig {
                registers: 3,
                position_rows: PositionRows::Patches,
                qk_norm: true,
                layer_scale: Some(0.1),
                activation: Activation::Relu,
                ..class_token()
            },
        ] {
            let json = timm_config_json(&config, &info).expect("timm has such models");
            let parameters = Layout::Timm.parameters(&config).expect("a sound configuration");
            let of = |shape| TensorInfo { shape, dtype: Some(DType::F32) };
            let infos = parameters.into_iter().map(|(name, shape)| (name, of(shape))).collect();
            let documents = Documents { config: Some(&json), preprocessor: None };
            let foreign = Foreign::new(&infos, documents, &Known::default()).expect("as written");
            assert_eq!((foreign.config, foreign.info), (config, info.clone()));
        }
    }

    #[test]
    fn settings_without_a_timm_argument_are_rejected_by_name() {
        let refusal = |config| {
            let error = timm_config_json(&config, &ModelInfo::default()).unwrap_err().to_string();
            error.replace("the timm layout cannot express ", "")
        };
        let eps = VitConfig { layer_norm_eps: 1e-12, ..class_token() };
        assert_eq!(
            refusal(eps),
            "layer_norm_eps = 1e-12, expected 1e-6 or 1e-5 in a folder for timm"
        );
        let heads = VitConfig { head_dim: Some(5), ..class_token() };
        assert_eq!(refusal(heads), "head_dim = 5, expected dim / heads in a folder for timm");
        assert_eq!(refusal(Preset::Shallow.config()), "pool = first, expected cls or mean");
    }

    #[test]
    fn integers_survive_timms_rounding() {
        for dim in 1..200 {
            for other in 1..400 {
                assert_eq!((dim as f64 * ratio(dim, other)) as usize, other);
                if other >= dim {
                    assert_eq!((dim as f64 / share(dim, Some(other))) as usize, other);
                }
            }
        }
    }
}
