//! Which tokens of a batch are padding.

use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};

use crate::slices::LANES;

/// Padding mask: attention ignores padded tokens.
///
/// PyTorch equivalent: `src_key_padding_mask`, which is true for padding.
///
/// ```
/// use vit_ops::TokenMask;
///
/// # fn main() -> candle_core::Result<()> {
/// let mask = TokenMask::from_lengths(&[3, 5], 5)?;
/// assert_eq!((mask.batch(), mask.tokens()), (2, 5));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TokenMask {
    batch: usize,
    tokens: usize,
    /// Added to the scores of keys: 0 for a token, negative infinity for padding. Each sample's row is extended with
    /// the latter to whole registers.
    bias: Arc<[f32]>,
    /// The number of tokens of each sample, if all padding is at the ends.
    lengths: Option<Arc<[usize]>>,
}

impl TokenMask {
    /// A mask of samples of these lengths, padded to `tokens`.
    ///
    /// # Errors
    /// If a length is zero or above `tokens`.
    pub fn from_lengths(lengths: &[usize], tokens: usize) -> Result<Self> {
        if let Some((sample, length)) =
            lengths.iter().enumerate().find(|(_, length)| !(1..=tokens).contains(length))
        {
            bail!(
                "token mask: expected lengths of 1 to {tokens} tokens, got {length} for sample {sample}"
            );
        }
        Self::by(lengths.len(), tokens, |sample, token| token < lengths[sample])
    }

    /// A mask from a tensor that is 0 for padding and anything else for a token.
    ///
    /// A square tensor is rejected, because it could be a causal mask; use [`padding`](Self::padding) for it.
    ///
    /// # Shapes
    /// `there` (batch, tokens)
    ///
    /// # Errors
    /// If a sample has no token, or `there` is not a matrix or is square.
    pub fn new(there: &Tensor) -> Result<Self> {
        if let &[batch, tokens] = there.dims()
            && batch == tokens
            && tokens > 1
        {
            bail!(
                "token mask: expected a tensor of shape (batch, tokens), got [{batch}, {tokens}], which could be \
                 (tokens, tokens)\n  hint: use TokenMask::padding if it is of a batch; for a causal mask, Pass::causal"
            );
        }
        Self::padding(there)
    }

    /// Like [`new`](Self::new), but also takes a square tensor.
    ///
    /// # Shapes
    /// `there` (batch, tokens)
    ///
    /// # Errors
    /// If a sample has no token, or `there` is not a matrix.
    pub fn padding(there: &Tensor) -> Result<Self> {
        let &[batch, tokens] = there.dims() else {
            bail!("token mask: expected a tensor of shape (batch, tokens), got {:?}", there.dims());
        };
        let there = there.ne(0.0)?.to_device(&Device::Cpu)?.to_vec2::<u8>()?;
        Self::by(batch, tokens, |sample, token| there[sample][token] != 0)
    }

    fn by(batch: usize, tokens: usize, there: impl Fn(usize, usize) -> bool) -> Result<Self> {
        let row_len = row_len(tokens);
        let mut bias = vec![f32::NEG_INFINITY; batch * row_len];
        let mut lengths = Some(Vec::with_capacity(batch));
        for (sample, row) in bias.chunks_exact_mut(row_len.max(1)).enumerate() {
            let (mut count, mut end) = (0, 0);
            for (token, bias) in row.iter_mut().enumerate().take(tokens) {
                if there(sample, token) {
                    *bias = 0.0;
                    (count, end) = (count + 1, token + 1);
                }
            }
            if count == 0 {
                bail!("token mask: expected a token in each sample, got none in sample {sample}");
            }
            match &mut lengths {
                Some(lengths) if count == end => lengths.push(count),
                _ => lengths = None,
            }
        }
        Ok(Self { batch, tokens, bias: bias.into(), lengths: lengths.map(Into::into) })
    }

    /// The number of samples.
    #[must_use]
    pub const fn batch(&self) -> usize {
        self.batch
    }

    /// The number of tokens per sample, with padding.
    #[must_use]
    pub const fn tokens(&self) -> usize {
        self.tokens
    }

    /// 1 for a token, 0 for padding, such as for a mean over tokens.
    ///
    /// # Shapes
    /// -> (batch, tokens)
    ///
    /// # Errors
    /// If the device is out of memory, or `dtype` is unsupported.
    pub fn to_tensor(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let bias = self.bias(DType::F32, &Device::Cpu)?.reshape((self.batch, self.tokens))?;
        bias.eq(0.0)?.to_dtype(dtype)?.to_device(device)
    }

    /// The number of tokens of each sample, if all padding is at the ends.
    #[must_use]
    pub fn lengths(&self) -> Option<&[usize]> {
        self.lengths.as_deref()
    }

