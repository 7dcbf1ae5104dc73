//! `vit import` and `vit info` on models saved by timm, transformers and the notebook.
//!
//! `tests/reference/hf_fixtures.py` writes the folders in `tests/fixtures/hf`; `check_interchange.py` beside it does
//! the same at full size with the libraries themselves.

use candle_core::{Device, Result, Tensor};
use image::{ImageBuffer, Rgb};
use vit_model::{Layout, ModelFile, Tensors, VitConfig};

use crate::files::test_file;
use crate::fixture::{Fixture, assert_close};
use crate::support::Sandbox;

/// Folders saved by version 4, and by version 5 under the names of its `state_dict`.
const VERSIONS: [&str; 2] = ["4", "5"];

fn tensors(path: impl AsRef<std::path::Path>) -> Tensors {
    ModelFile::open(path.as_ref()).and_then(|file| file.tensors()).unwrap()
}

/// A sandbox with the file or folder of this fixture.
fn sandbox_with(name: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let path = test_file(format!("fixtures/{name}"));
    if path.is_file() {
        std::fs::copy(path, sandbox.path("foreign.safetensors")).unwrap();
        return sandbox;
    }
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        let bytes = std::fs::read(entry.path()).unwrap();
        sandbox.write(&format!("foreign/{}", entry.file_name().to_str().unwrap()), bytes);
    }
    sandbox
}

/// A model's fixture with timm's parameters under the names of timm's `state_dict`.
fn sandbox_with_timms(model: &str) -> (Sandbox, VitConfig) {
    let fixture = Fixture::read(&format!("timm/{model}"));
    let sandbox = Sandbox::new();
    let bytes = safetensors::serialize(fixture.parameters(), None).unwrap();
    sandbox.write("foreign.safetensors", bytes);
    (sandbox, fixture.config)
}

/// The configuration in a file.
fn config(path: impl AsRef<std::path::Path>) -> VitConfig {
    ModelFile::open(path.as_ref()).unwrap().config().expect("our file").clone()
}

#[test]
fn outputs_losses_and_gradients_equal_transformers() -> Result<()> {
    for version in VERSIONS {
        let sandbox = sandbox_with(&format!("hf/{version}"));
        sandbox.run("import foreign -o ours.safetensors").succeeded();
        let config = config(sandbox.path("ours.safetensors"));
        // On pixels with transformers' normalisation, before it is folded into ours.
        let file = ModelFile::open(&sandbox.path("foreign/model.safetensors")).unwrap();
        let parameters = Layout::Hf.import_file(&file, &config).unwrap();
        let reference = tensors(sandbox.path("foreign/reference.safetensors"));
        let fixture = Fixture::of(config, reference, &parameters);
        fixture.assert_agreement(&format!("transformers {version}"))?;
    }
    Ok(())
}

#[test]
fn an_imported_folder_gives_transformers_outputs() -> Result<()> {
    for version in VERSIONS {
        let sandbox = sandbox_with(&format!("hf/{version}"));
        let imported = sandbox.run("import foreign -o ours.safetensors").succeeded();
        assert_eq!(imported.stdout, "ours.safetensors\n");
        // The folder of version 5 has ImageNet's means.
        assert_eq!(imported.stderr.contains("folded into patch_embed.proj"), version == "5");
        assert!(!imported.stderr.contains("assumed"), "{}", imported.stderr);
        let reference = tensors(sandbox.path("foreign/reference.safetensors"));
        let got = named(&sandbox, &reference["pixels"])?;
        assert_close(&got, &centred(&reference["output"])?, &format!("transformers {version}"))?;
    }
    Ok(())
}

/// The output of `vit predict` for pixels (batch, 3, height, width), as logits minus their mean.
fn named(sandbox: &Sandbox, pixels: &Tensor) -> Result<Tensor> {
    let (batch, _, height, width) = pixels.dims4()?;
    let names: Vec<String> = (0..batch).map(|index| format!("{index}.png")).collect();
    for (index, name) in names.iter().enumerate() {
        let bytes = pixels.get(index)?.permute((1, 2, 0))?.flatten_all()?.to_vec1::<u8>()?;
        let picture = ImageBuffer::<Rgb<u8>, _>::from_raw(width as u32, height as u32, bytes);
        picture.unwrap().save(sandbox.path(name)).unwrap();
    }
    let told = sandbox.run(&format!("predict ours.safetensors {}", names.join(" "))).succeeded();
    let rows = crate::support::json_lines(&told.stdout).into_iter().map(|line| {
        let row = line["probabilities"].as_array().unwrap().iter();
        row.map(|probability| probability.as_f64().unwrap().ln() as f32).collect()
    });
    centred(&Tensor::new(rows.collect::<Vec<Vec<f32>>>(), &Device::Cpu)?)
}

