//! Class names and preprocessing in a model file.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::VitConfig;

/// Version of the metadata; version 1 was the configuration alone.
const VERSION: u64 = 2;
/// Names of the additional fields.
const VERSION_KEY: &str = "version";
const CLASS_NAMES_KEY: &str = "class_names";
const TRANSFORM_KEY: &str = "transform";

/// Class names and preprocessing of a model. Files of version 1 have neither.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelInfo {
    /// The name of each class, by its number; empty if unknown.
    pub class_names: Vec<String>,
    /// The preprocessing, if known.
    pub transform: Option<Transform>,
}

/// The preprocessing of a picture; the target size is the model's image size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transform {
    /// How a picture gets the target size.
    pub fit: Fit,
    /// With [`Fit::Crop`], the shorter side before the centre crop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<usize>,
    /// With [`Fit::Crop`], a larger shorter side is first scaled down to this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored: Option<usize>,
    /// Interpolation of the resize.
    pub interpolation: Interpolation,
    /// Mean subtracted from pixels in [0, 1]: one number, or one a channel.
    pub mean: Vec<f64>,
    /// Standard deviation they are divided by.
    pub std: Vec<f64>,
}

/// How a picture gets the target size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fit {
    /// Finds a digit on paper, and places it like MNIST's.
    Mnist,
    /// Scales in proportion, and crops the centre.
    Crop,
    /// Scales in proportion, and pads.
    Pad,
    /// Scales each side independently.
    Stretch,
}

/// Interpolation of a resize; antialiased when scaling down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// From 4 pixels.
    Bilinear,
    /// From 16 pixels.
    Bicubic,
}

impl Transform {
    /// Pixels from -1 to 1, resized bicubically.
    #[must_use]
    pub fn of(fit: Fit) -> Self {
        let half = || vec![0.5];
        Self {
            fit,
            resize: None,
            stored: None,
            interpolation: Interpolation::Bicubic,
            mean: half(),
            std: half(),
        }
    }
}

impl ModelInfo {
    /// The name of a class, else its number.
    #[must_use]
    pub fn class_name(&self, class: usize) -> String {
        self.class_names.get(class).cloned().unwrap_or_else(|| class.to_string())
    }

    /// The names of `classes` classes.
    #[must_use]
    pub fn all_names(&self, classes: usize) -> Vec<String> {
        (0..classes).map(|class| self.class_name(class)).collect()
    }

    /// The JSON in model files: the configuration's fields, class names and transform.
    #[must_use]
    pub fn to_json(&self, config: &VitConfig) -> String {
        let plain = "plain data";
        if *self == Self::default() {
            return serde_json::to_string(config).expect(plain);
        }
        let Ok(Value::Object(mut fields)) = serde_json::to_value(config) else {
            unreachable!("a configuration is an object");
        };
        fields.insert(VERSION_KEY.to_owned(), VERSION.into());
        if !self.class_names.is_empty() {
            fields.insert(CLASS_NAMES_KEY.to_owned(), self.class_names.clone().into());
        }
        if let Some(transform) = &self.transform {
            let transform = serde_json::to_value(transform).expect(plain);
            fields.insert(TRANSFORM_KEY.to_owned(), transform);
        }
        Value::Object(fields).to_string()
    }

    /// Reads the output of [`to_json`](Self::to_json).
    ///
    /// # Errors
    /// If it is malformed, or of a later version.
    pub fn from_json(json: &str) -> serde_json::Result<(VitConfig, Self)> {
        use serde::de::Error;
        let mut fields: Map<String, Value> = serde_json::from_str(json)?;
        if let Some(version) = fields.remove(VERSION_KEY)
            && version.as_u64().is_none_or(|version| version > VERSION)
        {
            let message = format!("expected version {VERSION} or earlier, got {version}");
            return Err(serde_json::Error::custom(message));
        }
        let names = fields.remove(CLASS_NAMES_KEY).map(serde_json::from_value).transpose()?;
        let class_names: Vec<String> = names.unwrap_or_default();
        let transform = fields.remove(TRANSFORM_KEY).map(serde_json::from_value).transpose()?;
        let config: VitConfig = serde_json::from_value(Value::Object(fields))?;
        if !class_names.is_empty() && class_names.len() != config.classes {
            let (names, classes) = (class_names.len(), config.classes);
            let message = format!("expected a name for each of {classes} classes, got {names}");
            return Err(serde_json::Error::custom(message));
        }
        Ok((config, Self { class_names, transform }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;

    #[test]
    fn names_and_transform_round_trip_with_the_configuration() {
        let config = Preset::Shallow.config();
        let info = ModelInfo {
            class_names: (0..10).map(|class| format!("class \"{class}\"")).collect(),
            transform: Some(Transform { resize: Some(36), ..Transform::of(Fit::Crop) }),
        };
        let json = info.to_json(&config);
        assert_eq!(ModelInfo::from_json(&json).expect("as written"), (config.clone(), info));
        // A file of version 1 has only the configuration.
        let old = serde_json::to_string(&config).expect("plain data");
        let (read, info) = ModelInfo::from_json(&old).expect("an older file");
        assert_eq!((read, &info), (config.clone(), &ModelInfo::default()));
        assert_eq!((info.to_json(&config), info.class_name(7)), (old, "7".to_owned()));
    }

    #[test]
    fn later_versions_and_malformed_fields_are_errors() {
        let config = Preset::Shallow.config();
        let with = |field: &str| {
            let json = serde_json::to_string(&config).expect("plain data");
            let json = json.replacen('{', &format!("{{{field},"), 1);
            ModelInfo::from_json(&json).unwrap_err().to_string()
        };
        assert_eq!(with("\"version\": 3"), "expected version 2 or earlier, got 3");
        let names = "expected a name for each of 10 classes, got 1";
        assert_eq!(with("\"class_names\": [\"a\"]"), names);
        assert!(with("\"transform\": {\"fit\": \"wide\"}").contains("unknown variant `wide`"));
        assert!(with("\"transforms\": 1").contains("unknown field `transforms`"));
    }
}
