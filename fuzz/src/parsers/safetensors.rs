//! Safetensors files of any layout, with or without a configuration in the metadata.

use candle_core::Tensor;
use vit_model::{Documents, Foreign, Known, Layout, ModelFile, Preset, to_bytes};

use super::scratch::Scratch;

thread_local! {
    static FOLDER: Scratch = Scratch::new();
}

const NAME: &str = "model.safetensors";

/// Property: tensors take no more memory than the file's size and round-trip in shape; a model's tensors match its
/// configuration or are rejected.
pub(super) fn read(bytes: &[u8]) -> bool {
    FOLDER.with(|folder| {
        folder.write(NAME, bytes);
        let path = folder.path().join(NAME);
        let Ok(file) = ModelFile::open(&path) else { return false };
        if let (Ok(layout), Some(config)) = (Layout::recognise(file.infos().keys()), file.config())
            && layout.check(file.infos(), config).is_ok()
            && let Ok(tensors) = layout.import_file(&file, config)
        {
            Layout::Timm.export(&tensors, config).expect("the parameters of the configuration");
        }
        if let Ok(foreign) = Foreign::new(file.infos(), Documents::default(), &Known::default()) {
            foreign.config.check().expect("a foreign model's configuration is checked");
            // candle may not support its dtypes.
            let _ = foreign.import(&file);
        }
        let Ok(tensors) = file.tensors() else { return true };
        let size = |tensor: &Tensor| tensor.elem_count() * tensor.dtype().size_in_bytes();
        let held: usize = tensors.values().map(size).sum();
        assert!(held <= bytes.len(), "{held} bytes of tensors in {}", bytes.len());
        // candle writes fewer dtypes than it reads.
        let Ok(again) = to_bytes(&tensors, &Preset::Shallow.config()) else { return true };
        let infos = file.infos().clone();
        drop(file);
        folder.write(NAME, &again);
        let file = ModelFile::open(&path).expect("what was written");
        assert_eq!(*file.infos(), infos);
        true
    })
}