fn centred(logits: &Tensor) -> Result<Tensor> {
    logits.broadcast_sub(&logits.mean_keepdim(1)?)
}

#[test]
fn info_shows_what_import_would_give() {
    for version in VERSIONS {
        let sandbox = sandbox_with(&format!("hf/{version}"));
        sandbox.run("import foreign -o ours.safetensors").succeeded();
        let of_folder = sandbox.run("info foreign --json").succeeded().json();
        assert_eq!(of_folder["layout"], "hf");
        let of_file = sandbox.run("info foreign/model.safetensors --json").succeeded().json();
        assert_eq!(of_file, of_folder, "the JSON beside the file is used");
        let of_ours = sandbox.run("info ours.safetensors --json").succeeded().json();
        assert_eq!(of_ours["layout"], "timm");
        for key in ["config", "parameters", "parts"] {
            assert_eq!(of_folder[key], of_ours[key], "{key}");
        }
        let shown = sandbox.run("info foreign").succeeded().stdout;
        assert!(shown.starts_with("foreign/model.safetensors (hf layout)\n"), "{shown}");
    }
}

#[test]
fn timms_parameters_round_trip() {
    for model in ["plain", "registers", "narrow-heads"] {
        let (sandbox, expected) = sandbox_with_timms(model);
        let heads = expected.heads;
        let size = format!("{}x{}", expected.image.height, expected.image.width);
        // Heads of width 8 or 5, which nothing shows without QK norm.
        let words = format!("import foreign.safetensors --image-size {size} -o ours.safetensors");
        if !expected.qk_norm {
            let refusal = sandbox.refuses(2, &words);
            assert_eq!(refusal.hint, "pass --heads N");
            refusal.saying(&["foreign.safetensors: cannot determine heads"]);
        }
        let imported = sandbox.run(&format!("{words} --heads {heads}")).succeeded();
        assert!(
            imported.stderr.contains("assumed, because no file says otherwise: "),
            "{}",
            imported.stderr
        );
        let got = config(sandbox.path("ours.safetensors"));
        let began = vit_model::VitConfig { layer_scale: expected.layer_scale, ..got.clone() };
        assert_eq!(began, expected, "{model}");
        assert_eq!(got.layer_scale.is_some(), expected.layer_scale.is_some());
        let foreign = tensors(sandbox.path("foreign.safetensors"));
        let ours = tensors(sandbox.path("ours.safetensors"));
        assert!(bits(&foreign) == bits(&ours), "{model}");
        if expected.layer_scale.is_none() {
            sandbox.run("export ours.safetensors --layout timm -o back.safetensors").succeeded();
            assert!(sandbox.read("back.safetensors") == sandbox.read("ours.safetensors"));
        }
    }
}

/// Names, shapes and bits.
pub(crate) fn bits(tensors: &Tensors) -> Vec<(&String, Vec<usize>, Vec<u32>)> {
    let values = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
    let bits = |tensor| values(tensor).unwrap().into_iter().map(f32::to_bits).collect();
    tensors.iter().map(|(name, tensor)| (name, tensor.dims().to_vec(), bits(tensor))).collect()
}

