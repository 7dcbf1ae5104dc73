//! Adam, AdamW and SGD with momentum, by PyTorch's formulas.

mod config;
mod update;

use std::ops::Range;

use candle_core::{CpuStorage, Device, Result, Shape, Storage, Tensor, Var, bail};
use rayon::prelude::*;

pub use self::config::{Decay, OptimizerConfig, OptimizerKind};
pub(crate) use self::update::Update;
use self::update::{InPlace, composed};
use crate::gradients::PARAMETERS_AT_ONCE;
use crate::{Error, Group, NamedVars};

/// Parameters with the optimiser's moments.
///
/// With gradient `g` at step `t`, Adam is `m = m + (1 - β₁)(g - m)`, `v = β₂ v + (1 - β₂) g²`,
/// `p = p - lr / (1 - β₁ᵗ) · m / (sqrt(v) / sqrt(1 - β₂ᵗ) + eps)`. SGD is `b = μ b + g`, `p = p - lr b`, or with
/// Nesterov's momentum `p = p - lr (g + μ b)`.
///
/// PyTorch equivalent: `torch.optim.Adam`, `torch.optim.AdamW`, `torch.optim.SGD`.
///
/// ```
/// use candle_core::{Device, Tensor, Var};
/// use vit_train::{Optimizer, OptimizerConfig};
///
/// # fn main() -> Result<(), vit_train::Error> {
/// let weight = Var::new(&[1.0_f64, -1.0], &Device::Cpu)?;
/// let parameters = vec![("weight".to_owned(), weight.clone())];
/// let mut optimizer = Optimizer::new(OptimizerConfig::sgd(0.1, 0.9), &parameters)?;
/// for _ in 0..2 {
///     optimizer.step(&[Tensor::new(&[1.0_f64, 0.0], &Device::Cpu)?])?;
/// }
/// // 0.1 in the first step, 0.1 (1 + 0.9) in the second.
/// assert!((weight.to_vec1::<f64>()?[0] - 0.71).abs() < 1e-15);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    step: u64,
    slots: Vec<Slot>,
}

/// A parameter with its settings and moments.
#[derive(Debug)]
struct Slot {
    var: Var,
    /// The range of elements to update; the moments cover only these.
    part: Range<usize>,
    group: Group,
    /// `None` before the first step.
    moments: Option<Moments>,
}

/// One tensor for each moment of the update rule, in the form its arithmetic uses.
#[derive(Debug)]
enum Moments {
    F32(Vec<Vec<f32>>),
    F64(Vec<Vec<f64>>),
    Tensors(Vec<Tensor>),
}

