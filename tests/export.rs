//! `vit export`: another library's names, and the same numbers.

use std::path::Path;

use serde_json::Value;
use vit_model::Tensors;

use crate::files::test_file;
use crate::interchange::bits;
use crate::support::Sandbox;

fn tensors(path: &Path) -> Tensors {
    vit_model::ModelFile::open(path).and_then(|file| file.tensors()).unwrap()
}

/// PyTorch's state in, a step of length zero, PyTorch's state out.
#[test]
fn notebooks_names_and_numbers_come_out_as_they_went_in() {
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
fn a_layout_that_cannot_express_the_model_is_refused_with_the_field() {
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
fn a_class_token_model_exports_to_timm_and_hf_and_scores_the_same() {
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