/// A timm folder: `config.json` gives the heads and ImageNet's normalisation.
#[test]
fn a_timm_folders_json_completes_its_parameters() {
    let (sandbox, expected) = sandbox_with_timms("plain");
    std::fs::create_dir(sandbox.path("timm")).unwrap();
    std::fs::rename(sandbox.path("foreign.safetensors"), sandbox.path("timm/model.safetensors"))
        .unwrap();
    let config_json = r#"{
        "architecture": "vit_base_patch16_224", "num_classes": 7, "global_pool": "token",
        "model_args": {"img_size": [32, 32], "num_heads": 3, "mlp_ratio": 2.0},
        "pretrained_cfg": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    }"#;
    sandbox.write("timm/config.json", config_json);
    let imported = sandbox.run("import timm --layout timm -o ours.safetensors").succeeded();
    assert!(imported.stderr.contains("folded into patch_embed.proj"), "{}", imported.stderr);
    assert!(!imported.stderr.contains("assumed"), "{}", imported.stderr);
    assert_eq!(config(sandbox.path("ours.safetensors")), expected);
    sandbox.write(
        "timm/config.json",
        config_json.replace("\"num_heads\": 3", "\"act_layer\": \"silu\""),
    );
    sandbox
        .refuses(2, "import timm -o out.safetensors")
        .saying(&["timm/model.safetensors: unsupported act_layer = silu"]);
}

#[test]
fn the_notebooks_state_round_trips_through_import() {
    for preset in ["notebook", "shallow"] {
        let sandbox = sandbox_with(&format!("mnist-20-steps/{preset}.safetensors"));
        let imported = sandbox.run("import foreign.safetensors -o ours.safetensors").succeeded();
        assert!(imported.stderr.contains(&format!("preset {preset}")), "{}", imported.stderr);
        let expected = vit_model::Preset::named(preset).unwrap().config();
        assert_eq!(config(sandbox.path("ours.safetensors")), expected);
        let info = sandbox.run("info foreign.safetensors --json").succeeded().json();
        assert_eq!(info["layout"], "notebook");
        sandbox.run("export ours.safetensors --layout notebook -o back.safetensors").succeeded();
        let [foreign, back] = ["foreign", "back"].map(|name| format!("{name}.safetensors"));
        assert!(bits(&tensors(sandbox.path(foreign))) == bits(&tensors(sandbox.path(back))));
    }
}

#[test]
fn exported_models_import_unchanged() {
    let sandbox = Sandbox::new();
    // transformers has one dropout rate for two places, timm's files have none.
    let model = "[model]\npool = 'cls'\nqkv_bias = true\nactivation = 'gelu'\n\
        [model.dropout]\nembedding = 0.2\n";
    sandbox.write("cls.toml", model);
    sandbox.train_digits("--config cls.toml --max-steps 2");
    for layout in ["timm", "hf"] {
        sandbox.run(&format!("export run --layout {layout} -o {layout}.out")).succeeded();
        sandbox.run(&format!("import {layout}.out -o {layout}.safetensors")).succeeded();
        let same =
            sandbox.read(&format!("{layout}.safetensors")) == sandbox.read("run/model.safetensors");
        assert!(same, "{layout}");
    }
}

#[test]
fn positions_are_resampled_for_images_of_another_size() {
    let sandbox = sandbox_with("hf/4");
    let words = "import foreign --image-size 64x48 -o ours.safetensors";
    let imported = sandbox.run(words).succeeded();
    assert!(imported.stderr.contains("4x4 patches resampled for 8x6"), "{}", imported.stderr);
    let config = config(sandbox.path("ours.safetensors"));
    assert_eq!((config.image.height, config.image.width), (64, 48));
    let shown = sandbox.run("info foreign --image-size 64x48 --json").succeeded().json();
    assert_eq!(shown["config"], serde_json::to_value(&config).unwrap());
    assert_eq!(tensors(sandbox.path("ours.safetensors"))["pos_embed"].dims(), [1, 1 + 8 * 6, 24]);
    // Two libraries resample differently; the layout's default is logged.
    let assumed = "(assumed: like transformers, --resample hf)";
    assert!(imported.stderr.contains(assumed), "{}", imported.stderr);
    let said = |library: &str| {
        let words = format!("{words} --force --resample {library}");
        let said = sandbox.run(&words).succeeded().stderr;
        assert!(!said.contains("assumed: like"), "{said}");
        sandbox.read("ours.safetensors")
    };
    let assumed = sandbox.read("ours.safetensors");
    assert!(said("hf") == assumed && said("timm") != assumed);
    sandbox.refuses(2, "import foreign --image-size 63 -o out.safetensors").saying(&["63"]);
}

