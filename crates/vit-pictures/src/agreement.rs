//! Agreement with Pillow and torchvision, on the fixtures of `tests/reference/view_fixtures.py`.

use std::path::{Path, PathBuf};

use vit_random::{Random, Site};

use crate::policy::Operation;
use crate::resize::{Axis, Span, resize_part};
use crate::view::crop;
use crate::{
    Background, DecodeOptions, EvalView, Interpolation, Picture, colour, decode_file, resize,
};

const FILTERS: [Interpolation; 2] = [Interpolation::Bilinear, Interpolation::Bicubic];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/views")
}

fn fixture(name: &str) -> Picture {
    decode_file(&folder().join(name), &DecodeOptions::default()).unwrap()
}

/// Compares results with the fixture, which stacks the expected pictures: the largest difference, and the share of
/// values that differ by more than one.
fn differences(results: &[Picture], name: &str) -> (u8, f64) {
    let expected = fixture(name);
    let pixels: Vec<u8> =
        results.iter().flat_map(|result| result.clone().to_channels(3).into_pixels()).collect();
    assert_eq!(pixels.len(), expected.pixels().len(), "{name}");
    let differences = pixels.iter().zip(expected.pixels()).map(|(&a, &b)| a.abs_diff(b));
    let off = differences.clone().filter(|&difference| difference > 1).count();
    (differences.max().unwrap(), off as f64 / pixels.len() as f64)
}

#[test]
fn every_format_decodes_as_in_pillow() {
    let mut checked = 0;
    for entry in folder().read_dir().unwrap() {
        let expected = entry.unwrap().path();
        let Some(name) = expected.to_str().unwrap().strip_suffix(".expected.png") else { continue };
        let options =
            DecodeOptions { background: Background([200, 30, 90]), ..DecodeOptions::default() };
        let got = decode_file(Path::new(name), &options).unwrap();
        let expected = decode_file(&expected, &options).unwrap();
        assert_eq!(got.size(), expected.size(), "{name}");
        let off = got.pixels().iter().zip(expected.pixels()).map(|(&a, &b)| a.abs_diff(b));
        // Decoders of lossy formats may round differently.
        let is_lossy = name.ends_with("jpg") || name.ends_with("lossy.webp");
        let bound = if is_lossy { 4 } else { 1 };
        let largest = off.max().unwrap();
        assert!(largest <= bound, "{name}: {largest}");
        checked += 1;
    }
    assert_eq!(checked, 19);
}

#[test]
fn grey_equals_pillows_bit_for_bit() {
    assert_eq!(differences(&[fixture("source.png").to_channels(1)], "grey.png"), (0, 0.0));
}

#[test]
fn resizing_equals_pillows_bit_for_bit() {
    let colour = fixture("source.png");
    let grey = colour.clone().to_channels(1);
    for (width, height) in [(40, 30), (150, 101), (97, 20), (11, 73), (3, 2)] {
        let results: Vec<Picture> = [&colour, &grey]
            .into_iter()
            .flat_map(|picture| FILTERS.map(|filter| resize(picture, (height, width), filter)))
            .collect();
        let name = format!("resize-{width}x{height}.png");
        assert_eq!(differences(&results, &name), (0, 0.0), "{name}");
    }
}

#[test]
fn evaluation_views_equal_torchvisions() {
    let picture = fixture("source.png");
    let quarter = quarter_turned(&picture);
    let mut results = Vec::new();
    for picture in [&picture, &quarter, &fixture("photo.jpg")] {
        for resize in [48, 33, 90] {
            for interpolation in FILTERS {
                let view = EvalView { resize, crop: (32, 33), interpolation };
                results.push(view.apply(picture));
            }
        }
    }
    let expected = fixture("eval.png");
    let of_png = results.len() / 3 * 2;
    let pixels = |views: &[Picture]| -> Vec<u8> {
        views.iter().flat_map(|view| view.pixels().to_vec()).collect()
    };
    let (of_png, of_jpeg) = (pixels(&results[..of_png]), pixels(&results[of_png..]));
    let (expected_of_png, expected_of_jpeg) = expected.pixels().split_at(of_png.len());
    assert!(of_png == expected_of_png);
    let differences = of_jpeg.iter().zip(expected_of_jpeg).map(|(a, b)| a.abs_diff(*b));
    let off = differences.clone().filter(|&difference| difference > 1).count();
    let off = off as f64 / of_jpeg.len() as f64;
    assert!(differences.max() <= Some(2) && off < 0.001, "{off}");
}

/// Anticlockwise.
fn quarter_turned(picture: &Picture) -> Picture {
    let (height, width) = picture.size();
    let places = (0..width).rev().flat_map(|x| (0..height).map(move |y| y * width + x));
    let pixels = places.flat_map(|at| picture.pixels()[3 * at..][..3].to_vec());
    Picture::new(pixels.collect(), 3, (width, height)).unwrap()
}

