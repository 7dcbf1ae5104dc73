//! transformers' `ViTImageProcessor` as JSON.

use serde::Deserialize;
use serde_json::json;

use super::shapes::Shapes;
use super::{Assumptions, Known, Normalization};
use crate::{Error, Interpolation, Transform, VitConfig};

/// The key of our own transform.
pub(super) const TRANSFORM: &str = "vit_transform";

/// A `preprocessor_config.json` that scales pictures and pixels like `transform`, or pixels to [-1, 1] by default.
///
/// transformers' `ViTImageProcessor` scales both sides without cropping, so non-square pictures differ from a transform
/// that crops.
#[must_use]
pub fn hf_preprocessor_json(config: &VitConfig, transform: Option<&Transform>) -> String {
    let each = |numbers: &[f64]| -> Vec<f64> {
        numbers.iter().copied().cycle().take(config.image.channels).collect()
    };
    let (mean, std) = transform.map_or((&[0.5][..], &[0.5][..]), |to| (&to.mean, &to.std));
    // Pillow's codes.
    let resample = match transform.map(|to| to.interpolation) {
        Some(Interpolation::Bicubic) => 3,
        Some(Interpolation::Bilinear) | None => 2,
    };
    let mut value = json!({
        "image_processor_type": "ViTImageProcessor",
        "do_resize": true,
        "size": {"height": config.image.height, "width": config.image.width},
        "resample": resample,
        "do_rescale": true,
        "rescale_factor": 1.0 / 255.0,
        "do_normalize": true,
        "image_mean": each(mean),
        "image_std": each(std),
    });
    // Settings that transformers lacks, such as the placement of digits. It ignores unknown names.
    if let Some(transform) = transform {
        value[TRANSFORM] = json!(transform);
    }
    format!("{value:#}\n")
}

/// The fields of `ViTImageProcessor` that are read. Missing ones have transformers' defaults.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Preprocessor {
    do_rescale: Option<bool>,
    rescale_factor: Option<f64>,
    do_normalize: Option<bool>,
    image_mean: Option<Numbers>,
    image_std: Option<Numbers>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Numbers {
    One(f64),
    Each(Vec<f64>),
}

impl Numbers {
    fn list(self) -> Vec<f64> {
        match self {
            Self::One(number) => vec![number],
            Self::Each(numbers) => numbers,
        }
    }
}

/// The normalisation, for pixels in [0, 1].
pub(super) fn normalization(
    shapes: &Shapes<'_>,
    json: Option<&str>,
    known: &Known,
    assumed: &mut Assumptions,
) -> Result<Normalization, Error> {
    let Some(json) = json.filter(|_| known.normalization.is_none()) else {
        return Ok(assumed.normalization(known.normalization.clone()));
    };
    let document = |source| Error::Document { document: "preprocessor_config.json", source };
    let theirs: Preprocessor = serde_json::from_str(json).map_err(document)?;
    let factor = match theirs.do_rescale {
        Some(false) => 1.0,
        _ => theirs.rescale_factor.unwrap_or(1.0 / 255.0),
    };
    let (mean, std) = match theirs.do_normalize {
        Some(false) => (vec![0.0], vec![1.0]),
        _ => (
            theirs.image_mean.map_or_else(|| vec![0.5], Numbers::list),
            theirs.image_std.map_or_else(|| vec![0.5], Numbers::list),
        ),
    };
    // Theirs applies to bytes times the factor, ours to bytes over 255. If both agree, nothing is rounded.
    let scale = 255.0 * factor;
    if !(scale.is_finite() && scale > 0.0) {
        let value = factor.to_string();
        return Err(shapes.unsupported("rescale_factor", &value, "a positive number"));
    }
    if (scale - 1.0).abs() < 1e-9 {
        return Ok(Normalization { mean, std });
    }
    let scaled = |values: Vec<f64>| values.into_iter().map(|value| value / scale).collect();
    Ok(Normalization { mean: scaled(mean), std: scaled(std) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, TensorInfos};

    #[test]
    fn normalization_follows_the_preprocessor() {
        let of = |preprocessor: &str| {
            let shapes = Shapes { infos: &TensorInfos::new(), layout: Layout::Hf };
            let mut assumed = Assumptions::default();
            let told = normalization(&shapes, Some(preprocessor), &Known::default(), &mut assumed);
            told.map(|told| (told.mean, told.std))
        };
        let close = |(mean, std): (Vec<f64>, Vec<f64>), want: (f64, f64)| {
            assert!((mean[0] - want.0).abs() < 1e-9 && (std[0] - want.1).abs() < 1e-9, "{want:?}");
        };
        let told = of(r#"{"image_mean": [0.1, 0.2, 0.3], "image_std": 2}"#).expect("sound");
        assert_eq!(told, (vec![0.1, 0.2, 0.3], vec![2.0]));
        close(of(r#"{"do_normalize": false}"#).expect("sound"), (0.0, 1.0));
        // For bytes: 127.5 is half of 255.
        let bytes = r#"{"do_rescale": false, "image_mean": 127.5, "image_std": 51}"#;
        close(of(bytes).expect("sound"), (0.5, 0.2));
        // In [-1, 1] before normalisation, with an offset of 1 in the mean.
        let twice = r#"{"rescale_factor": 0.00784313725490196, "image_mean": 1, "image_std": 1}"#;
        close(of(twice).expect("sound"), (0.5, 0.5));
        assert!(of(r#"{"rescale_factor": 0}"#).is_err());
        assert!(of("[").is_err());
    }
}
