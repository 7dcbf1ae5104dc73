//! `vit export`: other names, same numbers.

use std::path::Path;

use serde_json::Value;
use vit_model::Tensors;

use crate::files::test_file;
use crate::interchange::bits;
use crate::support::{Sandbox, json_lines};

fn tensors(path: &Path) -> Tensors {
    vit_model::ModelFile::open(path).and_then(|file| file.tensors()).unwrap()
}

/// Starts from PyTorch's state, trains a step of length zero, and exports.
#[test]
fn the_notebooks_state_round_trips() {
    for preset in ["notebook", "shallow"] {
        let fixture = test_file(format!("fixtures/mnist-20-steps/{preset}.safetensors"));
        let sandbox = Sandbox::new();
        std::fs::copy(&fixture, sandbox.path("init.safetensors")).unwrap();
        sandbox.train_digits(&format!(
            "--preset {preset} --init init.safetensors --lr 0 --max-steps 1"
        ));
        sandbox.run("export run --layout notebook -o out.safetensors").succeeded();
        let exported = tensors(&sandbox.path("out.safetensors"));
        assert!(bits(&exported) == bits(&tensors(&fixture)), "{preset}");
    }
}

#[test]
fn an_inexpressible_model_is_rejected_naming_the_field() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    for layout in ["timm", "hf"] {
        sandbox.refuses(2, &format!("export run --layout {layout} -o out")).saying(&[
            layout,
            "pool = first",
            "expected cls",
        ]);
    }
}

#[test]
fn a_class_token_model_exports_to_timm_and_hf_with_equal_accuracy() {
    let sandbox = Sandbox::new();
    let model = "[model]\npool = 'cls'\nqkv_bias = true\nactivation = 'gelu'\n";
    sandbox.write("cls.toml", model);
    sandbox.train_digits("--config cls.toml --max-steps 10");
    let eval =
        |model: &str| sandbox.run(&format!("eval {model} --dataset digits --json")).succeeded();
    let score = eval("run").stdout;
    sandbox.run("export run --layout timm -o timm.safetensors").succeeded();
    let timm = tensors(&sandbox.path("timm.safetensors"));
    for (name, shape) in [
        ("cls_token", &[1, 1, 32][..]),
        ("pos_embed", &[1, 17, 32]),
        ("patch_embed.proj.weight", &[32, 1, 7, 7]),
        ("blocks.0.attn.qkv.weight", &[96, 32]),
        ("head.bias", &[10]),
    ] {
        assert_eq!(timm[name].dims(), shape, "{name}");
    }
    assert_eq!(eval("timm.safetensors").stdout, score);

    sandbox.run("export run --layout hf -o hf").succeeded();
    let hf = tensors(&sandbox.path("hf/model.safetensors"));
    let query = "vit.encoder.layer.2.attention.attention.query.weight";
    assert_eq!(hf[query].dims(), [32, 32]);
    sandbox.run("import hf -o hf.safetensors").succeeded();
    assert_eq!(eval("hf.safetensors").stdout, score);
    let config: Value = serde_json::from_slice(&sandbox.read("hf/config.json")).unwrap();
    assert_eq!((&config["model_type"], &config["hidden_size"]), (&"vit".into(), &32.into()));
    assert_eq!((&config["hidden_act"], &config["image_size"]), (&"gelu".into(), &28.into()));
    assert!(sandbox.path("hf/preprocessor_config.json").exists());
}

/// A model that timm and transformers can express.
const CLASS_TOKEN: &str = "[model]\npool = 'cls'\nqkv_bias = true\nactivation = 'gelu'\n";

