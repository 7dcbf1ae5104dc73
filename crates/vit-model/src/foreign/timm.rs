//! timm's `VisionTransformer`, described by the names and shapes of its parameters.

use serde_json::Value;
use vit_patch::{ImageSize, PatchSize};

use super::shapes::{Shapes, grid, vit};
use super::timm_config::{Document, Pretrained};
use super::{Assumptions, Foreign, Known, Normalization};
use crate::{Error, Layout, ModelInfo, Pool, TensorInfos, VitConfig};

/// Epsilon of every supported timm `vit_*`.
pub(super) const EPS: f64 = 1e-6;
/// Usual initial value of layer scale; it does not matter once trained.
const LAYER_SCALE: f64 = 1e-5;

/// Signs of unsupported models: part of a parameter's name, timm's argument, its value, the expected value.
const SIGNS: [(&str, &str, &str, &str); 13] = [
    ("dist_token", "dist_token", "present", "a class token alone"),
    ("head_dist.", "head_dist", "present", "one head"),
    ("norm_pre.", "pre_norm", "true", "false"),
    ("fc_norm.", "fc_norm", "true", "false"),
    ("attn_pool.", "global_pool", "map", "token or avg"),
    (".attns.", "block_fn", "ParallelThingsBlock", "Block"),
    (".attn.norm.", "scale_attn_norm", "true", "false"),
    (".mlp.norm.", "scale_mlp_norm", "true", "false"),
    (".attn.gate.", "gated", "true", "false"),
    (".mlp.fc1_g.", "mlp_layer", "SwiGLU", "Mlp"),
    (".mlp.w12.", "mlp_layer", "SwiGLUPacked", "Mlp"),
    ("patch_embed.backbone.", "embed_layer", "HybridEmbed", "PatchEmbed"),
    ("patch_embed.norm.", "embed_norm_layer", "present", "none"),
];

pub(super) fn described(
    infos: &TensorInfos,
    json: Option<&str>,
    known: &Known,
) -> Result<Foreign, Error> {
    let shapes = Shapes { infos, layout: Layout::Timm };
    let document = |source| Error::Document { document: "config.json", source };
    let describe: Option<Document> =
        json.map(serde_json::from_str).transpose().map_err(document)?;
    let mut known = known.clone();
    let mut assumed = Assumptions::default();
    let mut layer_scale = LAYER_SCALE;
    if let Some(describe) = describe {
        describe.check(&shapes)?;
        known.activation = known.activation.or(Some(describe.activation(&shapes)?));
        known.pool = known.pool.or(describe.pool());
        layer_scale =
            describe.model_args.get("init_values").and_then(Value::as_f64).unwrap_or(layer_scale);
        known.heads = known.heads.or_else(|| describe.heads());
        known.image = describe.image().or(known.image);
        known.layer_norm_eps = known.layer_norm_eps.or(Some(describe.layer_norm_eps()));
        let Pretrained { mean, std, .. } = describe.pretrained_cfg;
        let scaled = mean.zip(std).map(|(mean, std)| Normalization { mean, std });
        known.normalization = known.normalization.or(scaled);
    }
    let config = by_shapes(&shapes, &known, &mut assumed)?;
    let config = VitConfig {
        activation: assumed.activation(known.activation),
        layer_scale: config.layer_scale.map(|_| layer_scale),
        ..config
    };
    let normalization = assumed.normalization(known.normalization);
    Ok(Foreign {
        layout: Layout::Timm,
        config,
        normalization,
        info: ModelInfo::default(),
        assumed: assumed.0,
        grey: false,
    })
}

