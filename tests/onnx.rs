//! `vit export --layout onnx`, and `vit info` on its files. `crates/vit-onnx/tests` compares graphs of every
//! configuration with the model.

use candle_core::{Device, Tensor};
use image::{GrayImage, Luma};
use rten::{Model, Value};
use vit_model::VitConfig;

use crate::fixture::{Fixture, assert_close};
use crate::support::{Sandbox, json_lines};

/// Tolerance of outputs, which are about 1.
const TOLERANCE: f32 = 1e-5;

fn model(sandbox: &Sandbox, name: &str) -> Model {
    Model::load(sandbox.read(name)).unwrap()
}

/// The outputs of a graph with float input.
fn outputs(model: &Model, images: &Tensor) -> Vec<f32> {
    let values = images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let input = Value::from_shape(images.dims(), values).unwrap();
    let output = model.run_one(input.into(), None).unwrap();
    output.into_shape_vec::<f32, 2>().unwrap().1
}

fn assert_near(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    let differences = got.iter().zip(want).map(|(got, want)| (got - want).abs());
    let largest = differences.fold(0.0, f32::max);
    assert!(largest <= TOLERANCE, "{what}: {largest:e}");
}

#[test]
fn an_imported_timm_models_graph_gives_timms_outputs() {
    for name in ["plain", "registers", "narrow-heads"] {
        let fixture = Fixture::read(&format!("timm/{name}"));
        let VitConfig { image, heads, .. } = fixture.config;
        let sandbox = Sandbox::new();
        let bytes = safetensors::serialize(fixture.parameters(), None).unwrap();
        sandbox.write("timm.safetensors", bytes);
        let size = format!("--image-size {}x{} --heads {heads}", image.height, image.width);
        sandbox.run(&format!("import timm.safetensors {size} -o ours.safetensors")).succeeded();
        sandbox.run("export ours.safetensors --layout onnx -o model.onnx").succeeded();
        let graph = model(&sandbox, "model.onnx");
        let images = fixture.tensor("images");
        let ours = fixture.output(&fixture.model().unwrap()).unwrap();
        let got = outputs(&graph, images);
        assert_near(&got, &ours.flatten_all().unwrap().to_vec1().unwrap(), name);
        let got = Tensor::from_vec(got, ours.dims(), &Device::Cpu).unwrap();
        assert_close(&got, fixture.tensor("output"), &format!("timm's {name}")).unwrap();
        for batch in [1, 2, 17] {
            let index: Vec<u32> = (0..batch).map(|at| at % images.dims()[0] as u32).collect();
            let index = Tensor::new(index, &Device::Cpu).unwrap();
            let got = outputs(&graph, &images.index_select(&index, 0).unwrap());
            let want = ours.index_select(&index, 0).unwrap().flatten_all().unwrap();
            assert_near(&got, &want.to_vec1().unwrap(), &format!("{name}, batch {batch}"));
        }
    }
}

#[test]
fn a_graph_with_byte_input_predicts_like_vit_predict() {
    for preset in ["notebook", "shallow"] {
        let sandbox = Sandbox::new();
        sandbox.train_digits(&format!("--preset {preset} --max-steps 30"));
        let pixel = |x, y| Luma([((x * 37 + y * 101 + x * y) % 256) as u8]);
        let picture = GrayImage::from_fn(28, 28, pixel);
        picture.save(sandbox.path("noise.png")).unwrap();
        let told = sandbox.run("predict run noise.png --invert never --fit stretch").succeeded();
        let want: Vec<f32> = json_lines(&told.stdout)[0]["probabilities"]
            .as_array()
            .unwrap()
            .iter()
            .map(|probability| probability.as_f64().unwrap() as f32)
            .collect();

        sandbox.run("export run --layout onnx --input bytes -o model.onnx").succeeded();
        let graph = model(&sandbox, "model.onnx");
        let name = graph.node_info(graph.output_ids()[0]).unwrap().name().unwrap().to_owned();
        let input = Value::from_shape([1, 1, 28, 28], picture.into_raw()).unwrap();
        let output = graph.run_one(input.into(), None).unwrap();
        let (_, output) = output.into_shape_vec::<f32, 2>().unwrap();
        let got = match preset {
            "notebook" => output,
            _ => softmax(&output),
        };
        assert_eq!(name, if preset == "notebook" { "probabilities" } else { "logits" });
        assert_near(&got, &want, preset);
    }
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::MIN, f32::max);
    let exponentials: Vec<f32> = logits.iter().map(|logit| (logit - largest).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    exponentials.iter().map(|exponential| exponential / sum).collect()
}