#[test]
fn a_grey_model_round_trips_through_transformers_three_channels() {
    let sandbox = Sandbox::new();
    sandbox.write("cls.toml", CLASS_TOKEN);
    sandbox.train_digits("--config cls.toml --max-steps 2");
    let log = sandbox.run("export run --layout hf -o hf").succeeded().stderr;
    assert!(log.contains("weights times 0.299, 0.587 and 0.114"), "{log}");
    let name = "vit.embeddings.patch_embeddings.projection.weight";
    assert_eq!(tensors(&sandbox.path("hf/model.safetensors"))[name].dims(), [32, 3, 7, 7]);
    let config: Value = serde_json::from_slice(&sandbox.read("hf/config.json")).unwrap();
    assert_eq!((&config["num_channels"], &config["vit_grey"]), (&3.into(), &true.into()));
    let scaling: Value =
        serde_json::from_slice(&sandbox.read("hf/preprocessor_config.json")).unwrap();
    assert_eq!(scaling["image_mean"], serde_json::json!([0.5, 0.5, 0.5]));
    let shown = sandbox.run("info hf --json").succeeded().json();
    assert_eq!(shown["config"]["image"]["channels"], 1);
    sandbox.run("import hf -o again.safetensors").succeeded();
    // Only the parameters: transformers has one dropout rate for two places.
    let [again, run] =
        ["again.safetensors", "run/model.safetensors"].map(|name| tensors(&sandbox.path(name)));
    assert!(bits(&again) == bits(&run));
}

#[test]
fn a_timm_folder_describes_the_model() {
    let sandbox = Sandbox::new();
    sandbox.write("cls.toml", CLASS_TOKEN);
    sandbox.train_digits("--config cls.toml --max-steps 2");
    sandbox.run("export run --layout timm -o folder/").succeeded();
    let config: Value = serde_json::from_slice(&sandbox.read("folder/config.json")).unwrap();
    // The architecture whose layer norms have an epsilon of 1e-5.
    assert_eq!(config["architecture"], "vit_base_patch16_clip_224");
    let args = &config["model_args"];
    assert_eq!((&args["embed_dim"], &args["pre_norm"]), (&32.into(), &false.into()));
    assert_eq!(config["pretrained_cfg"]["input_size"], serde_json::json!([1, 28, 28]));
    // An existing folder needs no trailing slash.
    std::fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.run("export run --layout timm -o empty").succeeded();
    for name in ["model.safetensors", "config.json"] {
        let [one, other] = ["folder", "empty"].map(|folder| format!("{folder}/{name}"));
        assert!(sandbox.read(&one) == sandbox.read(&other), "{name}");
    }
    sandbox.refuses(2, "export run --layout timm -o folder/").saying(&["it exists"]);

    sandbox.write("eps.toml", format!("{CLASS_TOKEN}layer_norm_eps = 1e-12\n"));
    let train = "train --dataset digits --config eps.toml --max-steps 1 --run-dir eps";
    sandbox.run(train).succeeded();
    let refusal = sandbox.refuses(2, "export eps --layout timm -o eps-folder/");
    refusal.saying(&["layer_norm_eps = 1e-12", "expected 1e-6 or 1e-5"]);
    sandbox.run("export eps --layout timm -o eps.safetensors").succeeded();
}

#[test]
fn model_cards_have_task_data_figures_and_recipe_but_no_paths() {
    let sandbox = Sandbox::new();
    sandbox.write("cls.toml", CLASS_TOKEN);
    sandbox.train_digits("--config cls.toml --epochs 1");
    let metrics = json_lines(sandbox.read("run/metrics.jsonl"));
    let accuracy = metrics.last().unwrap()["test_accuracy"].as_f64().unwrap();
    for (layout, folder, library) in [("hf", "hf", "transformers"), ("timm", "timm/", "timm")] {
        sandbox.run(&format!("export run --layout {layout} -o {folder}")).succeeded();
        let path = format!("{}/README.md", folder.trim_end_matches('/'));
        let card = String::from_utf8(sandbox.read(&path)).unwrap();
        let head = format!("---\nlibrary_name: {library}\npipeline_tag: image-classification\n");
        assert!(card.starts_with(&head), "{card}");
        for part in [
            format!("# {layout}\n").as_str(),
            "grey images of 28x28 pixels into 10 classes",
            "Classes: `0`, `1`",
            "Trained on `digits`.",
            format!("| {:.2} % |", 100.0 * accuracy).as_str(),
            "## Recipe",
            "epochs = 1\n",
            "finds and places a digit",
        ] {
            assert!(card.contains(part), "{part:?} in {card}");
        }
        assert!(!card.contains(sandbox.path("").to_str().unwrap()), "{card}");
    }
    // A file alone does not know its run.
    sandbox.run("export run/model.safetensors --layout hf -o alone").succeeded();
    let card = String::from_utf8(sandbox.read("alone/README.md")).unwrap();
    assert_eq!(card.matches("does not record").count(), 3, "{card}");
}
