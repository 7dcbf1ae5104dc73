//! Small files, valid or almost valid, that a fuzzer starts from.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use candle_core::{DType, Device};
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{DynamicImage, GrayImage, ImageFormat, Luma, Rgba, RgbaImage};
use vit_files::Digest;
use vit_layers::Parameters;
use vit_model::{
    Layout, ModelInfo, Pool, Preset, Tensors, VisionTransformer, VitConfig, hf_config_json,
    hf_preprocessor_json, to_bytes,
};
use vit_patch::{ImageSize, PatchSize};

use crate::png_file;

/// Named inputs of a parser.
type Seeds = Vec<(&'static str, Vec<u8>)>;

/// Parser, name and bytes of each seed.
pub(crate) fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    let groups: [(&str, Seeds); 9] = [
        ("checkpoint", checkpoints()),
        ("foreign", foreign()),
        ("idx", idx()),
        ("metrics", metrics()),
        ("model_config", model_configs()),
        ("pictures", pictures()),
        ("safetensors", models()),
        ("settings", settings()),
        ("sums", sums()),
    ];
    for (parser, group) in groups {
        seeds.extend(group.into_iter().map(|(name, bytes)| (parser, name, bytes)));
    }
    seeds
}

fn after(first: u8, rest: &[u8]) -> Vec<u8> {
    [&[first], rest].concat()
}

fn text(text: &str) -> Vec<u8> {
    text.into()
}

/// The smallest model.
fn tiny() -> VitConfig {
    VitConfig {
        image: ImageSize { height: 2, width: 2, channels: 1 },
        patch: PatchSize { height: 1, width: 1 },
        dim: 2,
        depth: 1,
        heads: 1,
        mlp_dim: 2,
        classes: 2,
        ..Preset::Shallow.config()
    }
}

fn parameters(config: &VitConfig) -> Tensors {
    let parameters = Parameters::seeded(1);
    VisionTransformer::new(config, &parameters.builder(DType::F32, &Device::Cpu)).unwrap();
    let tensors = parameters.sorted().into_iter();
    tensors.map(|(name, var)| (name, var.as_detached_tensor())).collect()
}

fn models() -> Vec<(&'static str, Vec<u8>)> {
    let config = tiny();
    let native = parameters(&config);
    let half: Tensors = native
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.to_dtype(DType::BF16).unwrap()))
        .collect();
    let notebook = Layout::Notebook.export(&native, &config).unwrap();
    let without = safetensors::serialize(&notebook, None).unwrap();
    let other = VitConfig { classes: 3, ..config.clone() };
    let empty = br#"{"a":{"dtype":"F32","shape":[0,4294967296],"data_offsets":[0,0]}}"#;
    vec![
        ("native", to_bytes(&native, &config).unwrap()),
        ("half", to_bytes(&half, &config).unwrap()),
        ("notebook", without),
        ("other-shapes", to_bytes(&native, &other).unwrap()),
        ("empty-tensor", [&(empty.len() as u64).to_le_bytes()[..], empty].concat()),
        ("long-header", u64::MAX.to_le_bytes().to_vec()),
    ]
}

fn model_configs() -> Vec<(&'static str, Vec<u8>)> {
    let json = |config: &VitConfig| serde_json::to_vec(config).unwrap();
    let every = VitConfig {
        head_dim: Some(3),
        layer_scale: Some(1e-5),
        registers: 2,
        qk_norm: true,
        pool: Pool::Cls,
        ..tiny()
    };
    let huge = VitConfig { dim: usize::MAX, mlp_dim: usize::MAX, ..tiny() };
    vec![
        ("shallow", json(&Preset::Shallow.config())),
        ("notebook", json(&Preset::Notebook.config())),
        ("every-field", json(&every)),
        ("huge", json(&huge)),
    ]
}

/// The part of timm's configuration that is used.
const TIMM: &str = r#"{"architecture":"vit_tiny_patch7_28","num_classes":10,"num_features":32,"global_pool":"token",
"model_args":{"img_size":28,"num_heads":4},"pretrained_cfg":{"input_size":[1,28,28],"mean":[0.5],"std":[0.5]}}"#;