impl Optimizer {
    /// An optimiser before its first step.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn new(
        config: OptimizerConfig,
        parameters: &NamedVars,
    ) -> std::result::Result<Self, Error> {
        Self::with_groups(config, parameters, |_, _| Group::new())
    }

    /// Like [`new`](Self::new), with a [`Group`] for each parameter chosen from its name and value.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn with_groups(
        config: OptimizerConfig,
        parameters: &NamedVars,
        groups: impl Fn(&str, &Tensor) -> Group,
    ) -> std::result::Result<Self, Error> {
        let groups = parameters.iter().map(|(name, var)| groups(name, var)).collect::<Vec<_>>();
        Self::of(config, parameters, &groups)
    }

    /// Like [`new`](Self::new), with the groups in the order of the parameters.
    pub(crate) fn of(
        config: OptimizerConfig,
        parameters: &NamedVars,
        groups: &[Group],
    ) -> std::result::Result<Self, Error> {
        config.check()?;
        groups.iter().try_for_each(Group::check)?;
        let slots = parameters.iter().zip(groups);
        let slots = slots.map(|((_, var), group)| Slot {
            var: var.clone(),
            part: 0..var.elem_count(),
            group: *group,
            moments: None,
        });
        Ok(Self { config, step: 0, slots: slots.collect() })
    }

    /// Restricts the optimiser to these elements of each parameter: [`step`](Self::step) then takes their gradients as
    /// flat tensors, and [`moments`](Self::moments) returns their moments.
    pub(crate) fn of_parts(mut self, parts: Vec<Range<usize>>) -> Self {
        for (slot, part) in self.slots.iter_mut().zip(parts) {
            slot.part = part;
        }
        self
    }

    /// The moments on the CPU, each kind in the parameters' order: for Adam the first and second, for SGD the momentum
    /// if it has any; empty before the first step. Together with the number of steps they are the optimiser's whole
    /// state.
    ///
    /// PyTorch equivalent: `exp_avg` and `exp_avg_sq`, or `momentum_buffer`, of `optimizer.state_dict()`.
    ///
    /// # Errors
    /// If they cannot be copied from their device.
    pub fn moments(&self) -> Result<Vec<Vec<Tensor>>> {
        let mut all = vec![Vec::with_capacity(self.slots.len()); self.config.moments()];
        for slot in &self.slots {
            let moments = match &slot.moments {
                Some(moments) => moments.tensors(&slot.shape())?,
                None if slot.group.frozen => vec![slot.var.zeros_like()?; all.len()],
                None if slot.part.is_empty() => {
                    vec![Tensor::zeros(0, slot.var.dtype(), slot.var.device())?; all.len()]
                }
                None => return Ok(Vec::new()),
            };
            for (all, moment) in all.iter_mut().zip(moments) {
                all.push(moment);
            }
        }
        Ok(all)
    }

    /// Continues after `step` steps with the result of [`moments`](Self::moments).
    ///
    /// PyTorch equivalent: `optimizer.load_state_dict()`.
    ///
    /// # Errors
    /// If the number of moments does not match the update rule and the parameters, or one has another shape.
    pub fn resume(&mut self, step: u64, moments: &[Vec<Tensor>]) -> Result<()> {
        self.step = step;
        if moments.is_empty() {
            self.slots.iter_mut().for_each(|slot| slot.moments = None);
            return Ok(());
        }
        let (kinds, parameters) = (self.config.moments(), self.slots.len());
        if moments.len() != kinds {
            bail!("optimiser: expected {kinds} moments for each parameter, got {}", moments.len());
        }
        if let Some(of) = moments.iter().find(|of| of.len() != parameters) {
            bail!("optimiser: expected the moments of {parameters} parameters, got {}", of.len());
        }
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let moments: Vec<&Tensor> = moments.iter().map(|of| &of[index]).collect();
            slot.moments = Some(Moments::of(slot, &moments)?);
        }
        Ok(())
    }

    /// The learning rate of the next step, before a group's scale.
    #[must_use]
    pub const fn lr(&self) -> f64 {
        self.config.lr
    }

    /// Sets the learning rate from the next step on.
    pub const fn set_lr(&mut self, lr: f64) {
        self.config.lr = lr;
    }

    /// Updates each parameter with its gradient; both are in the order given to [`new`](Self::new). Gradients of frozen
    /// parameters are ignored.
    ///
    /// # Errors
    /// If the numbers of gradients and parameters differ, or a gradient has another shape.
    pub fn step(&mut self, gradients: &[Tensor]) -> Result<()> {
        if gradients.len() != self.slots.len() {
            bail!("optimiser: expected {} gradients, got {}", self.slots.len(), gradients.len());
        }
        self.step += 1;
        let (config, step) = (self.config, self.step);
        let each = self.slots.par_iter_mut().zip(gradients).with_min_len(PARAMETERS_AT_ONCE);
        each.try_for_each(|(slot, gradient)| {
            if *gradient.shape() != slot.shape() {
                let (want, got) = (slot.shape(), gradient.shape());
                bail!("optimiser: expected a gradient of shape {want:?}, got {got:?}");
            }
            slot.step(&config, step, gradient)
        })
    }
}

/// Chooses between the arithmetic on slices and on tensors.
macro_rules! by_storage {
    ($var:expr, $f32:expr, $f64:expr, $other:expr) => {{
        let (storage, _) = $var.storage_and_layout();
        match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => Moments::F32($f32),
            Storage::Cpu(CpuStorage::F64(_)) => Moments::F64($f64),
            _ => Moments::Tensors($other),
        }
    }};
}

impl Moments {
    fn zeros(slot: &Slot, count: usize) -> Result<Self> {
        let (var, len) = (&slot.var, slot.part.len());
        Ok(by_storage!(
            var,
            vec![vec![0.0; len]; count],
            vec![vec![0.0; len]; count],
            (0..count).map(|_| var.zeros_like()).collect::<Result<_>>()?
        ))
    }

    /// A parameter's moments, given as tensors on any device.
    fn of(slot: &Slot, moments: &[&Tensor]) -> Result<Self> {
        let Slot { var, part, .. } = slot;
        let moments = moments.iter().map(|moment| {
            if moment.shape() != var.shape() {
                let (want, got) = (var.shape(), moment.shape());
                bail!("optimiser: expected a moment of shape {want:?}, got {got:?}");
            }
            let moment = moment.to_dtype(var.dtype())?.to_device(var.device())?;
            if slot.is_whole() {
                return Ok(moment);
            }
            moment.flatten_all()?.narrow(0, part.start, part.len())
        });
        let moments = moments.collect::<Result<Vec<_>>>()?;
        let each = moments.iter();
        Ok(by_storage!(
            var,
            each.map(|moment| moment.flatten_all()?.to_vec1()).collect::<Result<_>>()?,
            each.map(|moment| moment.flatten_all()?.to_vec1()).collect::<Result<_>>()?,
            each.map(Tensor::copy).collect::<Result<_>>()?
        ))
    }