    /// Sets padded rows to zero, NaN included. Their gradient is zero.
    ///
    /// PyTorch equivalent: `xs.masked_fill(padding[..., None], 0)`.
    ///
    /// # Shapes
    /// `xs` (batch, tokens, dim) -> the same
    ///
    /// # Errors
    /// If `xs` has another shape.
    pub fn zero_padding(&self, xs: &Tensor) -> Result<Tensor> {
        let (batch, tokens, _dim) = xs.dims3()?;
        if (batch, tokens) != (self.batch, self.tokens) {
            let want = (self.batch, self.tokens);
            bail!("token mask: expected xs of shape {want:?} and dim, got {:?}", xs.dims());
        }
        let there = self.to_tensor(DType::U8, xs.device())?.unsqueeze(2)?; // (batch, tokens, 1)
        there.broadcast_as(xs.shape())?.contiguous()?.where_cond(xs, &xs.zeros_like()?)
    }

    /// A sample that begins with padding, if any.
    #[must_use]
    pub fn begins_with_padding(&self) -> Option<usize> {
        (0..self.batch).find(|&sample| self.row(sample).first().is_some_and(|&bias| bias != 0.0))
    }

    /// The numbers added to a sample's scores, in whole registers.
    pub(crate) fn row(&self, sample: usize) -> &[f32] {
        let row_len = row_len(self.tokens);
        &self.bias[sample * row_len..][..row_len]
    }

    /// The numbers added to the scores.
    ///
    /// # Shapes
    /// -> (batch, 1, 1, tokens)
    pub(crate) fn bias(&self, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = (self.batch, row_len(self.tokens));
        let rows = Tensor::from_slice(&self.bias, shape, &Device::Cpu)?;
        let rows = rows.narrow(1, 0, self.tokens)?.contiguous()?;
        rows.reshape((self.batch, 1, 1, self.tokens))?.to_dtype(dtype)?.to_device(device)
    }
}

fn row_len(tokens: usize) -> usize {
    tokens.next_multiple_of(LANES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bias(mask: &TokenMask) -> Result<Vec<Vec<f32>>> {
        let bias = mask.bias(DType::F32, &Device::Cpu)?;
        bias.reshape((mask.batch(), mask.tokens()))?.to_vec2()
    }

    #[test]
    fn masks_from_lengths_and_tensor_are_equal() -> Result<()> {
        const NO: f32 = f32::NEG_INFINITY;
        let by_lengths = TokenMask::from_lengths(&[1, 3], 3)?;
        assert_eq!(bias(&by_lengths)?, [[0.0, NO, NO], [0.0; 3]]);
        for dtype in [DType::U8, DType::U32, DType::F32] {
            let there = Tensor::new(&[[1_u8, 0, 0], [1, 1, 1]], &Device::Cpu)?.to_dtype(dtype)?;
            let by_tensor = TokenMask::new(&there)?;
            assert_eq!(bias(&by_tensor)?, bias(&by_lengths)?);
            assert_eq!(by_tensor.row(0)[1..], [NO; LANES - 1]);
            let again = by_tensor.to_tensor(dtype, &Device::Cpu)?;
            assert_eq!(again.to_dtype(DType::U8)?.to_vec2::<u8>()?, [[1, 0, 0], [1, 1, 1]]);
            assert_eq!(by_tensor.begins_with_padding(), None);
        }
        Ok(())
    }

    #[test]
    fn leading_padding_is_allowed_and_reported() -> Result<()> {
        let there = Tensor::new(&[[1_u8, 0, 1], [0, 1, 1]], &Device::Cpu)?;
        assert_eq!(TokenMask::new(&there)?.begins_with_padding(), Some(1));
        Ok(())
    }

    #[test]
    fn mask_without_tokens_is_rejected() -> Result<()> {
        let said = |mask: Result<TokenMask>| mask.unwrap_err().to_string();
        let error = said(TokenMask::from_lengths(&[2, 4], 3));
        assert!(error.contains("lengths of 1 to 3 tokens, got 4 for sample 1"), "{error}");
        let error = said(TokenMask::from_lengths(&[0], 3));
        assert!(error.contains("got 0 for sample 0"), "{error}");
        let there = Tensor::new(&[[1_u8, 0], [0, 0]], &Device::Cpu)?;
        let error = said(TokenMask::new(&there));
        assert!(error.contains("got [2, 2], which could be (tokens, tokens)"), "{error}");
        let error = said(TokenMask::padding(&there));
        assert!(error.contains("expected a token in each sample, got none in sample 1"), "{error}");
        let error = said(TokenMask::new(&there.flatten_all()?));
        assert!(error.contains("expected a tensor of shape (batch, tokens), got [4]"), "{error}");
        Ok(())
    }
}
