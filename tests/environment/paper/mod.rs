//! Digits on paper, boards and screens are classified as well as on clean paper.

mod drawing;

use std::fmt::Write;

use image::GrayImage;
use rayon::prelude::*;
use vit_data::Split;

use crate::files::test_file;
use crate::mnist::real_mnist;
use crate::support::{Sandbox, json_lines};

const SAMPLES: usize = 50;

/// Each kind of picture, and the pictures that may be classified worse than clean paper.
const KINDS: [(&str, usize); 15] = [
    ("clean", 0),
    ("thin-400", 2),
    ("thin-280", 2),
    ("page-1000", 2),
    ("corner", 2),
    ("ballpoint", 2),
    ("frame", 2),
    ("chalk", 2),
    ("blue-on-yellow", 2),
    ("transparent", 2),
    ("strip", 7),
    ("letterbox", 7),
    ("half-shadow", 7),
    ("ruled", 7),
    ("form-field", 7),
];

/// Uses a committed model, so that only the preprocessing is tested: `configs/mnist-best.toml` with 40 epochs, stopped
/// in the 17th at 99.10 % test accuracy.
#[expect(clippy::print_stderr, reason = "the table is the result")]
pub(crate) fn digits_on_paper_are_classified_like_on_clean_paper() {
    let data = real_mnist().unwrap();
    let mnist = vit_data::load_dir(&data.join("mnist")).unwrap();
    let test = mnist.split(Split::Test);
    let sandbox = Sandbox::new();
    let model = test_file("fixtures/mnist.safetensors");
    let right = |kind: &str| {
        let words = format!("-q predict {} {kind}", model.display());
        let lines = json_lines(sandbox.run(&words).succeeded().stdout);
        assert_eq!(lines.len(), SAMPLES, "{kind}");
        let pairs = lines.iter().enumerate();
        pairs.filter(|(index, line)| line["class"] == test.label(*index)).count()
    };
    let mut table = String::new();
    let mut behind = Vec::new();
    let mut clean = None;
    for (kind, worse) in KINDS {
        (0..SAMPLES).into_par_iter().for_each(|index| {
            let digit = GrayImage::from_raw(28, 28, test.image(index).unwrap()).unwrap();
            let picture = drawing::draw(kind, &digit, index as u32);
            sandbox.write(&format!("{kind}/{index:03}.png"), picture);
        });
        let right = right(kind);
        writeln!(table, "{kind:<14}  {right:>3}").unwrap();
        if right + worse < *clean.get_or_insert(right) {
            behind.push(kind);
        }
    }
    eprintln!("{table}");
    assert!(behind.is_empty(), "{behind:?} are too far behind clean paper:\n{table}");
    assert!(clean >= Some(49), "{table}");
}