    fn tensors(&self, shape: &Shape) -> Result<Vec<Tensor>> {
        let cpu = &Device::Cpu;
        match self {
            Self::F32(of) => {
                of.iter().map(|of| Tensor::from_slice(of, shape.clone(), cpu)).collect()
            }
            Self::F64(of) => {
                of.iter().map(|of| Tensor::from_slice(of, shape.clone(), cpu)).collect()
            }
            Self::Tensors(of) => of.iter().map(|of| of.to_device(cpu)).collect(),
        }
    }
}

impl Slot {
    fn is_whole(&self) -> bool {
        self.part.len() == self.var.elem_count()
    }

    /// Shape of the gradient and the moments.
    fn shape(&self) -> Shape {
        if self.is_whole() { self.var.shape().clone() } else { self.part.len().into() }
    }

    fn step(&mut self, config: &OptimizerConfig, step: u64, gradient: &Tensor) -> Result<()> {
        if self.group.frozen || self.part.is_empty() {
            return Ok(());
        }
        let weight_decay = self.group.decay(config, self.var.rank());
        let update = Update::new(config, step, config.lr * self.group.lr_scale, weight_decay);
        if self.moments.is_none() {
            self.moments = Some(Moments::zeros(self, config.moments())?);
        }
        let moments = self.moments.as_mut().expect("set above");
        let gradient = (gradient, self.part.start);
        match moments {
            Moments::F32(moments) => {
                let op = InPlace::new(update.map(|x| x as f32), gradient, moments);
                self.var.inplace_op1(&op)
            }
            Moments::F64(moments) => {
                self.var.inplace_op1(&InPlace::new(update.map(|x| x), gradient, moments))
            }
            Moments::Tensors(moments) => composed::step(&self.var, gradient.0, moments, &update),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    fn parameters(dtype: DType) -> Result<NamedVars> {
        let values = Tensor::new(&[0.5_f64, -1.0, 2.0], &Device::Cpu)?.to_dtype(dtype)?;
        Ok(vec![("p".to_owned(), Var::from_tensor(&values)?)])
    }

    fn gradient(step: u64, dtype: DType) -> Result<Tensor> {
        let t = step as f64;
        Tensor::new(&[t.sin(), 0.1 * t, -1e-3], &Device::Cpu)?.to_dtype(dtype)
    }

    fn kinds() -> [OptimizerConfig; 5] {
        let sgd = OptimizerConfig { weight_decay: 0.05, ..OptimizerConfig::sgd(0.1, 0.9) };
        [
            OptimizerConfig::adam(0.1),
            OptimizerConfig::adamw(0.1, 0.05),
            sgd,
            OptimizerConfig { nesterov: true, ..sgd },
            OptimizerConfig { momentum: 0.0, ..sgd },
        ]
    }

    #[test]
    fn in_place_and_composed_steps_agree() -> std::result::Result<(), Error> {
        for config in kinds() {
            let (fused, composed) = (parameters(DType::F64)?, parameters(DType::F64)?);
            let mut optimizer = Optimizer::new(config, &fused)?;
            let var = &composed[0].1;
            let mut moments = vec![var.zeros_like()?; config.moments()];
            for step in 1..=10 {
                let gradient = gradient(step, DType::F64)?;
                optimizer.step(std::slice::from_ref(&gradient))?;
                let update = Update::new(&config, step, config.lr, config.weight_decay);
                composed::step(var, &gradient, &mut moments, &update)?;
            }
            let [fused, composed] = [&fused[0].1, var].map(|var| var.to_vec1::<f64>());
            for (fused, composed) in fused?.into_iter().zip(composed?) {
                assert!((fused - composed).abs() < 1e-14, "{config:?}: {fused} {composed}");
            }
        }
        Ok(())
    }

    #[test]
    fn resuming_from_moments_is_bit_identical() -> std::result::Result<(), Error> {
        for (dtype, config) in [DType::F32, DType::F64, DType::BF16]
            .into_iter()
            .flat_map(|dtype| kinds().map(|config| (dtype, config)))
        {
            let (whole, parted) = (parameters(dtype)?, parameters(dtype)?);
            let mut optimizer = Optimizer::new(config, &whole)?;
            assert!(config.moments() == 0 || optimizer.moments()?.is_empty());
            for step in 1..=6 {
                optimizer.step(&[gradient(step, dtype)?])?;
            }
            let mut first = Optimizer::new(config, &parted)?;
            for step in 1..=3 {
                first.step(&[gradient(step, dtype)?])?;
            }
            let mut second = Optimizer::new(config, &parted)?;
            second.resume(3, &first.moments()?)?;
            for step in 4..=6 {
                second.step(&[gradient(step, dtype)?])?;
            }
            let [whole, parted] =
                [&whole, &parted].map(|of| of[0].1.to_dtype(DType::F64)?.to_vec1::<f64>());
            assert_eq!(whole?, parted?, "{dtype:?} {config:?}");
        }
        Ok(())
    }

    #[test]
    fn moments_of_other_parameters_are_rejected() -> std::result::Result<(), Error> {
        let parameters = parameters(DType::F32)?;
        let mut optimizer = Optimizer::new(OptimizerConfig::adam(0.1), &parameters)?;
        let mut refused =
            |moments: &[Vec<Tensor>]| optimizer.resume(1, moments).unwrap_err().to_string();
        let moment = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
        let error = refused(&[vec![moment.clone()], vec![moment.clone()]]);
        assert!(error.contains("expected a moment of shape [3], got [2]"), "{error}");
        let error = refused(&[vec![moment]]);
        assert!(error.contains("expected 2 moments for each parameter, got 1"), "{error}");
        let error = refused(&[vec![], vec![]]);
        assert!(error.contains("expected the moments of 1 parameters, got 0"), "{error}");
        Ok(())
    }

    #[test]
    fn groups_set_rate_and_decay_and_freeze() -> std::result::Result<(), Error> {
        let one = |shape: &[usize]| Var::ones(shape, DType::F64, &Device::Cpu);
        let shapes: [(&str, &[usize]); 6] = [
            ("bias", &[2]),
            ("decaying bias", &[2]),
            ("frozen", &[2, 1]),
            ("pos", &[1, 2]),
            ("slow", &[2, 1]),
            ("w", &[2, 1]),
        ];
        let parameters = shapes.map(|(name, shape)| Ok((name.to_owned(), one(shape)?)));
        let parameters = parameters.into_iter().collect::<Result<NamedVars>>()?;
        let zeros = parameters.iter().map(|(_, var)| var.zeros_like());
        let config = OptimizerConfig { decay: Decay::Matrices, ..OptimizerConfig::adamw(0.5, 0.1) };
        let groups = |name: &str, _: &Tensor| match name {
            "decaying bias" => Group::new().with_weight_decay(0.1),
            "frozen" => Group::frozen(),
            "pos" => Group::new().with_weight_decay(0.0),
            "slow" => Group::new().with_lr_scale(0.5),
            _ => Group::new(),
        };
        Optimizer::with_groups(config, &parameters, groups)?
            .step(&zeros.collect::<Result<Vec<_>>>()?)?;
        let expected = [1.0, 0.95, 1.0, 1.0, 0.975, 0.95];
        for ((name, var), expected) in parameters.iter().zip(expected) {
            assert_eq!(var.flatten_all()?.to_vec1::<f64>()?, [expected; 2], "{name}");
        }
        Ok(())
    }

    #[test]
    fn the_first_step_of_adam_is_the_learning_rate() -> std::result::Result<(), Error> {
        let parameters = parameters(DType::F32)?;
        Optimizer::new(OptimizerConfig::adam(0.01), &parameters)?
            .step(&[gradient(1, DType::F32)?])?;
        for (moved, begun) in parameters[0].1.to_vec1::<f32>()?.into_iter().zip([0.5, -1.0, 2.0]) {
            assert!(((moved - begun).abs() - 0.01_f32).abs() < 1e-6, "{moved} {begun}");
        }
        Ok(())
    }

    #[test]
    fn out_of_range_settings_are_named() {
        let message = |config: OptimizerConfig| config.check().unwrap_err().to_string();
        assert_eq!(message(OptimizerConfig::adam(-1.0)), "expected lr of at least 0, got -1");
        assert_eq!(message(OptimizerConfig::adam(f64::NAN)), "expected lr of at least 0, got NaN");
        let config = OptimizerConfig { beta2: 1.0, ..OptimizerConfig::adam(0.1) };
        assert_eq!(message(config), "expected beta2 in [0, 1), got 1");
        let config = OptimizerConfig { momentum: 0.9, ..OptimizerConfig::adam(0.1) };
        assert_eq!(message(config), "expected momentum only with kind sgd, got 0.9");
        let config = OptimizerConfig { nesterov: true, ..OptimizerConfig::sgd(0.1, 0.0) };
        assert_eq!(message(config), "expected momentum above 0 with nesterov, got 0");
    }
}
