//! Models in safetensors files, with their configuration in the metadata.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::Device;
use candle_core::safetensors::Load;
use safetensors::SafeTensors;

use crate::{Error, Tensors, VitConfig};

/// The metadata key of the configuration, as JSON. It is the only key: safetensors writes several in random order.
const CONFIG_KEY: &str = "vit_config";

/// What a safetensors file holds.
#[derive(Clone, Debug)]
pub struct ModelFile {
    /// The configuration, where the file carries one.
    pub config: Option<VitConfig>,
    /// The tensors, by whatever names the file has.
    pub tensors: Tensors,
}

/// Reads a safetensors file onto the CPU.
///
/// # Errors
/// If the file cannot be read, is no safetensors file, or carries a configuration that cannot be understood.
pub fn read(path: &Path) -> Result<ModelFile, Error> {
    let bytes = fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let not_safetensors = |source| Error::NotSafetensors { path: path.to_owned(), source };
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(not_safetensors)?;
    let config = header.metadata().as_ref().and_then(|metadata| metadata.get(CONFIG_KEY));
    let config = config.map(|json| serde_json::from_str(json)).transpose();
    let config = config.map_err(|source| Error::Config { path: path.to_owned(), source })?;
    let file = SafeTensors::deserialize(&bytes).map_err(not_safetensors)?;
    let tensors = file.tensors().into_iter();
    let tensors = tensors.map(|(name, view)| match view.load(&Device::Cpu) {
        Ok(tensor) => Ok((name, tensor)),
        Err(source) => {
            Err(Error::Unusable { path: path.to_owned(), name, source: Box::new(source) })
        }
    });
    Ok(ModelFile { config, tensors: tensors.collect::<Result<_, Error>>()? })
}

/// Writes tensors and the configuration they are of: whole or not at all, and the same bytes for the same content.
///
/// # Errors
/// If a tensor cannot be read from its device, or the file cannot be written.
pub fn write(path: &Path, tensors: &Tensors, config: &VitConfig) -> Result<(), Error> {
    let json = serde_json::to_string(config).expect("a configuration is plain data");
    let metadata = HashMap::from([(CONFIG_KEY.to_owned(), json)]);
    let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(Error::Serialise)?;
    Ok(vit_files::write_atomically(path, &bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;
    use candle_core::Tensor;

    fn tensors() -> Tensors {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).expect("a small tensor");
        Tensors::from([
            ("b".to_owned(), tensor(&[1.0, 2.0])),
            ("a".to_owned(), tensor(&[3.0, 4.0, 5.0])),
        ])
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        let config = Preset::Notebook.config();
        write(&path, &tensors(), &config).expect("a writable folder");
        let file = read(&path).expect("what was written");
        assert_eq!(file.config, Some(config.clone()));
        assert_eq!(file.tensors["a"].to_vec1::<f32>().expect("f32"), [3.0, 4.0, 5.0]);
        let first = fs::read(&path).expect("the file");
        write(&path, &tensors(), &config).expect("a writable folder");
        assert_eq!(fs::read(&path).expect("the file"), first, "the same content, other bytes");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        let absent = read(&path).unwrap_err().to_string();
        assert!(absent.starts_with("cannot read ") && absent.ends_with("model.safetensors"));
        fs::write(&path, "no tensors here").expect("a writable folder");
        let text = read(&path).unwrap_err().to_string();
        assert!(text.ends_with("model.safetensors is not a safetensors file"), "{text}");
    }
}