/// Half-precision numbers become f32 with the same values.
#[test]
fn half_precision_comes_in_as_f32() {
    let sandbox = sandbox_with("hf/4");
    let half = |name: &str, dtype| {
        let tensors = tensors(sandbox.path("foreign/model.safetensors"));
        let tensors =
            tensors.into_iter().map(|(name, tensor)| (name, tensor.to_dtype(dtype).unwrap()));
        let bytes = safetensors::serialize(tensors.collect::<Tensors>(), None).unwrap();
        sandbox.write(&format!("{name}/model.safetensors"), bytes);
        for document in ["config.json", "preprocessor_config.json"] {
            sandbox
                .write(&format!("{name}/{document}"), sandbox.read(&format!("foreign/{document}")));
        }
    };
    for (name, dtype) in [("f16", candle_core::DType::F16), ("bf16", candle_core::DType::BF16)] {
        half(name, dtype);
        sandbox.run(&format!("import {name} -o {name}.safetensors")).succeeded();
        let ours = &tensors(sandbox.path(format!("{name}.safetensors")))["cls_token"];
        let theirs =
            &tensors(sandbox.path(format!("{name}/model.safetensors")))["vit.embeddings.cls_token"];
        let values = |tensor: &Tensor| {
            let wide = tensor.to_dtype(candle_core::DType::F32).and_then(|wide| wide.flatten_all());
            wide.and_then(|wide| wide.to_vec1::<f32>()).unwrap()
        };
        assert_eq!(ours.dtype(), candle_core::DType::F32);
        assert_eq!(values(ours), values(theirs), "{name}");
    }
}

