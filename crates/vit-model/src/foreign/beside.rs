//! Class names and transform from the JSON of transformers and timm.

use serde_json::Value;

use super::Documents;
use super::preprocessor::TRANSFORM;
use crate::info::{Fit, Interpolation, ModelInfo, Transform};
use crate::{Layout, VitConfig};

/// Reads the documents, for pixels scaled like ours. The import handles other scalings.
pub(super) fn info(layout: Layout, documents: Documents<'_>, config: &VitConfig) -> ModelInfo {
    let parse = |json: Option<&str>| json.and_then(|json| serde_json::from_str(json).ok());
    let (about, preprocessor) = (parse(documents.config), parse(documents.preprocessor));
    let names = about.as_ref().and_then(class_names).unwrap_or_default();
    let class_names = if names.len() == config.classes { names } else { Vec::new() };
    let transform = match layout {
        Layout::Hf => preprocessor.as_ref().map(of_transformers),
        Layout::Timm => about.as_ref().and_then(|about| of_timm(about, config)),
        Layout::Notebook => None,
    };
    ModelInfo { class_names, transform }
}

/// transformers' `id2label`, or timm's `label_names`.
fn class_names(about: &Value) -> Option<Vec<String>> {
    if let Some(names) = about.get("label_names").and_then(Value::as_array) {
        return names.iter().map(|name| Some(name.as_str()?.to_owned())).collect();
    }
    let labels = about.get("id2label")?.as_object()?;
    let mut names: Vec<(usize, &str)> = labels
        .iter()
        .map(|(id, name)| Some((id.parse().ok()?, name.as_str()?)))
        .collect::<Option<_>>()?;
    names.sort_unstable();
    let is_each = names.iter().enumerate().all(|(class, (id, _))| class == *id);
    is_each.then(|| names.into_iter().map(|(_, name)| name.to_owned()).collect())
}

/// `ViTImageProcessor` scales both sides; `resample` is Pillow's code.
fn of_transformers(preprocessor: &Value) -> Transform {
    if let Some(own) = preprocessor.get(TRANSFORM)
        && let Ok(own) = serde_json::from_value::<Transform>(own.clone())
    {
        let half = Transform::of(own.fit);
        return Transform { mean: half.mean, std: half.std, ..own };
    }
    let interpolation = match preprocessor.get("resample").and_then(Value::as_u64) {
        Some(3) => Interpolation::Bicubic,
        _ => Interpolation::Bilinear,
    };
    Transform { interpolation, ..Transform::of(Fit::Stretch) }
}

/// timm scales the shorter side to the size over `crop_pct` and takes a centre crop.
fn of_timm(about: &Value, config: &VitConfig) -> Option<Transform> {
    let info_of = about.get("pretrained_cfg")?;
    let share = info_of.get("crop_pct").and_then(Value::as_f64).unwrap_or(0.875);
    let interpolation = match info_of.get("interpolation").and_then(Value::as_str) {
        Some("bilinear") => Interpolation::Bilinear,
        _ => Interpolation::Bicubic,
    };
    let fit = match info_of.get("crop_mode").and_then(Value::as_str) {
        Some("squash") => Fit::Stretch,
        Some("border") => Fit::Pad,
        _ => Fit::Crop,
    };
    let side = config.image.height.min(config.image.width);
    let is_share = share.is_finite() && share > 0.0 && share <= 1.0;
    let resize = (fit == Fit::Crop && is_share).then(|| (side as f64 / share) as usize);
    Some(Transform { resize, interpolation, ..Transform::of(fit) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

    fn info_of(layout: Layout, config: &str, preprocessor: Option<&str>) -> ModelInfo {
        let documents = Documents { config: Some(config), preprocessor };
        info(layout, documents, &VitConfig { classes: 2, ..Preset::VitTi16.config() })
    }

    #[test]
    fn class_names_are_sorted_by_number() {
        let names = |json: &str| info_of(Layout::Hf, json, None).class_names;
        assert_eq!(names(r#"{"id2label": {"1": "dog", "0": "cat"}}"#), ["cat", "dog"]);
        assert_eq!(names(r#"{"label_names": ["cat", "dog"]}"#), ["cat", "dog"]);
        for unusable in [
            r#"{"id2label": {"1": "dog", "2": "cat"}}"#,
            r#"{"id2label": {"0": "cat"}}"#,
            r#"{"id2label": {"0": "cat", "one": "dog"}}"#,
            "{}",
        ] {
            assert!(names(unusable).is_empty(), "{unusable}");
        }
    }

    #[test]
    fn transforms_follow_their_libraries() {
        let of_hf =
            info_of(Layout::Hf, "{}", Some(r#"{"resample": 2}"#)).transform.expect("info_of");
        assert_eq!((of_hf.fit, of_hf.interpolation), (Fit::Stretch, Interpolation::Bilinear));
        let json = r#"{"pretrained_cfg": {"crop_pct": 0.9, "interpolation": "bicubic"}}"#;
        let of_timm = info_of(Layout::Timm, json, None).transform.expect("info_of");
        assert_eq!((of_timm.fit, of_timm.resize), (Fit::Crop, Some(248)));
        assert_eq!(info_of(Layout::Timm, "{}", None).transform, None);
    }
}
