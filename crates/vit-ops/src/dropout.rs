//! Dropout (Srivastava et al., JMLR 15, 2014) with masks that are a function of (seed, step, site, sample).

use std::sync::OnceLock;

use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, bail};
use vit_random::{Random, Site};

use crate::{simd, slices};

/// A dropout rate in `[0, 1)`. Masks have it rounded to a multiple of 2⁻¹⁶.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropRate(f64);

impl DropRate {
    /// No dropout.
    pub const ZERO: Self = Self(0.0);

    /// The rate, or `None` if it is not in `[0, 1)`.
    #[must_use]
    pub fn new(rate: f64) -> Option<Self> {
        (0.0..1.0).contains(&rate).then_some(Self(rate))
    }

    /// The rate as a number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// Whether nothing is dropped.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == 0.0
    }

    /// Sixteen random bits below this drop their element: the rate in units of 2⁻¹⁶.
    pub(crate) fn threshold(self) -> u16 {
        // At most 2^16 - 1, so that a rate below one never drops everything.
        (self.0 * f64::exp2(16.0)).round() as u16
    }

    /// The factor of kept elements, which makes up for the rounded rate.
    pub(crate) fn keep(self) -> f32 {
        (1.0 / (1.0 - f64::from(self.threshold()) * f64::exp2(-16.0))) as f32
    }
}

/// A dropout in training: its rate and the source of its masks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DropoutSource {
    /// The dropout rate.
    pub rate: DropRate,
    /// The site of the masks.
    pub site: Site,
    /// The source of the masks.
    pub random: Random,
}

/// `y = x m / (1 - rate)`, where `m` is 0 with probability `rate`, otherwise 1.
///
/// The mask of sample `n` (row `n` of the first dimension) is drawn from `random`'s stream of (`site`, `n`) in
/// row-major order, sixteen bits per element: the low half of each `u32`, then the high half.
///
/// PyTorch equivalent: `torch.nn.functional.dropout(xs, rate, training=True)`, with other masks.
///
/// # Shapes
/// `xs` (batch, ...) -> (batch, ...)
///
/// # Errors
/// If `xs` has no dimension.
pub fn dropout(xs: &Tensor, rate: DropRate, site: Site, random: &Random) -> Result<Tensor> {
    if rate.is_zero() {
        return Ok(xs.clone());
    }
    if xs.rank() == 0 {
        bail!("dropout: expected xs of shape (batch, ...), got a scalar");
    }
    #[cfg(feature = "cuda")]
    if crate::cuda::fused(xs) {
        return crate::cuda::dropout(xs, rate, site, random);
    }
    if slices::fused(xs) {
        xs.contiguous()?.apply_op1(Dropout { rate, site, random: *random, mask: OnceLock::new() })
    } else {
        composed::dropout(xs, rate, site, random)
    }
}

pub(crate) mod composed {
    use super::{DropRate, Random, Result, Site, Tensor, dropout_mask};

    /// [`dropout`](crate::dropout()) from candle's tensor operations.
    ///
    /// # Errors
    /// If `xs` has no dimension.
    pub fn dropout(xs: &Tensor, rate: DropRate, site: Site, random: &Random) -> Result<Tensor> {
        xs * dropout_mask(xs.dims(), rate, site, random, xs.dtype(), xs.device())?
    }
}

/// The mask of [`dropout`]: 0 with probability `rate`, otherwise `1 / (1 - rate)`.
///
/// # Shapes
/// (batch, ...), as given
///
/// # Errors
/// If `shape` has no dimension, or the device is out of memory.
pub fn dropout_mask(
    shape: &[usize],
    rate: DropRate,
    site: Site,
    random: &Random,
    dtype: DType,
    device: &Device,
) -> Result<Tensor> {
    let Some((_batch, sample)) = shape.split_first() else {
        bail!("dropout mask: expected a shape of (batch, ...), got a scalar");
    };
    #[cfg(feature = "cuda")]
    if device.is_cuda() {
        return crate::cuda::dropout_mask(shape, rate, site, random, device)?.to_dtype(dtype);
    }
    let mut mask = vec![0.0; shape.iter().product()];
    fill_mask(&mut mask, sample.iter().product(), rate, site, random);
    Tensor::from_vec(mask, shape, &Device::Cpu)?.to_dtype(dtype)?.to_device(device)
}

/// Draws masks of samples of `sample_len` elements, starting at sample 0 of `random`.
pub(crate) fn fill_mask(
    mask: &mut [f32],
    sample_len: usize,
    rate: DropRate,
    site: Site,
    random: &Random,
) {
    if sample_len == 0 {
        return;
    }
    let source = DropoutSource { rate, site, random: *random };
    for (sample, mask) in mask.chunks_exact_mut(sample_len).enumerate() {
        source.fill(sample, mask);
    }
}

/// Random numbers drawn at once, each for two elements.
const AT_ONCE: usize = 64;