#[test]
fn unsupported_models_are_rejected_with_advice() {
    let sandbox = sandbox_with("hf/4");
    let config = String::from_utf8(sandbox.read("foreign/config.json")).unwrap();
    let import = "import foreign -o out.safetensors";
    for (from, to, code, said) in [
        (
            "\"gelu\"",
            "\"gelu_new\"",
            2,
            "hidden_act = gelu_new in the hf layout, expected gelu or relu",
        ),
        ("\"model_type\": \"vit\"", "\"model_type\": \"dinov2\"", 2, "model_type = dinov2"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3", 4, "config.json beside it"),
        ("\"num_hidden_layers\": 2", "\"num_hidden_layers\": -2", 4, "cannot parse config.json"),
        ("\"num_attention_heads\": 3", "\"num_attention_heads\": 5", 2, "heads that divide dim"),
    ] {
        sandbox.write("foreign/config.json", config.replace(from, to));
        let outcome = sandbox.run(&format!("-q {import}"));
        assert_eq!(outcome.code, Some(code), "{to}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(said), "{to}: {}", outcome.stderr);
    }
    sandbox.write("foreign/config.json", &config);
    sandbox
        .refuses(2, &format!("{import} --layout timm"))
        .saying(&["expected the timm layout, got hf"]);
    sandbox.refuses(2, &format!("{import} --mean 0.5,0.5 --std 0.5")).saying(&["mean and std"]);
    let alone = sandbox.run(&format!("{import} --mean 0.5"));
    assert!(alone.code == Some(2) && alone.stderr.contains("--std"), "{}", alone.stderr);

    for (name, hint) in
        [("model.safetensors.index.json", "max_shard_size"), ("pytorch_model.bin", "torch.load")]
    {
        sandbox.write(&format!("other-{name}/{name}"), "{}");
        sandbox.write(&format!("other-{name}/config.json"), &config);
        let refusal = sandbox.refuses(4, &format!("import other-{name} -o out.safetensors"));
        assert!(refusal.hint.contains(hint), "{refusal:?}");
        refusal.saying(&[name, "expected"]);
    }
    for (name, bytes, says, hint) in [
        ("model.pth", &b"PK\x03\x04archive"[..], "model.pth is a pickle", "torch.load"),
        ("pickled.safetensors", b"\x80\x02}q\0.", "pickled.safetensors is a pickle", "state_dict"),
        (
            "pointer.safetensors",
            b"version https://git-lfs.github.com/spec/v1\n",
            "a Git LFS pointer",
            "git lfs pull",
        ),
        ("page.safetensors", b"<!doctype html><html>", "an HTML page", "resolve"),
    ] {
        sandbox.write(name, bytes);
        for command in ["import -o out.safetensors", "info", "train --dataset digits --init"] {
            let refusal = sandbox.refuses(4, &format!("{command} {name}")).saying(&[says]);
            assert!(refusal.hint.contains(hint), "{refusal:?}");
        }
    }
    sandbox.refuses(4, "import nowhere -o out.safetensors").saying(&["cannot read nowhere"]);
}

#[test]
fn other_commands_advise_to_import_foreign_models() {
    let sandbox = sandbox_with("hf/4");
    for command in ["eval", "predict --dataset digits", "export --layout notebook -o out"] {
        let refusal = sandbox.refuses(4, &format!("{command} foreign"));
        assert_eq!(refusal.hint, "import it first: `vit import foreign -o OUT.safetensors`");
        refusal.saying(&["foreign is a folder of another library"]);
        let refusal = sandbox.refuses(4, &format!("{command} foreign/model.safetensors"));
        assert!(refusal.hint.contains("`vit import foreign/model.safetensors -o"), "{refusal:?}");
    }
}

/// A file with our configuration is ours even beside another library's JSON: no normalisation is folded twice.
#[test]
fn our_own_model_is_recognised_in_any_folder() {
    let sandbox = sandbox_with("hf/4");
    sandbox.run("import foreign -o ours.safetensors --mean 0.1 --std 0.2").succeeded();
    std::fs::create_dir(sandbox.path("alone")).unwrap();
    for folder in ["alone", "foreign"] {
        let copied = format!("{folder}/model.safetensors");
        std::fs::copy(sandbox.path("ours.safetensors"), sandbox.path(&copied)).unwrap();
        let info = sandbox.run(&format!("info {folder}")).succeeded();
        assert!(info.stdout.starts_with(&format!("{copied} (timm layout)")), "{}", info.stdout);
        sandbox.run(&format!("import {folder} -o {folder}.safetensors")).succeeded();
        let again = sandbox.read(&format!("{folder}.safetensors"));
        assert!(again == sandbox.read("ours.safetensors"), "{folder}: other bytes");
        sandbox
            .run(&format!("export {folder} --layout timm -o timm-{folder}.safetensors"))
            .succeeded();
    }
}

/// Prefixes of PyTorch wrappers are removed.
#[test]
fn wrapper_prefixes_are_removed() {
    let sandbox = sandbox_with("hf/4");
    sandbox.run("import foreign -o plain.safetensors").succeeded();
    let tensors = candle_core::safetensors::load(
        sandbox.path("foreign/model.safetensors"),
        &candle_core::Device::Cpu,
    );
    let wrapped = tensors.unwrap().into_iter();
    let wrapped =
        wrapped.map(|(name, tensor)| (format!("module._orig_mod.{name}"), tensor)).collect();
    candle_core::safetensors::save(&wrapped, sandbox.path("foreign/model.safetensors")).unwrap();
    let log = sandbox.run("import foreign -o wrapped.safetensors").succeeded().stderr;
    assert!(log.contains("names without the prefix \"module._orig_mod.\""), "{log}");
    assert!(sandbox.read("wrapped.safetensors") == sandbox.read("plain.safetensors"));
}

#[test]
fn a_multi_label_model_is_rejected() {
    let sandbox = sandbox_with("hf/4");
    let mut config: serde_json::Value =
        serde_json::from_slice(&sandbox.read("foreign/config.json")).unwrap();
    config["problem_type"] = "multi_label_classification".into();
    sandbox.write("foreign/config.json", config.to_string());
    sandbox
        .refuses(2, "import foreign -o out.safetensors")
        .saying(&["problem_type", "multi_label_classification"]);
}

#[test]
fn flags_for_foreign_files_are_rejected_for_our_own() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    let refusal = sandbox.refuses(2, "import run --heads 2 -o out.safetensors");
    assert!(refusal.hint.contains("--heads"), "{refusal:?}");
    refusal.saying(&["run/model.safetensors has its own configuration"]);
    sandbox.run("import run -o copy.safetensors").succeeded();
    assert!(sandbox.read("copy.safetensors") == sandbox.read("run/model.safetensors"));
}
