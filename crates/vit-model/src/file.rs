//! Models in safetensors files, with their configuration in the metadata.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorView};
use vit_files::read_safetensors_header;

use crate::other_format::OtherFormat;
use crate::{Error, ModelInfo, Tensors, VitConfig, map};

/// The metadata key of the configuration, as JSON. It is the only key, because safetensors writes several in random
/// order.
const CONFIG_KEY: &str = "vit_config";
/// Limit of the header, which is parsed as a whole into many times its size. ViT-22B's would need a twentieth.
const LONGEST_HEADER: u64 = 2 << 20;

/// A memory-mapped safetensors file: opening it reads only the header, and each tensor is read on request.
///
/// The file must not be changed or truncated while it is open. [`write`](crate::write) replaces files and never changes
/// them, so an open file keeps its old content.
///
/// ```no_run
/// use vit_model::ModelFile;
///
/// # fn main() -> Result<(), vit_model::Error> {
/// let file = ModelFile::open("model.safetensors".as_ref())?;
/// for (name, info) in file.infos() {
///     println!("{name} {:?}", info.shape);
/// }
/// let bias = file.tensor("head.bias")?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    bytes: Mmap,
    header: Metadata,
    /// Offset of the tensors.
    start: usize,
    infos: TensorInfos,
    /// Prefix removed from every tensor name.
    prefix: String,
    config: Option<VitConfig>,
    info: ModelInfo,
}

/// Prefixes that PyTorch wrappers put before parameter names: `torch.compile`, `DistributedDataParallel`, and Lightning
/// with its usual attribute name.
const WRAPPERS: [&str; 3] = ["_orig_mod.", "module.", "model."];

/// The longest sequence of [`WRAPPERS`] that all names start with.
fn wrappers_of(header: &Metadata) -> String {
    let names = header.offset_keys();
    let mut prefix = String::new();
    while let Some(wrapper) = WRAPPERS.iter().find(|&&wrapper| {
        let inner = |name: &String| name[prefix.len()..].starts_with(wrapper);
        !names.is_empty() && names.iter().all(inner)
    }) {
        prefix += wrapper;
    }
    prefix
}

/// A tensor's description in the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its dtype; `None` if candle lacks it.
    pub dtype: Option<DType>,
}

/// Descriptions of tensors by name, sorted.
pub type TensorInfos = BTreeMap<String, TensorInfo>;

impl ModelFile {
    /// Opens a file and checks its header against its length.
    ///
    /// # Errors
    /// If the file cannot be read, is not a safetensors file, or has a malformed configuration.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let owned = || path.to_owned();
        let bytes = map::map(path).map_err(|source| Error::Read { path: owned(), source })?;
        let mut rest = &bytes[..];
        let header = read_safetensors_header(&mut rest, bytes.len() as u64, LONGEST_HEADER)
            .map_err(|source| match OtherFormat::of(&bytes) {
                Some(format) => Error::OtherFormat { path: owned(), format },
                None => Error::NotSafetensors { path: owned(), source },
            })?;
        let prefix = wrappers_of(&header);
        let start = bytes.len() - rest.len();
        let config = header.metadata().as_ref().and_then(|metadata| metadata.get(CONFIG_KEY));
        let config = config.map(|json| ModelInfo::from_json(json)).transpose();
        let config = config.map_err(|source| Error::Config { path: owned(), source })?;
        let (config, info) =
            config.map_or((None, ModelInfo::default()), |(config, info)| (Some(config), info));
        let infos = header.tensors().into_iter().map(|(name, info)| {
            let dtype = DType::try_from(info.dtype).ok();
            (name[prefix.len()..].to_owned(), TensorInfo { shape: info.shape.clone(), dtype })
        });
        let infos = infos.collect();
        Ok(Self { path: owned(), bytes, header, start, infos, prefix, config, info })
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Prefix that a PyTorch wrapper put before every name, such as `module.`. [`infos`](Self::infos) and
    /// [`tensor`](Self::tensor) use names without it.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The configuration, if the file has one.
    #[must_use]
    pub const fn config(&self) -> Option<&VitConfig> {
        self.config.as_ref()
    }

    /// Class names and transform, if the file has them.
    #[must_use]
    pub const fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Shape and dtype of every tensor, by its name in the file.
    #[must_use]
    pub const fn infos(&self) -> &TensorInfos {
        &self.infos
    }

    /// Copies a tensor to the CPU.
    ///
    /// # Errors
    /// If there is no tensor with this name, or candle lacks its dtype.
    pub fn tensor(&self, name: &str) -> Result<Tensor, Error> {
        let unusable = |source| {
            let source = Box::new(source);
            Error::Unusable { path: self.path.clone(), name: name.to_owned(), source }
        };
        let absent = || unusable(candle_core::Error::Msg("the file has no such tensor".to_owned()));
        let info = self.header.info(&format!("{}{name}", self.prefix)).ok_or_else(absent)?;
        let (begin, end) = info.data_offsets;
        let data = &self.bytes[self.start + begin..self.start + end];
        let view = TensorView::new(info.dtype, info.shape.clone(), data);
        // candle copies, element by element if the data is unaligned.
        let view = view.map_err(|error| unusable(candle_core::Error::wrap(error)))?;
        view.load(&Device::Cpu).map_err(unusable)
    }