fn foreign() -> Vec<(&'static str, Vec<u8>)> {
    let config =
        VitConfig { pool: Pool::Cls, qkv_bias: true, depth: 1, ..Preset::Shallow.config() };
    let (hf, preprocessor) =
        (hf_config_json(&config, &ModelInfo::default()), hf_preprocessor_json(&config, None));
    // Labels are most of it.
    let mut hf: serde_json::Map<_, _> = serde_json::from_str(&hf).unwrap();
    let labels = |count: usize| (0..count).map(|at| (at.to_string(), at.to_string().into()));
    hf.insert("id2label".to_owned(), serde_json::Value::Object(labels(10).collect()));
    let hf = serde_json::to_string(&hf).unwrap();
    vec![
        ("timm", after(0, TIMM.as_bytes())),
        ("hf", after(1, format!("{hf}\0{preprocessor}").as_bytes())),
        ("hf-alone", after(1, hf.as_bytes())),
        ("notebook", after(2, b"{}")),
    ]
}

fn idx() -> Vec<(&'static str, Vec<u8>)> {
    let file = |header: &[u32], body: &[u8]| {
        let header = header.iter().flat_map(|number| number.to_be_bytes());
        header.chain(body.iter().copied()).collect::<Vec<u8>>()
    };
    let images = file(&[0x803, 1, 2, 3], &[10, 20, 30, 40, 50, 60]);
    let labels = file(&[0x801, 1], &[7]);
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    };
    vec![
        ("images", after(0, &images)),
        ("labels", after(1, &labels)),
        ("packed-images", after(4, &gzip(&images))),
        ("packed-twice", after(5, &[gzip(&labels[..5]), gzip(&labels[5..])].concat())),
        ("cut", after(0, &images[..20])),
        ("too-long", after(1, &[&labels[..], &[1]].concat())),
        ("eleven-classes", after(1, &file(&[0x801, 1], &[10]))),
        ("huge", after(0, &file(&[0x803, u32::MAX, u32::MAX, u32::MAX], &[]))),
        ("four-gigabytes", after(4, &gzip(&file(&[0x803, 65_536, 256, 256], &[0; 4096])))),
    ]
}

fn settings() -> Vec<(&'static str, Vec<u8>)> {
    let every = "preset = 'shallow'\ndataset = 'mnist'\nshuffle = false\nval_split = 0.1\ninit = 'a'\n\
        [augment]\nshift = 2\nelastic = 1.5\nerase = 0.1\n\
        [train]\nepochs = 3\nmax_steps = 9\nbatch_size = 8\nshards = 2\nseed = 7\nlog_every = 1\naccumulate = 2\n\
        label_smoothing = 0.1\nclip = 1.0\nema = 0.99\npatience = 2\n\
        [train.schedule]\nkind = 'one_cycle'\nwarmup = 5\nmin_lr = 1e-6\n\
        [train.optimizer]\nkind = 'adamw'\nlr = 1\nbeta1 = 0.9\nweight_decay = 0.05\ndecay = 'matrices'\n\
        [model]\ndim = 16\nregisters = 1\npool = 'cls'\nlayer_scale = 0.1\n\
        [model.dropout]\nmlp = 0.5\n[model.image]\nheight = 32\n";
    vec![
        ("every-table", text(every)),
        ("unknown-key", text("[model]\nhaeds = 4\n")),
        ("wrong-type", text("[train]\nepochs = 'three'\n[train.optimizer]\nlr = nan\n")),
        ("no-toml", text("[train\nepochs = = 3\n")),
    ]
}

fn metrics() -> Vec<(&'static str, Vec<u8>)> {
    let step = r#"{"kind":"step","step":1,"epoch":1,"loss":2.3025850929940455,"lr":0.0003}"#;
    let epoch = r#"{"kind":"epoch","epoch":1,"step":2,"train_loss":2.1,"train_accuracy":0.25,"val_loss":2.2,"val_accuracy":0.3,"test_loss":2.25,"test_accuracy":0.3125,"images_per_second":12345.6,"seconds":0.5}"#;
    let later = epoch.replace("\"epoch\":1", "\"epoch\":2").replace("0.25", "0.75");
    let extreme =
        r#"{"kind":"step","step":18446744073709551615,"epoch":0,"loss":-1e308,"lr":1e-320}"#;
    vec![
        ("a-run", text(&format!("{step}\n{epoch}\n{later}\n"))),
        ("still-being-written", text(&format!("{step}\n{}", &epoch[..40]))),
        ("not-finite", text("{\"kind\":\"step\",\"step\":1,\"epoch\":1,\"loss\":null,\"lr\":1}\n")),
        ("extreme", text(&format!("{step}\n{extreme}\n"))),
        ("other-kinds", text("{\"kind\":\"saved\"}\n\n[1]\n")),
    ]
}