#[test]
fn resized_crops_equal_torchvisions_bit_for_bit() {
    let picture = fixture("source.png");
    let mut results = Vec::new();
    for (top, left, height, width) in
        [(0, 0, 73, 97), (10, 5, 50, 61), (60, 90, 13, 7), (3, 1, 32, 33), (71, 0, 1, 97)]
    {
        for filter in FILTERS {
            let axis =
                |first, count, to| Axis { from: Span { first, count }, to, kept: Span::all(to) };
            let (down, across) = (axis(top, height, 32), axis(left, width, 33));
            results.push(resize_part(&picture, down, across, filter));
        }
    }
    assert_eq!(differences(&results, "crops.png"), (0, 0.0));
}

#[test]
fn operations_equal_torchvisions() {
    let small = fixture("small.png");
    let of = |change: &dyn Fn(&mut Picture)| {
        let mut picture = small.clone();
        change(&mut picture);
        picture
    };
    let mut results = Vec::new();
    for factor in [0.0, 0.35, 1.0, 1.6] {
        results.push(of(&|picture| colour::brightness(picture, factor)));
        results.push(of(&|picture| colour::contrast(picture, factor)));
        results.push(of(&|picture| colour::saturation(picture, factor)));
        results.push(of(&|picture| colour::sharpness(picture, factor)));
    }
    results.extend([2, 5, 8].map(|bits| of(&|picture| colour::posterize(picture, bits))));
    results.extend(
        [0.0, 127.5, 255.0].map(|threshold| of(&|picture| colour::solarize(picture, threshold))),
    );
    let dull = small.pixels().iter().map(|value| value / 3 + 40).collect();
    let dull = Picture::new(dull, 3, small.size()).unwrap();
    for picture in [&dull, &small] {
        results.push(Operation::AutoContrast.apply(picture.clone()));
        results.push(Operation::Equalize.apply(picture.clone()));
    }
    let geometric = [
        Operation::ShearX(0.627),
        Operation::ShearX(-0.957),
        Operation::ShearY(0.297),
        Operation::ShearY(-0.693),
        Operation::TranslateX(12),
        Operation::TranslateX(-32),
        Operation::TranslateY(5),
        Operation::TranslateY(-7),
        Operation::Rotate(31.5),
        Operation::Rotate(-135.0),
    ];
    results.extend(geometric.map(|operation| operation.apply(small.clone())));
    let (_, off) = differences(&results, "operations.png");
    // A position half-way between two pixels may round to either.
    assert!(off <= 1e-3, "{off}");
    for (index, result) in results.iter().enumerate() {
        if index < results.len() - geometric.len() {
            let expected = fixture("operations.png");
            let length = result.pixels().len();
            let expected = &expected.pixels()[index * length..][..length];
            let differences = result.pixels().iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
            let largest = differences.max().unwrap();
            assert!(largest <= 1, "operation {index}: {largest}");
        }
    }
    let hues = [-0.5, -0.2, 0.0, 0.07, 0.31];
    let hues = hues.map(|hue| of(&|picture| colour::hue(picture, hue)));
    let (largest, off) = differences(&hues, "hues.png");
    assert!(largest <= 2 && off <= 1e-3, "{largest}, {off}");
}

/// Means that the script prints for torchvision's crops, over as many draws.
#[test]
fn random_crops_follow_torchvisions_distribution() {
    const DRAWS: u32 = 40_000;
    for (size, scale, expected) in [
        ((90, 120), (0.08, 1.0), [0.4365, 0.0313, 0.028, 0.4997, 0.5004]),
        ((60, 240), (0.2, 1.0), [0.2864, 0.1994, 0.0547, 0.5, 0.4999]),
    ] {
        let mut sums = [0.0; 5];
        for draw in 0..DRAWS {
            let mut stream = Random::new(5).stream(Site::named("test"), draw);
            let [rows, columns] = crop(size, scale, &mut stream);
            let (height, width) = (rows.count as f64, columns.count as f64);
            let ratio = (width / height).ln();
            let (whole_height, whole_width) = (size.0 as f64, size.1 as f64);
            let middle = |first: usize, count: f64, whole| (first as f64 + 0.5 * count) / whole;
            let values = [
                height * width / (whole_height * whole_width),
                ratio,
                ratio * ratio,
                middle(rows.first, height, whole_height),
                middle(columns.first, width, whole_width),
            ];
            sums = std::array::from_fn(|at| sums[at] + values[at] / f64::from(DRAWS));
        }
        // Six standard errors of a difference of two such means.
        for (got, expected) in sums.iter().zip(expected) {
            assert!(
                (got - expected).abs() < 6.0 * 0.26 * (2.0 / f64::from(DRAWS)).sqrt(),
                "{sums:?}"
            );
        }
    }
}
