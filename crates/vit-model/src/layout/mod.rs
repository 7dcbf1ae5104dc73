//! What a model's parameters are called in this project, in timm, in Hugging Face's transformers and in the
//! seed's notebook.
//!
//! A layout is a table: each row says which foreign tensors, one after the other in memory, are one native
//! tensor. Native names are timm's.

mod hf;
mod native;
mod notebook;

use std::collections::BTreeMap;
use std::fmt;

use candle_core::Tensor;
use vit_patch::Position;

use crate::{Error, Output, Pool, VitConfig};
use vit_layers::ScoreScale;

/// Tensors by name, sorted.
pub type Tensors = BTreeMap<String, Tensor>;

/// Whose names parameters go by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// timm's `VisionTransformer`; also the names this project uses itself.
    Timm,
    /// transformers' `ViTForImageClassification`.
    Hf,
    /// The `state_dict` of the seed's notebook, with separate heads.
    Notebook,
}

/// A tensor's name and shape.
pub(crate) type Named = (String, Vec<usize>);

/// A native tensor and the foreign ones it is made of, in memory order.
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
    /// The layout that these names belong to.
    ///
    /// # Errors
    /// If they belong to none.
    pub fn recognise(tensors: &Tensors) -> Result<Self, Error> {
        let signs = [
            ("patch_embed.proj.weight", Self::Timm),
            ("vit.embeddings.patch_embeddings.projection.weight", Self::Hf),
            ("vit_head.weight", Self::Notebook),
        ];
        let found = signs.into_iter().find(|(name, _)| tensors.contains_key(*name));
        found.map(|(_, layout)| layout).ok_or_else(|| Error::UnknownLayout {
            example: tensors.keys().next().cloned().unwrap_or_default(),
        })
    }

    /// The parameters of a model of `config` in this layout, under their native names.
    ///
    /// # Errors
    /// If the layout cannot express the configuration, or tensors are missing, unexpected or of another shape:
    /// each is named.
    pub fn import(self, tensors: &Tensors, config: &VitConfig) -> Result<Tensors, Error> {
        let rows = self.rows(config)?;
        self.check(tensors, &rows)?;
        let native = rows.into_iter().map(|Row { native: (name, shape), foreign }| {
            // Of the first one's dtype, should a file mix them.
            let dtype = tensors[&foreign[0].0].dtype();
            let pieces =
                foreign.iter().map(|(name, _)| tensors[name].flatten_all()?.to_dtype(dtype));
            let pieces = pieces.collect::<candle_core::Result<Vec<_>>>()?;
            Ok((name, Tensor::cat(&pieces, 0)?.reshape(shape)?))
        });
        native.collect()
    }

    /// The same parameters, given under their native names, under this layout's names.
    ///
    /// # Errors
    /// As [`import`](Self::import).
    pub fn export(self, native: &Tensors, config: &VitConfig) -> Result<Tensors, Error> {
        Self::Timm.check(native, &identity(config))?;
        let mut tensors = Tensors::new();
        for Row { native: (name, _), foreign } in self.rows(config)? {
            let flat = native[&name].flatten_all()?;
            let mut start = 0;
            for (name, shape) in foreign {
                let len = shape.iter().product();
                // A copy of its own, so that each tensor owns its bytes.
                tensors
                    .insert(name, flat.narrow(0, start, len)?.force_contiguous()?.reshape(shape)?);
                start += len;
            }
        }
        Ok(tensors)
    }

    /// The names and shapes that this layout expects of a model of `config`.
    ///
    /// # Errors
    /// If the layout cannot express the configuration.
    pub fn parameters(self, config: &VitConfig) -> Result<Vec<(String, Vec<usize>)>, Error> {
        Ok(self.rows(config)?.into_iter().flat_map(|row| row.foreign).collect())
    }

    fn rows(self, config: &VitConfig) -> Result<Vec<Row>, Error> {
        config.check()?;
        match self {
            Self::Timm => Ok(identity(config)),
            Self::Hf => {
                self.check_expressible(config)?;
                Ok(hf::rows(config))
            }
            Self::Notebook => {
                self.check_expressible(config)?;
                Ok(notebook::rows(config))
            }
        }
    }

    /// Whether the library of this layout computes what `config` says: its names alone are not enough.
    ///
    /// # Errors
    /// If it does not: the first field that it cannot express is named.
    pub fn check_expressible(self, config: &VitConfig) -> Result<(), Error> {
        let require = |holds: bool, field, value: &dyn fmt::Debug, expected| {
            let value = snake_case(&format!("{value:?}"));
            let error = Error::Inexpressible { layout: self, field, value, expected };
            if holds { Ok(()) } else { Err(error) }
        };
        match self {
            Self::Timm | Self::Hf => {
                require(config.pool == Pool::Cls, "pool", &config.pool, "cls")?;
                let (scale, position) = (config.score_scale, config.position);
                require(scale == ScoreScale::HeadDim, "score_scale", &scale, "head_dim")?;
                require(position == Position::Learned, "position", &position, "learned")?;
                require(config.output == Output::Logits, "output", &config.output, "logits")
            }
            Self::Notebook => {
                require(config.pool == Pool::First, "pool", &config.pool, "first")?;
                require(!config.qkv_bias, "qkv_bias", &config.qkv_bias, "false")?;
                let position = config.position;
                let named = matches!(position, Position::Learned | Position::PatchLinear);
                require(named, "position", &position, "learned or patch_linear")
            }
        }
    }

    fn check(self, tensors: &Tensors, rows: &[Row]) -> Result<(), Error> {
        let expected: BTreeMap<&String, &Vec<usize>> =
            rows.iter().flat_map(|row| &row.foreign).map(|(name, shape)| (name, shape)).collect();
        let mut problems = Vec::new();
        for (&name, &shape) in &expected {
            match tensors.get(name) {
                None => problems.push(format!("{name}: missing, expected shape {shape:?}")),
                Some(tensor) if tensor.dims() != shape => {
                    problems
                        .push(format!("{name}: expected shape {shape:?}, got {:?}", tensor.dims()));
                }
                Some(tensor) if !tensor.dtype().is_float() => {
                    let dtype = tensor.dtype();
                    problems
                        .push(format!("{name}: expected floating-point numbers, got {dtype:?}"));
                }
                Some(_) => {}
            }
        }
        let unexpected = tensors.iter().filter(|(name, _)| !expected.contains_key(name));
        problems.extend(
            unexpected
                .map(|(name, tensor)| format!("{name}: unexpected, of shape {:?}", tensor.dims())),
        );
        if problems.is_empty() { Ok(()) } else { Err(Error::Parameters { layout: self, problems }) }
    }
}