#[test]
fn info_shows_what_a_graph_was_exported_from() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    let of_run = sandbox.run("info run --json").succeeded().json();
    for input in ["float", "bytes"] {
        let words = format!("export run --layout onnx --input {input} -o {input}.onnx");
        assert_eq!(sandbox.run(&words).succeeded().stdout, format!("{input}.onnx\n"));
        let mut told = sandbox.run(&format!("info {input}.onnx --json")).succeeded().json();
        let graph = told.as_object_mut().unwrap().remove("onnx").unwrap();
        assert_eq!((&graph["opset"], &graph["ir_version"]), (&17.into(), &8.into()));
        assert_eq!(graph["input"], input);
        assert_eq!(told["layout"], "onnx");
        told["layout"] = of_run["layout"].clone();
        assert_eq!(told, of_run);
        let shown = sandbox.run(&format!("info {input}.onnx")).succeeded().stdout;
        let expected =
            format!("{input}.onnx (ONNX, opset 17, IR version 8, {input} input, written by vit ");
        assert!(shown.starts_with(&expected), "{shown}");
    }
    // Float is the default.
    sandbox.run("export run --layout onnx -o default.onnx").succeeded();
    assert!(sandbox.read("default.onnx") == sandbox.read("float.onnx"));
}

#[test]
fn files_that_are_not_our_graphs_are_rejected() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    sandbox.run("export run --layout onnx -o model.onnx").succeeded();
    // An empty graph of another program.
    sandbox.write("other.onnx", b"\x08\x08\x12\x07pytorch\x3a\x00");
    let cut = sandbox.read("model.onnx");
    sandbox.write("cut.onnx", &cut[..cut.len() / 2]);
    sandbox.write("text.onnx", "a text");
    for (name, says) in [
        (
            "other.onnx",
            "written by `vit export`, which contains the configuration, got one written by \"pytorch\"",
        ),
        ("cut.onnx", "not an ONNX file: a field extends beyond the end of the file"),
        ("text.onnx", "not an ONNX file"),
        ("absent.onnx", "cannot read absent.onnx"),
    ] {
        sandbox.refuses(4, &format!("info {name}")).saying(&[name, says]);
    }
    sandbox.refuses(2, "info model.onnx --heads 2").saying(&["has its own configuration"]);
    let refusal = sandbox.refuses(4, "eval model.onnx");
    assert!(refusal.hint.contains("vit info FILE.onnx"), "{}", refusal.hint);
    refusal.saying(&["model.onnx is an ONNX graph, expected a safetensors file"]);
}

#[test]
fn input_type_is_only_for_graphs() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    let words = "export run --layout notebook --input bytes -o out.safetensors";
    let refusal = sandbox.refuses(2, words);
    assert_eq!(refusal.hint, "leave out --input");
    refusal.saying(&["--input needs --layout onnx"]);
}

/// The parameters are a hole in the file; none is read.
#[cfg(unix)]
#[test]
fn models_beyond_two_gigabytes_are_rejected_with_the_reason() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    let small = vit_model::ModelFile::open(&sandbox.path("run/model.safetensors")).unwrap();
    let small = small.config().unwrap().clone();
    let config = VitConfig { dim: 8192, mlp_dim: 32_768, heads: 64, depth: 1, ..small };
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in vit_model::Layout::Timm.parameters(&config).unwrap() {
        let begin = end;
        end += 4 * shape.iter().product::<usize>();
        let info =
            serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, end]});
        header.insert(name, info);
    }
    let json = serde_json::to_string(&config).unwrap();
    header.insert("__metadata__".to_owned(), serde_json::json!({"vit_config": json}));
    let header = serde_json::Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    sandbox.write("large.safetensors", &bytes);
    let file = std::fs::OpenOptions::new().write(true).open(sandbox.path("large.safetensors"));
    file.unwrap().set_len((bytes.len() + end) as u64).unwrap();

    let refusal = sandbox.refuses(2, "export large.safetensors --layout onnx -o large.onnx");
    assert!(refusal.hint.contains("--layout timm"), "{}", refusal.hint);
    refusal.saying(&["at most 2147483647 bytes", "protocol buffers", &end.to_string()]);
}
