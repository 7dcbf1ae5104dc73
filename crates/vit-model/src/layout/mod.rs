//! Parameter names in this project, timm, Hugging Face's transformers and the notebook.
//!
//! A layout is a table. Each row lists the foreign tensors that, concatenated in memory, are one native tensor. Native
//! names are timm's.

mod expressible;
mod hf;
mod native;
mod notebook;

use std::collections::BTreeMap;
use std::fmt;

use candle_core::Tensor;

use crate::{Error, ModelFile, TensorInfo, TensorInfos, VitConfig};

/// Tensors by name, sorted.
pub type Tensors = BTreeMap<String, Tensor>;

/// A library's parameter names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// timm's `VisionTransformer`, and this project's native names.
    Timm,
    /// transformers' `ViTForImageClassification`. Both of its namings are read; the one that versions 4 and 5 read is
    /// written.
    Hf,
    /// The `state_dict` of the notebook, with separate heads.
    Notebook,
}

/// A tensor's name and shape.
pub(crate) type Named = (String, Vec<usize>);

/// A native tensor and its foreign pieces, in memory order.
struct Row {
    native: Named,
    foreign: Vec<Named>,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Timm => "timm",
            Self::Hf => "hf",
            Self::Notebook => "notebook",
        })
    }
}

impl Layout {
    /// Recognises the layout of these names.
    ///
    /// # Errors
    /// If no layout has them.
    pub fn recognise<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<Self, Error> {
        let mut first = None;
        for name in names {
            match name.as_str() {
                "patch_embed.proj.weight" => return Ok(Self::Timm),
                hf::PATCHES => return Ok(Self::Hf),
                "vit_head.weight" => return Ok(Self::Notebook),
                _ => first = first.or(Some(name)),
            }
        }
        Err(Error::UnknownLayout { example: first.cloned().unwrap_or_default() })
    }

    /// Converts parameters of a model of `config` from this layout to native names.
    ///
    /// # Errors
    /// If the layout cannot express the configuration, or tensors are missing, unexpected or misshapen: each is named.
    pub fn import(self, tensors: &Tensors, config: &VitConfig) -> Result<Tensors, Error> {
        self.assemble(&infos(tensors), config, |name| Ok(tensors[name].clone()))
    }

    /// The same for a file, read tensor by tensor after its header matches.
    ///
    /// # Errors
    /// Like [`import`](Self::import), or if a tensor cannot be read.
    pub fn import_file(self, file: &ModelFile, config: &VitConfig) -> Result<Tensors, Error> {
        self.assemble(file.infos(), config, |name| file.tensor(name))
    }

    /// Checks that these are the parameters of a model of `config` in this layout.
    ///
    /// # Errors
    /// Like [`import`](Self::import).
    pub fn check(self, infos: &TensorInfos, config: &VitConfig) -> Result<(), Error> {
        self.check_rows(infos, &self.rows(config, hf::Naming::of(infos))?)
    }

    /// Converts native parameters to this layout's names.
    ///
    /// # Errors
    /// Like [`import`](Self::import).
    pub fn export(self, native: &Tensors, config: &VitConfig) -> Result<Tensors, Error> {
        Self::Timm.check_rows(&infos(native), &identity(config))?;
        let mut tensors = Tensors::new();
        for Row { native: (name, _), foreign } in self.rows(config, hf::Naming::OnDisk)? {
            let flat = native[&name].flatten_all()?;
            let mut start = 0;
            for (name, shape) in foreign {
                let len = shape.iter().product();
                // A copy, so that each tensor owns its bytes.
                tensors
                    .insert(name, flat.narrow(0, start, len)?.force_contiguous()?.reshape(shape)?);
                start += len;
            }
        }
        Ok(tensors)
    }

    /// The names and shapes of a model of `config` in this layout.
    ///
    /// # Errors
    /// If the layout cannot express the configuration.
    pub fn parameters(self, config: &VitConfig) -> Result<Vec<(String, Vec<usize>)>, Error> {
        let rows = self.rows(config, hf::Naming::OnDisk)?;
        Ok(rows.into_iter().flat_map(|row| row.foreign).collect())
    }