fn by_shapes(
    shapes: &Shapes<'_>,
    known: &Known,
    assumed: &mut Assumptions,
) -> Result<VitConfig, Error> {
    shapes.refuse(&SIGNS)?;
    for (name, field, value, expected) in [
        ("norm.weight", "final_norm", "false", "true"),
        ("head.weight", "num_classes", "0", "at least 1"),
        ("pos_embed", "pos_embed", "none", "learn"),
    ] {
        if !shapes.has(name) {
            return Err(shapes.unsupported(field, value, expected));
        }
    }
    let [dim, channels, height, width] = shapes.of("patch_embed.proj.weight")?;
    let patch = PatchSize { height, width };
    let class_token = shapes.has("cls_token");
    let registers = match shapes.has("reg_token") {
        true => shapes.of::<3>("reg_token")?[1],
        false => 0,
    };
    let [_, rows, _] = shapes.of("pos_embed")?;
    let prefix = registers.saturating_add(usize::from(class_token));
    let (image, position_rows) = grid(rows, prefix, patch, known.image)?;
    let [heads_dim, _] = shapes.of("blocks.0.attn.qkv.weight")?.map(|size: usize| size / 3);
    let [mlp_dim, _] = shapes.of("blocks.0.mlp.fc1.weight")?;
    let [classes, _] = shapes.of("head.weight")?;
    let qk_norm = shapes.has("blocks.0.attn.q_norm.weight");
    let heads = match (known.heads, qk_norm) {
        // QK norms have the width of a head.
        (None, true) => heads_dim / shapes.of::<1>("blocks.0.attn.q_norm.weight")?[0].max(1),
        (heads, _) => assumed.heads(heads_dim, heads)?,
    };
    // Our models have no class token that the head does not read.
    let pool = assumed.pool(known.pool, if class_token { Pool::Cls } else { Pool::Mean });
    match (pool, class_token) {
        (Pool::Cls, true) | (Pool::Mean, false) => {}
        (Pool::Mean, true) => {
            return Err(shapes.unsupported("global_pool", "avg", "token, with a class token"));
        }
        _ => return Err(shapes.unsupported("global_pool", "token", "avg, without a class token")),
    }
    Ok(VitConfig {
        image: ImageSize { height: image.0, width: image.1, channels },
        patch,
        dim,
        depth: shapes.depth(|block| format!("blocks.{block}.norm1.weight")),
        heads,
        head_dim: (heads_dim != dim).then(|| heads_dim / heads.max(1)),
        mlp_dim,
        classes,
        position_rows,
        registers,
        pool,
        qkv_bias: shapes.has("blocks.0.attn.qkv.bias"),
        qk_norm,
        layer_scale: shapes.has("blocks.0.ls1.gamma").then_some(LAYER_SCALE),
        layer_norm_eps: assumed.layer_norm_eps(known.layer_norm_eps, EPS),
        ..vit()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foreign::Documents;
    use crate::{Preset, TensorInfo};
    use candle_core::DType;
    use serde_json::json;
    use vit_layers::Activation;
    use vit_patch::PositionRows;

    fn infos(config: &VitConfig) -> TensorInfos {
        let info = |shape| TensorInfo { shape, dtype: Some(DType::F32) };
        let parameters = Layout::Timm.parameters(config).expect("a sound configuration");
        parameters.into_iter().map(|(name, shape)| (name, info(shape))).collect()
    }

    fn describe(config: &VitConfig, known: &Known) -> Result<Foreign, Error> {
        Foreign::new(&infos(config), Documents::default(), known)
    }

    #[test]
    fn the_papers_models_are_recognised_by_their_shapes() {
        for preset in &Preset::all()[4..] {
            let foreign = describe(&preset.config(), &Known::default()).expect("a published model");
            assert_eq!(foreign.config, preset.config());
            let heads = format!("heads = {}", preset.config().heads);
            let rest = [
                "pool = cls",
                "layer_norm_eps = 1e-6",
                "activation = gelu",
                "pixels = (x - 0.5) / 0.5",
            ];
            assert_eq!(foreign.assumed, [&[heads.as_str()][..], &rest].concat());
        }
    }

    #[test]
    fn later_features_are_recognised_by_shapes() {
        let config = VitConfig {
            image: ImageSize { height: 64, width: 64, channels: 1 },
            registers: 4,
            position_rows: PositionRows::Patches,
            qk_norm: true,
            layer_scale: Some(LAYER_SCALE),
            head_dim: Some(24),
            heads: 5,
            qkv_bias: false,
            ..Preset::VitTi16.config()
        };
        assert_eq!(describe(&config, &Known::default()).expect("a timm model").config, config);
        let pooled = VitConfig { pool: Pool::Mean, registers: 0, ..Preset::VitTi16.config() };
        assert_eq!(describe(&pooled, &Known::default()).expect("a gap model").config, pooled);
    }

    #[test]
    fn callers_settings_complete_the_shapes() {
        let config = VitConfig { dim: 40, heads: 5, mlp_dim: 80, ..Preset::VitTi16.config() };
        let error = describe(&config, &Known::default()).unwrap_err().to_string();
        assert_eq!(
            error,
            "cannot determine heads: a width of 40 is not a multiple of 64, the usual width of a head"
        );
        let known = Known { heads: Some(5), layer_norm_eps: Some(1e-5), ..Known::default() };
        let foreign = describe(&config, &known).expect("a timm model");
        assert_eq!(foreign.config, VitConfig { layer_norm_eps: 1e-5, ..config.clone() });
        let known = Known { heads: Some(3), ..Known::default() };
        assert!(describe(&config, &known).is_err(), "3 heads do not divide 40");
        let wide = VitConfig { dim: 1280, heads: 16, mlp_dim: 5120, ..config };
        assert_eq!(describe(&wide, &Known::default()).expect("ViT-H").config.heads, 16);
    }

    #[test]
    fn a_timm_folder_completes_the_shapes() {
        let config = VitConfig {
            image: ImageSize { height: 32, width: 64, channels: 3 },
            dim: 40,
            heads: 5,
            mlp_dim: 80,
            activation: Activation::Relu,
            ..Preset::VitTi16.config()
        };
        let document = |args: Value| {
            json!({
                "architecture": "vit_base_patch16_224", "num_classes": 1000, "global_pool": "token",
                "model_args": args,
                "pretrained_cfg": {"input_size": [3, 32, 64], "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]},
            })
            .to_string()
        };
        let read = |json: &str| {
            let documents = Documents { config: Some(json), ..Documents::default() };
            Foreign::new(&infos(&config), documents, &Known::default())
        };
        let args = json!({"num_heads": 5, "act_layer": "relu", "embed_dim": 40, "fc_norm": null});
        let foreign = read(&document(args)).expect("a timm folder");
        assert_eq!((foreign.config, foreign.assumed.len()), (config.clone(), 0));
        let normalization = Normalization { mean: vec![0.1, 0.2, 0.3], std: vec![1.0; 3] };
        assert_eq!(foreign.normalization, normalization);
        for (args, refused) in [
            (
                json!({"act_layer": "silu"}),
                "act_layer = silu in the timm layout, expected gelu or relu",
            ),
            (json!({"norm_layer": "rmsnorm"}), "norm_layer = \"rmsnorm\" in the timm layout"),
            (json!({"global_pool": "avg"}), "global_pool = avg in the timm layout, expected token"),
            (json!({"pool_include_prefix": true}), "pool_include_prefix = true"),
        ] {
            let error = read(&document(args)).unwrap_err().to_string();
            assert!(error.starts_with(&format!("unsupported {refused}")), "{error}");
        }
        for (architecture, refused) in [
            ("eva02_base_patch14_224", "architecture = eva02_base_patch14_224"),
            ("vit_base_patch32_clip_quickgelu_224", "act_layer = quick_gelu"),
            ("vit_base_patch16_rpn_224", "block_fn = ResPostBlock"),
        ] {
            let json = document(json!({})).replace("vit_base_patch16_224", architecture);
            let error = read(&json).unwrap_err().to_string();
            assert!(error.starts_with(&format!("unsupported {refused}")), "{error}");
        }
        let error = read("{\"architecture\": 3}").unwrap_err().to_string();
        assert_eq!(error, "cannot parse config.json");
    }

    #[test]
    fn parameters_of_unsupported_models_are_rejected_with_their_timm_argument() {
        let config = Preset::VitTi16.config();
        for (name, refused) in [
            ("dist_token", "dist_token = present"),
            ("head_dist.weight", "head_dist = present"),
            ("norm_pre.weight", "pre_norm = true"),
            ("fc_norm.weight", "fc_norm = true"),
            ("attn_pool.latent", "global_pool = map"),
            ("blocks.0.attns.0.norm.weight", "block_fn = ParallelThingsBlock"),
            ("blocks.0.mlp.w12.weight", "mlp_layer = SwiGLUPacked"),
        ] {
            let mut infos = infos(&config);
            infos.insert(name.to_owned(), infos["norm.weight"].clone());
            let error = Foreign::new(&infos, Documents::default(), &Known::default());
            let error = error.unwrap_err().to_string();
            let expected = format!("unsupported {refused} in the timm layout, expected ");
            assert!(error.starts_with(&expected), "{error}");
        }
        for (name, refused) in
            [("norm.weight", "final_norm = false"), ("pos_embed", "pos_embed = none")]
        {
            let mut infos = infos(&config);
            infos.remove(name);
            let error = Foreign::new(&infos, Documents::default(), &Known::default());
            let error = error.unwrap_err().to_string();
            assert!(error.starts_with(&format!("unsupported {refused} ")), "{error}");
        }
    }
}
