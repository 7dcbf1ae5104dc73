//! Exported graphs in another runtime give the outputs of vit-model.

#![allow(clippy::unwrap_used, reason = "a helper that panics fails its test, as it should")]

use std::io::Cursor;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rten::{Model, Value};
use vit_layers::{Activation, Mode, NormPlacement, ScoreScale};
use vit_model::{
    Fit, Layout, ModelInfo, Output, Pool, Preset, Tensors, Transform, VisionTransformer, VitConfig,
};
use vit_onnx::{Error, Input, describe, to_bytes};
use vit_patch::{ImageSize, PatchSize, Position, PositionRows};
use vit_random::{Random, Site, Stream};

/// Largest difference of outputs, which are about 1.
const TOLERANCE: f32 = 1e-5;
const BATCHES: [usize; 3] = [1, 2, 17];

fn stream(name: &str) -> Stream {
    Random::new(7).stream(Site::named(name), 0)
}

/// Random parameters, none 0 or 1: matrices scaled by the root of their width, norms and layer scales around 1.
fn parameters(config: &VitConfig) -> Tensors {
    let parameters = Layout::Timm.parameters(config).unwrap().into_iter();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let width: usize = shape[1..].iter().product();
        let (centre, scale) = match (name.ends_with("weight"), shape.len()) {
            (true, 1) => (1.0, 0.1),
            (true, _) => (0.0, (width as f64).powf(-0.5)),
            (false, _) => (if name.ends_with("gamma") { 0.7 } else { 0.0 }, 0.2),
        };
        let mut stream = stream(&name);
        let count = shape.iter().product();
        let values: Vec<f32> =
            (0..count).map(|_| (centre + scale * stream.normal()) as f32).collect();
        (name, Tensor::from_vec(values, shape, &Device::Cpu).unwrap())
    };
    parameters.map(tensor).collect()
}

fn ours(config: &VitConfig, parameters: &Tensors, images: &Tensor) -> Vec<f32> {
    let parameters = parameters.clone().into_iter().collect();
    let vb = VarBuilder::from_tensors(parameters, DType::F32, &Device::Cpu);
    let output = VisionTransformer::new(config, &vb).unwrap().forward(images, Mode::Eval).unwrap();
    output.flatten_all().unwrap().to_vec1().unwrap()
}

fn shape(config: &VitConfig, batch: usize) -> [usize; 4] {
    let ImageSize { height, width, channels } = config.image;
    [batch, channels, height, width]
}

fn largest_difference(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max)
}

fn shallow() -> VitConfig {
    Preset::Shallow.config()
}

/// With a class token, biases and GELU, on three-channel images that are not square.
fn cls() -> VitConfig {
    VitConfig {
        image: ImageSize { height: 12, width: 20, channels: 3 },
        patch: PatchSize { height: 4, width: 5 },
        pool: Pool::Cls,
        qkv_bias: true,
        activation: Activation::Gelu,
        layer_norm_eps: 1e-6,
        ..shallow()
    }
}

fn configurations() -> Vec<(&'static str, VitConfig)> {
    vec![
        ("notebook", Preset::Notebook.config()),
        ("shallow", shallow()),
        ("class token", cls()),
        ("mean", VitConfig { pool: Pool::Mean, ..cls() }),
        ("mean with registers", VitConfig { pool: Pool::Mean, registers: 3, ..cls() }),
        ("first patch after registers", VitConfig { pool: Pool::First, registers: 2, ..cls() }),
        ("registers", VitConfig { registers: 4, ..cls() }),
        (
            "positions of patches only",
            VitConfig { registers: 1, position_rows: PositionRows::Patches, ..cls() },
        ),
        ("sines", VitConfig { position: Position::Sincos2d, ..cls() }),
        ("sines, mean", VitConfig { position: Position::Sincos2d, pool: Pool::Mean, ..cls() }),
        ("patch linear", VitConfig { position: Position::PatchLinear, registers: 1, ..cls() }),
        ("no positions", VitConfig { position: Position::None, ..cls() }),
        ("scores over dim", VitConfig { score_scale: ScoreScale::Dim, ..cls() }),
        ("norms of queries and keys", VitConfig { qk_norm: true, ..cls() }),
        ("layer scale", VitConfig { layer_scale: Some(0.1), ..cls() }),
        ("post-norm", VitConfig { norm: NormPlacement::Post, ..cls() }),
        (
            "post-norm, mean",
            VitConfig {
                norm: NormPlacement::Post,
                pool: Pool::Mean,
                output: Output::Softmax,
                ..cls()
            },
        ),
        ("custom head width", VitConfig { heads: 3, head_dim: Some(5), ..cls() }),
        (
            "everything at once",
            VitConfig {
                heads: 3,
                head_dim: Some(5),
                depth: 1,
                registers: 2,
                qk_norm: true,
                layer_scale: Some(0.1),
                norm: NormPlacement::Post,
                output: Output::Softmax,
                activation: Activation::Relu,
                ..cls()
            },
        ),
    ]
}