    fn rows(self, config: &VitConfig, naming: hf::Naming) -> Result<Vec<Row>, Error> {
        config.check()?;
        match self {
            Self::Timm => Ok(identity(config)),
            Self::Hf => {
                self.check_expressible(config)?;
                Ok(hf::rows(config, naming))
            }
            Self::Notebook => {
                self.check_expressible(config)?;
                Ok(notebook::rows(config))
            }
        }
    }

    fn assemble(
        self,
        infos: &TensorInfos,
        config: &VitConfig,
        tensor: impl Fn(&str) -> Result<Tensor, Error>,
    ) -> Result<Tensors, Error> {
        let rows = self.rows(config, hf::Naming::of(infos))?;
        self.check_rows(infos, &rows)?;
        let native = rows.into_iter().map(|Row { native: (name, shape), foreign }| {
            let pieces =
                foreign.iter().map(|(name, _)| tensor(name)?.flatten_all().map_err(Error::from));
            let pieces = pieces.collect::<Result<Vec<_>, Error>>()?;
            // The first one's dtype, if a file mixes them.
            let dtype = pieces[0].dtype();
            let pieces = pieces.iter().map(|piece| piece.to_dtype(dtype));
            let pieces = pieces.collect::<candle_core::Result<Vec<_>>>()?;
            Ok((name, Tensor::cat(&pieces, 0)?.reshape(shape)?))
        });
        native.collect()
    }

    fn check_rows(self, infos: &TensorInfos, rows: &[Row]) -> Result<(), Error> {
        let expected: BTreeMap<&String, &Vec<usize>> =
            rows.iter().flat_map(|row| &row.foreign).map(|(name, shape)| (name, shape)).collect();
        let mut problems = Vec::new();
        for (&name, &shape) in &expected {
            match infos.get(name) {
                None => problems.push(format!("{name}: missing, expected shape {shape:?}")),
                Some(info) if info.shape != *shape => {
                    problems
                        .push(format!("{name}: expected shape {shape:?}, got {:?}", info.shape));
                }
                Some(TensorInfo { dtype: Some(dtype), .. }) if dtype.is_float() => {}
                Some(TensorInfo { dtype, .. }) => {
                    let got = dtype.map_or("another type".to_owned(), |dtype| format!("{dtype:?}"));
                    problems.push(format!("{name}: expected floating-point numbers, got {got}"));
                }
            }
        }
        let unexpected = infos.iter().filter(|(name, _)| !expected.contains_key(name));
        problems.extend(
            unexpected
                .map(|(name, info)| format!("{name:?}: unexpected, of shape {:?}", info.shape)),
        );
        if problems.is_empty() { Ok(()) } else { Err(Error::Parameters { layout: self, problems }) }
    }
}

/// The shapes of all parameters of a model of `config`, which may be invalid but must have bounded depth.
pub(crate) fn native_shapes(config: &VitConfig) -> impl Iterator<Item = Vec<usize>> {
    native::parameters(config).into_iter().map(|(_, shape)| shape)
}

fn identity(config: &VitConfig) -> Vec<Row> {
    let rows = native::parameters(config);
    rows.into_iter().map(|native| Row { foreign: vec![native.clone()], native }).collect()
}

fn infos(tensors: &Tensors) -> TensorInfos {
    let info =
        |tensor: &Tensor| TensorInfo { shape: tensor.dims().to_vec(), dtype: Some(tensor.dtype()) };
    tensors.iter().map(|(name, tensor)| (name.clone(), info(tensor))).collect()
}

/// `name.weight` and `name.bias` of a layer of `shape`, with one bias element per output.
fn with_bias(name: &str, shape: &[usize]) -> [Named; 2] {
    [(format!("{name}.weight"), shape.to_vec()), (format!("{name}.bias"), vec![shape[0]])]
}

