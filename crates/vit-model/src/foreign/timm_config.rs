//! timm's `config.json`: the architecture, the arguments of its model, and how images were scaled.

use serde::Deserialize;
use serde_json::{Map, Value};
use vit_layers::Activation;

use super::shapes::Shapes;
use crate::{Error, Pool};

/// What is read of it.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Document {
    architecture: String,
    global_pool: Option<String>,
    pub(super) model_args: Map<String, Value>,
    pub(super) pretrained_cfg: Pretrained,
}

/// How its images were.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Pretrained {
    input_size: Option<[usize; 3]>,
    pub(super) mean: Option<Vec<f64>>,
    pub(super) std: Option<Vec<f64>>,
}

/// Architectures whose parameters have the names and shapes of others, and which compute something else.
const ARCHITECTURES: [(&str, &str, &str, &str); 7] = [
    ("quickgelu", "act_layer", "quick_gelu", "gelu or relu"),
    ("base_patch32_siglip", "act_layer", "gelu_tanh", "gelu or relu"),
    ("large_patch16_siglip_512", "act_layer", "gelu_tanh", "gelu or relu"),
    ("large_patch16_siglip_gap_512", "act_layer", "gelu_tanh", "gelu or relu"),
    ("so400m_patch16_siglip", "act_layer", "gelu_tanh", "gelu or relu"),
    ("giantopt_patch16_siglip", "act_layer", "gelu_tanh", "gelu or relu"),
    ("_rpn_", "block_fn", "ResPostBlock", "Block"),
];

/// Parts of the names of architectures whose heads have another width than 64 and than their embedding's width tells.
const HEADS: [(&str, usize); 5] = [
    ("vit_base_patch16_gap_", 16),
    ("test_vit2", 2),
    ("test_vit3", 3),
    ("test_vit4", 3),
    ("test_vit", 2),
];

/// Arguments of a model that its parameters tell as well, or that are of training alone.
const HEEDED_ELSEWHERE: [&str; 25] = [
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
    /// Refuses what ours does not compute and the parameters do not show.
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
            let heeded = HEEDED_ELSEWHERE.contains(&name.as_str()) || own.contains(&name.as_str());
            if !heeded && !harmless {
                let expected = "timm's default";
                return Err(shapes.unsupported(name, &value.to_string(), expected));
            }
        }
        Ok(())
    }

    /// The function of the feed-forwards.
    pub(super) fn activation(&self, shapes: &Shapes<'_>) -> Result<Activation, Error> {
        match self.model_args.get("act_layer") {
            None | Some(Value::Null) => Ok(Activation::Gelu),
            Some(Value::String(name)) if name == "gelu" => Ok(Activation::Gelu),
            Some(Value::String(name)) if name == "relu" => Ok(Activation::Relu),
            Some(Value::String(name)) => Err(shapes.unsupported("act_layer", name, "gelu or relu")),
            Some(other) => Err(shapes.unsupported("act_layer", &other.to_string(), "gelu or relu")),
        }
    }

    /// Attention heads: those of the arguments, or of an architecture whose heads are not 64 wide.
    pub(super) fn heads(&self) -> Option<usize> {
        let of_architecture = || {
            let known = HEADS.iter().find(|(part, _)| self.architecture.contains(part));
            known.filter(|_| !self.model_args.contains_key("embed_dim")).map(|&(_, heads)| heads)
        };
        self.number("num_heads").or_else(of_architecture)
    }

    /// Which token the head reads, where it is told.
    pub(super) fn pool(&self) -> Option<Pool> {
        let pool = self.model_args.get("global_pool").and_then(Value::as_str);
        match pool.or(self.global_pool.as_deref()) {
            Some("token") => Some(Pool::Cls),
            Some("avg") => Some(Pool::Mean),
            _ => None,
        }
    }

    /// An argument of the model that is a whole number.
    fn number(&self, name: &str) -> Option<usize> {
        self.model_args.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
    }

    /// The height and width of images.
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