    /// Copies all tensors to the CPU.
    ///
    /// # Errors
    /// Same as [`tensor`](Self::tensor).
    pub fn tensors(&self) -> Result<Tensors, Error> {
        self.infos.keys().map(|name| Ok((name.clone(), self.tensor(name)?))).collect()
    }
}

/// Writes tensors with their configuration, atomically; the same content gives the same bytes.
///
/// # Errors
/// If a tensor cannot be copied from its device, or the file cannot be written.
pub fn write(path: &Path, tensors: &Tensors, config: &VitConfig) -> Result<(), Error> {
    write_with(path, tensors, config, &ModelInfo::default())
}

/// Like [`write()`], with class names and transform.
///
/// # Errors
/// Same as [`write()`].
pub fn write_with(
    path: &Path,
    tensors: &Tensors,
    config: &VitConfig,
    info: &ModelInfo,
) -> Result<(), Error> {
    Ok(vit_files::write_atomically(path, &to_bytes_with(tensors, config, info)?)?)
}

/// The bytes that [`write()`] would write.
///
/// # Errors
/// If a tensor cannot be copied from its device.
pub fn to_bytes(tensors: &Tensors, config: &VitConfig) -> Result<Vec<u8>, Error> {
    to_bytes_with(tensors, config, &ModelInfo::default())
}

/// The bytes that [`write_with`] would write.
///
/// # Errors
/// If a tensor cannot be copied from its device.
pub fn to_bytes_with(
    tensors: &Tensors,
    config: &VitConfig,
    info: &ModelInfo,
) -> Result<Vec<u8>, Error> {
    serialized(tensors, CONFIG_KEY, info.to_json(config))
}

/// A file for transformers, which up to version 4 requires `format = pt` in the metadata. The configuration goes into a
/// separate file: [`hf_config_json`](crate::hf_config_json).
///
/// # Errors
/// If a tensor cannot be copied from its device.
pub fn to_hf_bytes(tensors: &Tensors) -> Result<Vec<u8>, Error> {
    serialized(tensors, "format", "pt".to_owned())
}