impl DropoutSource {
    /// Draws a sample's mask, or its beginning.
    pub(crate) fn fill(self, sample: usize, mask: &mut [f32]) {
        let (threshold, keep) = (self.rate.threshold(), self.rate.keep());
        let mut stream = self.random.stream(self.site, sample as u32);
        // `move`: a value captured by reference is read again for every number.
        simd::dispatch(
            #[inline(always)]
            move || {
                let mut bits = [0; AT_ONCE];
                for group in mask.chunks_mut(2 * AT_ONCE) {
                    stream.fill(&mut bits[..group.len().div_ceil(2)]);
                    // The low half of each first, on any machine.
                    let halves: [u16; 2 * AT_ONCE] = pulp::cast(bits.map(u32::to_le));
                    for (m, half) in group.iter_mut().zip(&halves) {
                        *m = if u16::from_le(*half) < threshold { 0.0 } else { keep };
                    }
                }
            },
        );
    }
}

struct Dropout {
    rate: DropRate,
    site: Site,
    random: Random,
    mask: OnceLock<Vec<f32>>,
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let xs = slices::of_storage(xs, layout)?;
        let sample_len = layout.dims()[1..].iter().product();
        let mut mask = vec![0.0; xs.len()];
        fill_mask(&mut mask, sample_len, self.rate, self.site, &self.random);
        let ys = xs.iter().zip(&mask).map(|(x, m)| x * m).collect();
        // An operation runs forward once; its value lives in the graph until the backward pass.
        let _ = self.mask.set(mask);
        slices::output(ys, layout.shape().clone())
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mask = self.mask.get().expect("the forward pass ran before the backward pass");
        let grad = slices::upstream(grad)?;
        let values =
            slices::read(&grad, |grad| Ok(grad.iter().zip(mask).map(|(g, m)| g * m).collect()))?;
        slices::gradient(values, xs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, tensors};

    const SITE: Site = Site::named("test");

    fn rate(rate: f64) -> DropRate {
        DropRate::new(rate).expect("a rate in [0, 1)")
    }

    #[test]
    fn fused_equals_composed_forward_and_backward() -> Result<()> {
        let random = Random::new(1).at_step(2);
        for shape in [&[1][..], &[3, 1], &[2, 7], &[4, 3, 5]] {
            Case::new(&[shape])?.fused_equals_composed(
                |t| dropout(&t[0], rate(0.3), SITE, &random),
                |t| composed::dropout(&t[0], rate(0.3), SITE, &random),
            )?;
        }
        Ok(())
    }

    #[test]
    fn each_half_of_a_number_decides_an_element() {
        let source = DropoutSource { rate: rate(0.3), site: SITE, random: Random::new(1) };
        let (threshold, keep) = (source.rate.threshold(), source.rate.keep());
        let mut stream = source.random.stream(SITE, 2);
        let numbers = (0..150).map(|_| stream.next_u32());
        let want: Vec<f32> = numbers
            .flat_map(|number| [number & 0xFFFF, number >> 16])
            .map(|half| if half < threshold.into() { 0.0 } else { keep })
            .collect();
        for len in [1, 2, 127, 128, 129, 300] {
            let mut mask = vec![f32::NAN; len];
            source.fill(2, &mut mask);
            assert_eq!(mask, want[..len]);
        }
    }

    #[test]
    fn shard_has_the_whole_batchs_masks() -> Result<()> {
        let random = Random::new(1).at_step(2);
        let [xs] = tensors(&[&[6, 5, 4]])?;
        let whole = dropout(&xs, rate(0.5), SITE, &random)?;
        let shard = dropout(&xs.narrow(0, 2, 3)?, rate(0.5), SITE, &random.from_sample(2))?;
        assert_eq!(whole.narrow(0, 2, 3)?.to_vec3::<f32>()?, shard.to_vec3::<f32>()?);
        Ok(())
    }

    #[test]
    fn dropped_share_equals_the_rate_and_the_mean_is_kept() -> Result<()> {
        const COUNT: usize = 100_000;
        for p in [0.01, 0.2, 0.9] {
            let mask = dropout_mask(
                &[10, COUNT / 10],
                rate(p),
                SITE,
                &Random::new(3),
                DType::F32,
                &Device::Cpu,
            )?;
            let dropped =
                mask.flatten_all()?.to_vec1::<f32>()?.iter().filter(|&&m| m == 0.0).count();
            // Six standard deviations of a binomial share.
            let tolerance = 6.0 * (p * (1.0 - p) / COUNT as f64).sqrt();
            assert!((dropped as f64 / COUNT as f64 - p).abs() < tolerance, "{p} {dropped}");
        }
        Ok(())
    }

    #[test]
    fn rates_outside_zero_to_one_are_rejected() {
        for wrong in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(DropRate::new(wrong), None);
        }
    }
}
