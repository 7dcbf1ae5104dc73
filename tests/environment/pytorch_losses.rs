//! The whole program against PyTorch on MNIST: the losses of the first 20 steps.
//!
//! The fixtures are PyTorch's initial `state_dict` and the losses it leads to.

use std::path::Path;

use crate::files::test_file;
use crate::mnist::real_mnist;
use crate::support::{Sandbox, json_lines};

const TOLERANCE: f64 = 1e-4;

pub(crate) fn twenty_losses_on_mnist_equal_pytorchs() {
    let data = real_mnist().unwrap();
    for preset in ["notebook", "shallow"] {
        let fixture = test_file("fixtures/mnist-20-steps").join(preset);
        let got = losses(preset, &data, &fixture.with_extension("safetensors"));
        let json = std::fs::read_to_string(fixture.with_extension("json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        let want: Vec<f64> = serde_json::from_value(json["losses"].clone()).unwrap();
        assert_eq!(got.len(), want.len(), "{preset}");
        for (step, (got, want)) in got.iter().zip(&want).enumerate() {
            let difference = (got - want).abs();
            assert!(difference <= TOLERANCE, "{preset}: loss {step} is {got}, PyTorch's {want}");
        }
    }
}

fn losses(preset: &str, data: &Path, init: &Path) -> Vec<f64> {
    let sandbox = Sandbox::new();
    let recipe = "--dropout 0 --no-shuffle --max-steps 20 --log-every 1";
    let words = format!("train --preset {preset} --dataset mnist {recipe} --run-dir run");
    let mut command = sandbox.command(&words);
    command.arg("--init").arg(init).env("VIT_DATA", data);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let records = json_lines(sandbox.read("run/metrics.jsonl"));
    records.iter().filter_map(|record| record["loss"].as_f64()).collect()
}