#[test]
fn outputs_equal_the_models_at_every_batch_size() {
    for (name, config) in configurations() {
        let parameters = parameters(&config);
        let file = to_bytes(&parameters, &config, &ModelInfo::default(), Input::Float).unwrap();
        let model = Model::load(file).unwrap_or_else(|error| panic!("{name}: {error}"));
        for batch in BATCHES {
            let shape = shape(&config, batch);
            let mut stream = stream("images");
            let count = shape.iter().product();
            let values: Vec<f32> = (0..count).map(|_| stream.normal() as f32).collect();
            let images = Tensor::from_vec(values.clone(), &shape, &Device::Cpu).unwrap();
            let input = Value::from_shape(shape, values).unwrap();
            let output = model.run_one(input.into(), None).unwrap();
            let (got_shape, got) = output.into_shape_vec::<f32, 2>().unwrap();
            assert_eq!(got_shape, [batch, config.classes], "{name}");
            let difference = largest_difference(&got, &ours(&config, &parameters, &images));
            assert!(difference <= TOLERANCE, "{name}, batch {batch}: {difference:e}");
        }
    }
}

#[test]
fn byte_inputs_are_normalised_by_the_transform() {
    let imagenet = Transform {
        mean: vec![0.485, 0.456, 0.406],
        std: vec![0.229, 0.224, 0.225],
        ..Transform::of(Fit::Crop)
    };
    for (config, transform) in
        [(shallow(), None), (cls(), Some(Transform::of(Fit::Pad))), (cls(), Some(imagenet))]
    {
        let parameters = parameters(&config);
        let info = ModelInfo { transform, ..ModelInfo::default() };
        let file = to_bytes(&parameters, &config, &info, Input::Bytes).unwrap();
        let model = Model::load(file).unwrap();
        let shape @ [batch, channels, height, width] = shape(&config, 2);
        let mut stream = stream("images");
        let bytes: Vec<u8> =
            (0..shape.iter().product()).map(|_| (256.0 * stream.uniform()) as u8).collect();
        let to = info.transform.unwrap_or_else(|| Transform::of(Fit::Stretch));
        let normalised = bytes.iter().enumerate().map(|(index, &byte)| {
            let channel = index / (height * width) % channels;
            let of = |numbers: &[f64]| numbers[channel % numbers.len()] as f32;
            (f32::from(byte) / 255.0 - of(&to.mean)) / of(&to.std)
        });
        let images = Tensor::from_vec(normalised.collect(), &shape, &Device::Cpu).unwrap();
        let input = Value::from_shape(shape, bytes).unwrap();
        let output = model.run_one(input.into(), None).unwrap();
        let (_, got) = output.into_shape_vec::<f32, 2>().unwrap();
        assert_eq!(got.len(), batch * config.classes);
        let difference = largest_difference(&got, &ours(&config, &parameters, &images));
        assert!(difference <= TOLERANCE, "{difference:e}");
    }
}