/// The shapes of all parameters of a model of `config`, which need not be sound but must be of bounded depth.
pub(crate) fn native_shapes(config: &VitConfig) -> impl Iterator<Item = Vec<usize>> {
    native::parameters(config).into_iter().map(|(_, shape)| shape)
}

fn identity(config: &VitConfig) -> Vec<Row> {
    let rows = native::parameters(config);
    rows.into_iter().map(|native| Row { foreign: vec![native.clone()], native }).collect()
}

/// `HeadDim` as configurations write it, `head_dim`.
fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_uppercase() && index > 0 {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

/// `name.weight` and `name.bias` of a layer of `shape`, whose bias has one element an output.
fn with_bias(name: &str, shape: &[usize]) -> [Named; 2] {
    [(format!("{name}.weight"), shape.to_vec()), (format!("{name}.bias"), vec![shape[0]])]
}

/// A layer that both layouts have, with weight and bias.
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
    use crate::{Preset, VisionTransformer};
    use candle_core::{DType, Device};
    use vit_layers::Parameters;

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
    fn the_native_table_is_what_the_model_asks_for() {
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
            assert_eq!(Layout::recognise(&exported).expect("its own names"), layout);
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
    fn heads_of_the_notebook_are_rows_of_qkv() {
        let config = Preset::Notebook.config();
        let native = native(&config);
        let exported = Layout::Notebook.export(&native, &config).expect("an expressible model");
        let rows = |tensor: &Tensor| tensor.to_vec2::<f32>().expect("a matrix");
        let qkv = rows(&native["blocks.1.attn.qkv.weight"]);
        // Head 2 of 4, 8 wide: queries from row 16, keys from row 32 + 16, values from row 64 + 16.
        assert_eq!(rows(&exported["blocks.1.sa.heads.2.query.weight"]), qkv[16..24]);
        assert_eq!(rows(&exported["blocks.1.sa.heads.2.key.weight"]), qkv[48..56]);
        assert_eq!(rows(&exported["blocks.1.sa.heads.2.value.weight"]), qkv[80..88]);
    }

    #[test]
    fn what_a_layout_cannot_express_is_named() {
        let refused = |layout: Layout, config: &VitConfig| {
            layout.check_expressible(config).unwrap_err().to_string()
        };
        assert_eq!(
            refused(Layout::Timm, &Preset::Shallow.config()),
            "the timm layout cannot express pool = first, expected cls"
        );
        let config = VitConfig { score_scale: ScoreScale::Dim, ..class_token() };
        assert_eq!(
            refused(Layout::Hf, &config),
            "the hf layout cannot express score_scale = dim, expected head_dim"
        );
        assert_eq!(
            refused(Layout::Notebook, &class_token()),
            "the notebook layout cannot express pool = cls, expected first"
        );
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
            "tail.bias: unexpected, of shape [32]",
        ] {
            assert!(error.contains(line), "{error}");
        }
    }
}