fn sums() -> Vec<(&'static str, Vec<u8>)> {
    let line = |name: &str, bytes: &[u8]| format!("{}  {name}\n", Digest::of_bytes(bytes));
    let (a, b) = (line("a", b"first"), line("b", b"second"));
    vec![
        ("right", text(&format!("{a}{b}"))),
        ("unsorted", text(&format!("{b}{a}"))),
        ("outside", text(&line("../a", b"first"))),
        ("one", text(&a)),
    ]
}

fn checkpoints() -> Vec<(&'static str, Vec<u8>)> {
    let sums = r#"{"loss_sum":2.5,"correct":1,"samples":4}"#;
    let digest = Digest::of_bytes(b"");
    let state = |format: u64| {
        format!(
            r#"{{"format":{format},"place":{{"step":3,"epoch":2,"step_of_epoch":1,"of_epoch":{sums},"since_record":{sums},"best":[1,0.5,1.25]}},"order":"{digest}","metrics":{{"bytes":0,"sha256":"{digest}"}},"about":{{"dataset":"digits","prefix":{{"steps":1}}}}}}"#
        )
    };
    let tensor = |value: f32| candle_core::Tensor::new(&[value, 1.0], &Device::Cpu).unwrap();
    let names = ["parameters/w", "averages/w", "moments/first/w", "moments/second/w", "other"];
    let tensors: BTreeMap<_, _> = names.map(|name| (name.to_owned(), tensor(0.5))).into();
    vec![
        ("state", after(0, state(1).as_bytes())),
        ("later-format", after(0, state(2).as_bytes())),
        ("tensors", after(1, &safetensors::serialize(&tensors, None).unwrap())),
    ]
}

fn pictures() -> Vec<(&'static str, Vec<u8>)> {
    let encoded = |picture: &DynamicImage, format| {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    // A stroke of ink on paper.
    let grey = DynamicImage::from(GrayImage::from_fn(9, 12, |x, y| {
        Luma([if x == 4 && (2..10).contains(&y) { 20 } else { 230 }])
    }));
    let clear =
        RgbaImage::from_fn(5, 4, |x, y| Rgba([x as u8 * 50, y as u8 * 60, 7, x as u8 * 40]));
    let png = encoded(&grey, ImageFormat::Png);
    let jpeg = encoded(&grey, ImageFormat::Jpeg);
    let mut announcing = jpeg.clone();
    let frame = jpeg.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    announcing[frame + 5..frame + 9].copy_from_slice(&[0x1F, 0xFF, 0x1F, 0xFF]);
    vec![
        ("grey.png", png.clone()),
        ("sixteen-bits.png", encoded(&DynamicImage::from(grey.to_luma16()), ImageFormat::Png)),
        ("transparent.png", encoded(&clear.into(), ImageFormat::Png)),
        ("interlaced.png", png_file::grey(9, grey.as_bytes(), true)),
        ("cut.png", png[..png.len() / 2].to_vec()),
        ("grey.jpg", jpeg),
        ("progressive.jpg", include_bytes!("../fixtures/jpeg/progressive.jpg").to_vec()),
        ("cmyk.jpg", include_bytes!("../fixtures/jpeg/cmyk.jpg").to_vec()),
        ("announcing.jpg", announcing),
        ("lossy.webp", include_bytes!("../fixtures/views/lossy.webp").to_vec()),
        ("animated.gif", include_bytes!("../fixtures/views/animated.gif").to_vec()),
        ("colour.bmp", include_bytes!("../fixtures/views/colour.bmp").to_vec()),
        ("other.gif", text("GIF89a")),
    ]
}
