//! `vit info`: describes a model.

use crate::support::Sandbox;

#[test]
fn parts_add_up_to_the_presets_parameters() {
    for (preset, parameters) in [("notebook", 41_418), ("shallow", 40_330)] {
        let sandbox = Sandbox::new();
        sandbox.train_digits(&format!("--preset {preset} --max-steps 1"));
        let info = sandbox.run("info run --json").succeeded().json();
        assert_eq!(info["parameters"], parameters);
        for total in ["parameters", "multiply_adds"] {
            let parts = info["parts"].as_array().unwrap().iter();
            assert_eq!(info[total], parts.map(|part| part[total].as_u64().unwrap()).sum::<u64>());
        }
        assert_eq!(info["config"]["dim"], 32);
        let of_file = sandbox.run("info run/model.safetensors --json").succeeded();
        assert_eq!(of_file.json(), info);
    }
}

#[test]
fn text_output_has_a_table_and_the_configuration() {
    let sandbox = Sandbox::new();
    sandbox.train_digits("--max-steps 1");
    let shown = sandbox.run("info run").succeeded().stdout;
    let total = shown.lines().find(|line| line.starts_with("total")).expect("a total");
    assert!(total.contains("40,330"), "{total}");
    let (_, configuration) = shown.split_once("\n\ndim = ").expect("a configuration");
    assert!(configuration.starts_with("32\n"), "{shown}");
    assert!(shown.lines().all(|line| line.len() <= 80), "{shown}");
}