fn serialized(tensors: &Tensors, key: &str, value: String) -> Result<Vec<u8>, Error> {
    let metadata = HashMap::from([(key.to_owned(), value)]);
    safetensors::serialize(tensors, Some(metadata)).map_err(Error::Serialise)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Preset;
    use std::fs;

    fn tensors() -> Tensors {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).expect("a small tensor");
        Tensors::from([
            ("b".to_owned(), tensor(&[1.0, 2.0])),
            ("a".to_owned(), tensor(&[3.0, 4.0, 5.0])),
        ])
    }

    /// A file with this header and data.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    #[test]
    fn files_round_trip() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        let config = Preset::Notebook.config();
        write(&path, &tensors(), &config).expect("a writable folder");
        let file = ModelFile::open(&path).expect("what was written");
        assert_eq!(file.config(), Some(&config));
        let info = TensorInfo { shape: vec![3], dtype: Some(DType::F32) };
        assert_eq!(file.infos()["a"], info);
        assert_eq!(file.infos().len(), 2);
        let values = file.tensors().expect("floats")["a"].to_vec1::<f32>();
        assert_eq!(values.expect("f32"), [3.0, 4.0, 5.0]);
        let first = fs::read(&path).expect("the file");
        write(&path, &tensors(), &config).expect("a writable folder");
        assert_eq!(fs::read(&path).expect("the file"), first, "the same content, other bytes");
        let bytes = to_hf_bytes(&tensors()).expect("tensors on the CPU");
        fs::write(&path, bytes).expect("a writable folder");
        let file = ModelFile::open(&path).expect("what was written");
        assert_eq!((file.config(), file.infos().len()), (None, 2));
    }

    /// One process reads a run's newest model while another trains.
    #[cfg(unix)]
    #[test]
    fn an_open_file_survives_its_replacement() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        let config = Preset::Notebook.config();
        write(&path, &tensors(), &config).expect("a writable folder");
        let file = ModelFile::open(&path).expect("what was written");
        write(&path, &Tensors::new(), &config).expect("a writable folder");
        let values = file.tensor("a").expect("what was mapped").to_vec1::<f32>();
        assert_eq!(values.expect("f32"), [3.0, 4.0, 5.0]);
        assert!(ModelFile::open(&path).expect("what was written").infos().is_empty());
    }

    /// Larger than memory and mostly a hole, so reading it all would fail.
    #[cfg(all(unix, target_pointer_width = "64"))]
    #[test]
    fn opening_a_file_reads_only_the_header() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("large.safetensors");
        let header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
            "b":{"dtype":"F32","shape":[65536,1048576],"data_offsets":[8,274877906952]}}"#;
        let start = file(header, &[]);
        fs::write(&path, &start).expect("a writable folder");
        let length = start.len() as u64 + 274_877_906_952;
        let hole = fs::OpenOptions::new().write(true).open(&path).expect("the file");
        hole.set_len(length).expect("a file system with holes");
        let file = ModelFile::open(&path).expect("a sound header");
        assert_eq!(file.infos()["b"].shape, [65_536, 1_048_576]);
        let values = file.tensor("a").expect("a small tensor").to_vec1::<f32>();
        assert_eq!(values.expect("f32"), [0.0, 0.0]);
    }

    /// The data follows a header of any length, so it can be unaligned.
    #[test]
    fn unaligned_numbers_are_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("odd.safetensors");
        for padding in 0..8 {
            let header = r#"{"a":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}"#;
            let header = format!("{header}{}", " ".repeat(padding));
            let data = [1.5_f64.to_le_bytes(), (-2.5_f64).to_le_bytes()].concat();
            fs::write(&path, file(&header, &data)).expect("a writable folder");
            let tensor = ModelFile::open(&path).and_then(|file| file.tensor("a"));
            let values = tensor.expect("a sound file").to_vec1::<f64>();
            assert_eq!(values.expect("f64"), [1.5, -2.5], "{padding}");
        }
    }

    #[test]
    fn unreadable_files_and_tensors_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        let absent = ModelFile::open(&path).unwrap_err().to_string();
        assert!(absent.starts_with("cannot read ") && absent.ends_with("model.safetensors"));
        let a_folder = ModelFile::open(folder.path()).unwrap_err().to_string();
        assert!(a_folder.starts_with("cannot read "), "{a_folder}");
        write(&path, &tensors(), &Preset::Shallow.config()).expect("a writable folder");
        let error = ModelFile::open(&path).and_then(|file| file.tensor("c")).unwrap_err();
        assert!(error.to_string().ends_with(r#"cannot use the tensor "c""#), "{error}");
    }

    #[test]
    fn wrapper_prefixes_are_removed() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("wrapped.safetensors");
        for prefix in ["", "module.", "module._orig_mod.", "model."] {
            let of = |name: &str, from: usize| {
                format!(
                    r#""{prefix}{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{from},{}]}}"#,
                    from + 4
                )
            };
            let header = format!("{{{},{}}}", of("norm.bias", 0), of("head.bias", 4));
            fs::write(&path, file(&header, &[0; 8])).expect("a writable folder");
            let opened = ModelFile::open(&path).expect("a sound file");
            assert_eq!(opened.prefix(), prefix);
            assert_eq!(opened.infos().keys().collect::<Vec<_>>(), ["head.bias", "norm.bias"]);
            assert!(opened.tensor("head.bias").is_ok());
        }
    }

    #[test]
    fn other_formats_are_named() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        for (bytes, says) in [
            (
                &b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"[..],
                "a Git LFS pointer",
            ),
            (b"<!DOCTYPE html>\n<html>", "an HTML page"),
            (b"\n <html lang='en'>", "an HTML page"),
            (b"PK\x03\x04\0\0\x08\x08archive/data.pkl", "a pickle"),
            (b"\x80\x02}q\0.", "a pickle"),
        ] {
            fs::write(&path, bytes).expect("a writable folder");
            let error = ModelFile::open(&path).unwrap_err().to_string();
            assert!(
                error.ends_with(&format!(" is {says}, expected a safetensors file")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_hostile_header_is_an_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("model.safetensors");
        let one = |shape: &str, offsets: &str| {
            format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#)
        };
        let huge = format!("[{0},{0}]", u64::MAX);
        for (what, bytes) in [
            ("no bytes", Vec::new()),
            ("no header", vec![1, 2, 3]),
            ("text", b"not tensors at all".to_vec()),
            ("a header longer than the file", u64::MAX.to_le_bytes().to_vec()),
            ("tensors beyond the end", file(&one("[4]", "[0,16]"), &[0; 8])),
            ("bytes that no tensor has", file(&one("[1]", "[0,4]"), &[0; 8])),
            ("another size than the shape's", file(&one("[4]", "[0,8]"), &[0; 8])),
            ("offsets that run backwards", file(&one("[1]", "[8,4]"), &[0; 8])),
            ("a shape that overflows", file(&one(&huge, "[0,4]"), &[0; 4])),
            ("a type that is not there", file(&one("[1]", "[0,4]").replace("F32", "F3"), &[0; 4])),
        ] {
            fs::write(&path, bytes).expect("a writable folder");
            let error = ModelFile::open(&path).unwrap_err();
            assert!(matches!(error, Error::NotSafetensors { .. }), "{what}: {error}");
        }
        let config = r#"{"__metadata__":{"vit_config":"{}"}}"#;
        fs::write(&path, file(config, &[])).expect("a writable folder");
        assert!(matches!(ModelFile::open(&path).unwrap_err(), Error::Config { .. }));
    }
}
