//! A layer's path in its model, for error messages.

use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use crate::{ConfigError, Pass};

/// The path of a layer's parameters, such as `blocks.0.attn`, or the layer's kind if it has no path.
#[derive(Clone, Debug)]
pub(crate) struct LayerPath(Arc<str>);

impl fmt::Display for LayerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl LayerPath {
    /// The path of the layer built from `vb`.
    pub(crate) fn of(kind: &str, vb: &VarBuilder) -> Self {
        let path = vb.prefix();
        Self(if path.is_empty() { kind.into() } else { path.into() })
    }

    /// Like [`of`](Self::of), and checks that the parameters' dtype is one that candle computes in.
    pub(crate) fn with_parameters(kind: &str, vb: &VarBuilder) -> Result<Self> {
        let path = Self::of(kind, vb);
        match vb.dtype() {
            DType::F64 | DType::F32 | DType::F16 | DType::BF16 => Ok(path),
            got => bail!("{path}: expected parameters of F64, F32, F16 or BF16, got {got:?}"),
        }
    }

    /// Like [`with_parameters`](Self::with_parameters), with the result of the configuration's check.
    pub(crate) fn configured(
        kind: &str,
        checked: std::result::Result<(), ConfigError>,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let path = Self::with_parameters(kind, vb)?;
        match checked {
            Ok(()) => Ok(path),
            Err(error) => bail!("{path}: {error}"),
        }
    }

    /// Checks that `xs` is (batch, tokens, dim) with at least one token, in the parameters' dtype. `name` is its name
    /// for the caller.
    pub(crate) fn check_tokens(
        &self,
        name: &str,
        xs: &Tensor,
        dim: usize,
        dtype: DType,
    ) -> Result<(usize, usize)> {
        let (batch, tokens) = match *xs.dims() {
            [batch, tokens, width] if tokens > 0 && width == dim => (batch, tokens),
            ref dims => bail!(
                "{self}: expected {name} of shape (batch, tokens, {dim}) with at least one token, got {dims:?}"
            ),
        };
        self.check_dtype(name, xs, dtype)?;
        Ok((batch, tokens))
    }

    /// Checks that `xs` is (batch, ...).
    pub(crate) fn check_batch(&self, xs: &Tensor) -> Result<usize> {
        match xs.dims().first() {
            Some(&batch) => Ok(batch),
            None => bail!("{self}: expected xs of shape (batch, ...), got a scalar"),
        }
    }

    /// Checks that a pass's mask is (batch, tokens); `of` names the sequence it belongs to.
    pub(crate) fn check_mask(
        &self,
        of: &str,
        pass: Pass,
        (batch, tokens): (usize, usize),
    ) -> Result<()> {
        match pass.mask() {
            Some(mask) if (mask.batch(), mask.tokens()) != (batch, tokens) => bail!(
                "{self}: expected a mask of {of} of shape ({batch}, {tokens}), got ({}, {})",
                mask.batch(),
                mask.tokens()
            ),
            _ => Ok(()),
        }
    }

    /// The same, and that the pass's bias is (batch or 1, heads or 1, queries, tokens).
    pub(crate) fn check_pass(
        &self,
        of: &str,
        pass: Pass,
        (batch, tokens): (usize, usize),
        (heads, queries): (usize, usize),
    ) -> Result<()> {
        self.check_mask(of, pass, (batch, tokens))?;
        match pass.bias().map(Tensor::dims) {
            None => Ok(()),
            Some(&[b, h, q, t])
                if [1, batch].contains(&b)
                    && [1, heads].contains(&h)
                    && (q, t) == (queries, tokens) =>
            {
                Ok(())
            }
            Some(got) => bail!(
                "{self}: expected a bias of shape (1 or {batch}, 1 or {heads}, {queries}, {tokens}), got {got:?}"
            ),
        }
    }

    /// Checks that `xs` is (..., dim) in the dtype of `parameter`, whose last dimension is dim.
    pub(crate) fn check_features(&self, xs: &Tensor, parameter: &Tensor) -> Result<()> {
        let width = parameter.dims().last();
        if xs.dims().last() != width {
            let width = width.copied().unwrap_or_default();
            bail!("{self}: expected xs of shape (..., {width}), got {:?}", xs.dims());
        }
        self.check_dtype("xs", xs, parameter.dtype())
    }

    fn check_dtype(&self, name: &str, xs: &Tensor, dtype: DType) -> Result<()> {
        if xs.dtype() != dtype {
            let got = xs.dtype();
            bail!("{self}: expected {name} of the parameters' dtype, {dtype:?}, got {got:?}");
        }
        Ok(())
    }
}
