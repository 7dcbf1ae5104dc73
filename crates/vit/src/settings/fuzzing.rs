//! Fuzzing of settings files.

use std::str;

use toml::Value;
use vit_model::{Preset, VitConfig};

use super::file::{Misread, Settings, one_line, parse};
use crate::nearest;

/// Reads settings, and returns whether they are valid. Errors must be one line and name a place; valid settings must
/// round-trip.
pub fn read(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    let table = match parse(text) {
        Ok(table) => table,
        Err(Misread { line, message }) => {
            assert!((1..=text.split('\n').count()).contains(&line), "line {line}");
            assert!(!message.contains('\n'), "{message:?}");
            return false;
        }
    };
    let of_preset = Settings::of_preset(Preset::Shallow);
    let run: Result<Settings, _> = Value::Table(table.clone()).try_into();
    let mut taken = false;
    for settings in [of_preset.merged_with(table), run] {
        match settings {
            Ok(settings) => {
                hold(&settings);
                taken = true;
            }
            Err(error) => {
                let message = one_line(&error.to_string());
                assert!(!message.contains('\n'), "{message:?}");
                // Any name is acceptable.
                let _ = nearest::hint(&message);
            }
        }
    }
    taken
}

fn hold(settings: &Settings) {
    let text = settings.to_toml();
    let table = parse(&text).expect("what was written is TOML");
    let again: Settings = Value::Table(table).try_into().expect("what was written is settings");
    assert_eq!(again.to_toml(), text);
    assert_eq!(again.to_table().to_string(), settings.to_table().to_string());
    let Settings { train, augment, model, .. } = settings;
    if train.check().is_ok() && augment.check().is_ok() && model.check().is_ok() {
        assert!(model.tokens() > 0);
        let _: VitConfig = model.clone().with_dropout(0.0);
    }
}
