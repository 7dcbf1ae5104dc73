//! Model configurations: JSON in the metadata of a model file.

use vit_model::{Layout, Summary, VitConfig};

/// Property: accepted configurations round-trip as text; valid ones have a summary, and each layout gives parameters or
/// an error.
pub(super) fn read(bytes: &[u8]) -> bool {
    let Ok(config) = serde_json::from_slice::<VitConfig>(bytes) else { return false };
    let text = serde_json::to_string(&config).expect("a configuration is plain data");
    let again: VitConfig = serde_json::from_str(&text).expect("what was written");
    assert_eq!(serde_json::to_string(&again).expect("a configuration is plain data"), text);
    match (config.check(), Summary::of(&config)) {
        (Ok(()), Ok(summary)) => {
            let parameters = Layout::Timm.parameters(&config).expect("our own layout has them all");
            let shapes = parameters.iter().map(|(_, shape)| shape.iter().product::<usize>());
            assert_eq!(summary.parameters(), shapes.sum::<usize>());
            for layout in [Layout::Hf, Layout::Notebook] {
                // Either result is fine.
                let _ = layout.parameters(&config);
            }
            true
        }
        (Err(_), Err(_)) => false,
        (checked, summed) => panic!("{checked:?}, but {summed:?}"),
    }
}