/// A layer with weight and bias that both layouts have.
fn renamed(
    native: &str,
    foreign: &str,
    native_shape: &[usize],
    foreign_shape: &[usize],
) -> [Row; 2] {
    let [weight, bias] = with_bias(native, native_shape);
    let [foreign_weight, foreign_bias] = with_bias(foreign, foreign_shape);
    [
        Row { native: weight, foreign: vec![foreign_weight] },
        Row { native: bias, foreign: vec![foreign_bias] },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Pool, Preset, VisionTransformer};
    use candle_core::{DType, Device};
    use vit_layers::Parameters;
    use vit_patch::Position;

    fn native(config: &VitConfig) -> Tensors {
        let parameters = Parameters::seeded(1);
        VisionTransformer::new(config, &parameters.builder(DType::F32, &Device::Cpu))
            .expect("the configuration is sound");
        let tensors = parameters.sorted().into_iter();
        tensors.map(|(name, var)| (name, var.as_detached_tensor())).collect()
    }

    fn class_token() -> VitConfig {
        VitConfig { pool: Pool::Cls, qkv_bias: true, ..Preset::Shallow.config() }
    }

    #[test]
    fn native_table_equals_the_models_parameters() {
        let shallow = Preset::Shallow.config();
        let configs = [
            Preset::Notebook.config(),
            class_token(),
            VitConfig { position: Position::Sincos2d, ..shallow.clone() },
            VitConfig { position: Position::None, pool: Pool::Mean, ..shallow.clone() },
            shallow,
        ];
        for config in configs {
            let asked: Vec<Named> = native(&config)
                .into_iter()
                .map(|(name, tensor)| (name, tensor.dims().to_vec()))
                .collect();
            let mut listed = Layout::Timm.parameters(&config).expect("a sound configuration");
            listed.sort();
            assert_eq!(listed, asked);
        }
    }

    #[test]
    fn export_and_import_are_inverse() {
        for (layout, config) in [
            (Layout::Notebook, Preset::Notebook.config()),
            (Layout::Notebook, Preset::Shallow.config()),
            (Layout::Timm, class_token()),
            (Layout::Hf, class_token()),
            (Layout::Hf, VitConfig { qkv_bias: false, ..class_token() }),
        ] {
            let native = native(&config);
            let exported = layout.export(&native, &config).expect("an expressible model");
            assert_eq!(Layout::recognise(exported.keys()).expect("its own names"), layout);
            let again = layout.import(&exported, &config).expect("what was exported");
            assert_eq!(again.len(), native.len());
            for (name, tensor) in native {
                let flat = |tensor: &Tensor| {
                    tensor.flatten_all().and_then(|flat| flat.to_vec1::<f32>()).expect("f32")
                };
                assert_eq!(flat(&again[&name]), flat(&tensor), "{name}");
            }
        }
    }

    #[test]
    fn notebook_heads_are_rows_of_qkv() {
        let config = Preset::Notebook.config();
        let native = native(&config);
        let exported = Layout::Notebook.export(&native, &config).expect("an expressible model");
        let rows = |tensor: &Tensor| tensor.to_vec2::<f32>().expect("a matrix");
        let qkv = rows(&native["blocks.1.attn.qkv.weight"]);
        // Head 2 of 4, width 8: queries from row 16, keys from row 32 + 16, values from row 64 + 16.
        assert_eq!(rows(&exported["blocks.1.sa.heads.2.query.weight"]), qkv[16..24]);
        assert_eq!(rows(&exported["blocks.1.sa.heads.2.key.weight"]), qkv[48..56]);
        assert_eq!(rows(&exported["blocks.1.sa.heads.2.value.weight"]), qkv[80..88]);
    }

    #[test]
    fn every_mismatch_is_listed_by_name() {
        let config = Preset::Shallow.config();
        let mut tensors = native(&config);
        tensors.remove("head.bias");
        tensors.insert("tail.bias".to_owned(), tensors["norm.bias"].clone());
        tensors.insert("norm.weight".to_owned(), tensors["pos_embed"].clone());
        let bytes = Tensor::zeros(32, DType::U8, &Device::Cpu).expect("a small tensor");
        tensors.insert("norm.bias".to_owned(), bytes);
        let error = Layout::Timm.import(&tensors, &config).unwrap_err().to_string();
        for line in [
            "head.bias: missing, expected shape [10]",
            "norm.weight: expected shape [32], got [1, 16, 32]",
            "norm.bias: expected floating-point numbers, got U8",
            "\"tail.bias\": unexpected, of shape [32]",
        ] {
            assert!(error.contains(line), "{error}");
        }
    }
}