#[test]
fn a_transform_for_other_channels_is_an_error_with_both_counts() {
    for (mean, std) in [(vec![], vec![0.5]), (vec![0.5], vec![0.2; 2])] {
        let said =
            format!("each of 3 channels or one for all, got {} and {}", mean.len(), std.len());
        let transform = Some(Transform { mean, std, ..Transform::of(Fit::Crop) });
        let info = ModelInfo { transform, ..ModelInfo::default() };
        let error = to_bytes(&parameters(&cls()), &cls(), &info, Input::Bytes).unwrap_err();
        assert!(error.to_string().ends_with(&said), "{error}");
    }
}

#[test]
fn metadata_round_trips() {
    let config = cls();
    let info = ModelInfo {
        class_names: (0..10).map(|class| format!("class {class}")).collect(),
        transform: Some(Transform::of(Fit::Crop)),
    };
    for input in [Input::Float, Input::Bytes] {
        let file = to_bytes(&parameters(&config), &config, &info, input).unwrap();
        assert_eq!(file, to_bytes(&parameters(&config), &config, &info, input).unwrap());
        let told = describe(Cursor::new(&file)).unwrap();
        assert_eq!((told.config, told.info), (config.clone(), info.clone()));
        assert_eq!((told.input, told.ir_version, told.opset), (input, 8, 17));
        assert_eq!(told.producer, format!("vit {}", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn truncation_anywhere_is_an_error() {
    let config = VitConfig { depth: 1, ..shallow() };
    let file =
        to_bytes(&parameters(&config), &config, &ModelInfo::default(), Input::Float).unwrap();
    // Every length near both ends, which hold the structure, and some within the parameters.
    let lengths = (0..2000).chain((2000..file.len()).step_by(997));
    for len in lengths.chain(file.len() - 1500..file.len()) {
        let error = describe(Cursor::new(&file[..len]));
        assert!(
            matches!(error, Err(Error::NotOnnx { .. } | Error::Foreign { .. })),
            "{len}: {error:?}"
        );
    }
}

#[test]
fn changed_bytes_never_panic() {
    let config = VitConfig { depth: 1, ..shallow() };
    let file =
        to_bytes(&parameters(&config), &config, &ModelInfo::default(), Input::Float).unwrap();
    let mut stream = stream("changes");
    for _ in 0..2000 {
        let mut file = file.clone();
        // Structure is dense near both ends.
        let within = (stream.uniform() * 1500.0) as usize;
        let at = if stream.uniform() < 0.5 { within } else { file.len() - 1 - within };
        file[at] = (256.0 * stream.uniform()) as u8;
        let _ = describe(Cursor::new(&file));
    }
}

#[test]
fn other_programs_graphs_and_other_files_have_different_errors() {
    // ir_version 8, producer_name "pytorch", and an empty graph.
    let foreign = b"\x08\x08\x12\x07pytorch\x3a\x00";
    let error = describe(Cursor::new(foreign)).unwrap_err().to_string();
    assert!(error.contains("written by `vit export`") && error.contains("pytorch"), "{error}");
    for (bytes, what) in [
        (&b""[..], "a version and a graph"),
        (b"\x08\x08", "a version and a graph"),
        (b"\x12\x07py", "beyond the end"),
        (b"\x0f", "unknown wire type"),
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "64 bits"),
    ] {
        let error = describe(Cursor::new(bytes)).unwrap_err().to_string();
        assert!(error.starts_with("not an ONNX file: ") && error.contains(what), "{error}");
    }
    let many = [&[8, 8].repeat(1 << 18)[..], b"\x3a\x00"].concat();
    let error = describe(Cursor::new(many)).unwrap_err().to_string();
    assert!(error.contains("more fields"), "{error}");
}

#[test]
fn models_beyond_two_gigabytes_are_rejected_before_reading_parameters() {
    let config = VitConfig { dim: 8192, mlp_dim: 32_768, heads: 64, depth: 1, ..cls() };
    let error = to_bytes(&Tensors::new(), &config, &ModelInfo::default(), Input::Float);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("at most 2147483647 bytes, the limit of protocol buffers"), "{error}");
    assert!(error.contains("this model needs 32"), "{error}");
}
