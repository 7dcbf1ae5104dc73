//! Adam (Kingma, Ba, arXiv 1412.6980) and AdamW (Loshchilov, Hutter, arXiv 1711.05101), to PyTorch's formulas.

mod config;
mod update;

use candle_core::{CpuStorage, Device, Result, Shape, Storage, Tensor, Var, bail};
use rayon::prelude::*;

pub use self::config::{Decay, OptimizerConfig, OptimizerKind};
use self::update::{InPlace, Update, composed};
use crate::gradients::PARAMETERS_AT_ONCE;
use crate::{Error, Parameters};

/// Parameters with their moments.
///
/// With gradient `g` at step `t`: `m = m + (1 - β₁)(g - m)`, `v = β₂ v + (1 - β₂) g²`,
/// `p = p - lr / (1 - β₁ᵗ) · m / (sqrt(v) / sqrt(1 - β₂ᵗ) + eps)`.
///
/// PyTorch equivalent: `torch.optim.Adam`, `torch.optim.AdamW`.
#[derive(Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    step: u64,
    slots: Vec<Slot>,
}

/// A parameter and its moments.
#[derive(Debug)]
struct Slot {
    var: Var,
    decays: bool,
    /// None before the first step.
    moments: Option<Moments>,
}

/// First and second moment, where they are used.
#[derive(Debug)]
enum Moments {
    F32(Vec<f32>, Vec<f32>),
    F64(Vec<f64>, Vec<f64>),
    Tensors(Tensor, Tensor),
}

impl Optimizer {
    /// An optimiser that has taken no step.
    ///
    /// # Errors
    /// If a setting is out of range.
    pub fn new(
        config: OptimizerConfig,
        parameters: &Parameters,
    ) -> std::result::Result<Self, Error> {
        Self::sparing(config, parameters, &[])
    }

    /// The same; [`Decay::Matrices`] leaves the parameters of these names alone too.
    ///
    /// PyTorch equivalent: two groups of parameters, one with `weight_decay=0`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn sparing(
        config: OptimizerConfig,
        parameters: &Parameters,
        spared: &[&str],
    ) -> std::result::Result<Self, Error> {
        config.check()?;
        let slots = parameters.iter().map(|(name, var)| {
            let decays = config.decay.acts_on(name, var.rank(), spared);
            Slot { var: var.clone(), decays, moments: None }
        });
        Ok(Self { config, step: 0, slots: slots.collect() })
    }

    /// Whether weight decay acts on each parameter.
    #[cfg(feature = "cuda")]
    pub(crate) fn decays(&self) -> impl Iterator<Item = bool> {
        self.slots.iter().map(|slot| slot.decays)
    }

    /// The numbers of a step (from 1) at this learning rate, for parameters that decay and for those that do not.
    #[cfg(feature = "cuda")]
    pub(crate) fn updates(&self, step: u64, lr: f64) -> [vit_ops::cuda::AdamUpdate; 2] {
        let with = OptimizerConfig { lr, ..self.config };
        let without = OptimizerConfig { weight_decay: 0.0, ..with };
        [with, without].map(|config| Update::new(&config, step).on_gpu())
    }

    /// The first and second moment of each parameter, in the order given to [`new`](Self::new), on the CPU; none before
    /// the first step. With the number of steps they are all that an optimiser remembers.
    ///
    /// PyTorch equivalent: `exp_avg` and `exp_avg_sq` of `optimizer.state_dict()`.
    ///
    /// # Errors
    /// If they cannot be read from their device.
    pub fn moments(&self) -> Result<Option<Vec<[Tensor; 2]>>> {
        let each = self.slots.iter().map(|slot| {
            let moments = slot.moments.as_ref();
            moments.map(|moments| moments.tensors(slot.var.shape())).transpose()
        });
        each.collect::<Result<Option<_>>>()
    }

    /// Goes on after so many steps with their moments, as [`moments`](Self::moments) gave them.
    ///
    /// PyTorch equivalent: `optimizer.load_state_dict()`.
    ///
    /// # Errors
    /// If there are not as many as parameters, or one has another shape.
    pub fn resume(&mut self, step: u64, moments: Option<&[[Tensor; 2]]>) -> Result<()> {
        self.step = step;
        let Some(moments) = moments else {
            self.slots.iter_mut().for_each(|slot| slot.moments = None);
            return Ok(());
        };
        if moments.len() != self.slots.len() {
            let (want, got) = (self.slots.len(), moments.len());
            bail!("optimiser: expected the moments of {want} parameters, got {got}");
        }
        for (slot, moments) in self.slots.iter_mut().zip(moments) {
            slot.moments = Some(Moments::of(&slot.var, moments)?);
        }
        Ok(())
    }

    /// The learning rate of the next step.
    #[must_use]
    pub const fn lr(&self) -> f64 {
        self.config.lr
    }

    /// Sets the learning rate of the next step and those after it.
    pub const fn set_lr(&mut self, lr: f64) {
        self.config.lr = lr;
    }

    /// Moves each parameter by its gradient; both are in the order given to [`new`](Self::new).
    ///
    /// # Errors
    /// If there are not as many gradients as parameters, or a gradient has another shape.
    pub fn step(&mut self, gradients: &[Tensor]) -> Result<()> {
        if gradients.len() != self.slots.len() {
            bail!("optimiser: expected {} gradients, got {}", self.slots.len(), gradients.len());
        }
        self.step += 1;
        let update = Update::new(&self.config, self.step);
        let without = OptimizerConfig { weight_decay: 0.0, ..self.config };
        let without_decay = Update::new(&without, self.step);
        let each = self.slots.par_iter_mut().zip(gradients).with_min_len(PARAMETERS_AT_ONCE);
        each.try_for_each(|(slot, gradient)| {
            if gradient.shape() != slot.var.shape() {
                let (want, got) = (slot.var.shape(), gradient.shape());
                bail!("optimiser: expected a gradient of shape {want:?}, got {got:?}");
            }
            slot.step(gradient, if slot.decays { &update } else { &without_decay })
        })
    }
}

impl Moments {
    fn zeros(var: &Var) -> Result<Self> {
        let len = var.elem_count();
        let (storage, _) = var.storage_and_layout();
        Ok(match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => Self::F32(vec![0.0; len], vec![0.0; len]),
            Storage::Cpu(CpuStorage::F64(_)) => Self::F64(vec![0.0; len], vec![0.0; len]),
            _ => Self::Tensors(var.zeros_like()?, var.zeros_like()?),
        })
    }

    /// Those of a parameter, given as tensors on any device.
    fn of(var: &Var, moments: &[Tensor; 2]) -> Result<Self> {
        let [m, v] = moments.each_ref().map(|moment| {
            if moment.shape() != var.shape() {
                let (want, got) = (var.shape(), moment.shape());
                bail!("optimiser: expected a moment of shape {want:?}, got {got:?}");
            }
            moment.to_dtype(var.dtype())?.to_device(var.device())
        });
        let (m, v) = (m?, v?);
        let (storage, _) = var.storage_and_layout();
        Ok(match &*storage {
            Storage::Cpu(CpuStorage::F32(_)) => {
                Self::F32(m.flatten_all()?.to_vec1()?, v.flatten_all()?.to_vec1()?)
            }
            Storage::Cpu(CpuStorage::F64(_)) => {
                Self::F64(m.flatten_all()?.to_vec1()?, v.flatten_all()?.to_vec1()?)
            }
            _ => Self::Tensors(m.copy()?, v.copy()?),
        })
    }

    fn tensors(&self, shape: &Shape) -> Result<[Tensor; 2]> {
        let cpu = &Device::Cpu;
        Ok(match self {
            Self::F32(m, v) => [
                Tensor::from_slice(m, shape.clone(), cpu)?,
                Tensor::from_slice(v, shape.clone(), cpu)?,
            ],
            Self::F64(m, v) => [
                Tensor::from_slice(m, shape.clone(), cpu)?,
                Tensor::from_slice(v, shape.clone(), cpu)?,
            ],
            Self::Tensors(m, v) => [m.to_device(cpu)?, v.to_device(cpu)?],
        })
    }
}

impl Slot {
    fn step(&mut self, gradient: &Tensor, update: &Update) -> Result<()> {
        let moments = match &mut self.moments {
            Some(moments) => moments,
            none => none.insert(Moments::zeros(&self.var)?),
        };
        match moments {
            Moments::F32(m, v) => {
                let op = InPlace::new(update.map(|x| x as f32), gradient, m, v);
                self.var.inplace_op1(&op)
            }
            Moments::F64(m, v) => {
                let op = InPlace::new(update.map(|x| x), gradient, m, v);
                self.var.inplace_op1(&op)
            }
            Moments::Tensors(m, v) => composed::step(&self.var, gradient, m, v, update),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::DType;

    fn parameters(dtype: DType) -> Result<Parameters> {
        let values = Tensor::new(&[0.5_f64, -1.0, 2.0], &Device::Cpu)?.to_dtype(dtype)?;
        Ok(vec![("p".to_owned(), Var::from_tensor(&values)?)])
    }

    fn gradient(step: u64, dtype: DType) -> Result<Tensor> {
        let t = step as f64;
        Tensor::new(&[t.sin(), 0.1 * t, -1e-3], &Device::Cpu)?.to_dtype(dtype)
    }

    #[test]
    fn in_place_and_composed_steps_agree() -> std::result::Result<(), Error> {
        for config in [OptimizerConfig::adam(0.1), OptimizerConfig::adamw(0.1, 0.05)] {
            let (fused, composed) = (parameters(DType::F64)?, parameters(DType::F64)?);
            let mut optimizer = Optimizer::new(config, &fused)?;
            let var = &composed[0].1;
            let (mut m, mut v) = (var.zeros_like()?, var.zeros_like()?);
            for step in 1..=10 {
                let gradient = gradient(step, DType::F64)?;
                optimizer.step(std::slice::from_ref(&gradient))?;
                composed::step(var, &gradient, &mut m, &mut v, &Update::new(&config, step))?;
            }
            let [fused, composed] = [&fused[0].1, var].map(|var| var.to_vec1::<f64>());
            for (fused, composed) in fused?.into_iter().zip(composed?) {
                assert!((fused - composed).abs() < 1e-14, "{fused} {composed}");
            }
        }
        Ok(())
    }

    #[test]
    fn an_optimiser_goes_on_from_its_moments_to_the_bit() -> std::result::Result<(), Error> {
        for dtype in [DType::F32, DType::F64, DType::BF16] {
            let (whole, parted) = (parameters(dtype)?, parameters(dtype)?);
            let config = OptimizerConfig::adamw(0.1, 0.05);
            let mut optimizer = Optimizer::new(config, &whole)?;
            assert!(optimizer.moments()?.is_none());
            for step in 1..=6 {
                optimizer.step(&[gradient(step, dtype)?])?;
            }
            let mut first = Optimizer::new(config, &parted)?;
            for step in 1..=3 {
                first.step(&[gradient(step, dtype)?])?;
            }
            let mut second = Optimizer::new(config, &parted)?;
            second.resume(3, first.moments()?.as_deref())?;
            for step in 4..=6 {
                second.step(&[gradient(step, dtype)?])?;
            }
            let [whole, parted] =
                [&whole, &parted].map(|of| of[0].1.to_dtype(DType::F64)?.to_vec1::<f64>());
            assert_eq!(whole?, parted?, "{dtype:?}");
        }
        Ok(())
    }

    #[test]
    fn moments_of_other_parameters_are_refused() -> std::result::Result<(), Error> {
        let parameters = parameters(DType::F32)?;
        let mut optimizer = Optimizer::new(OptimizerConfig::adam(0.1), &parameters)?;
        let moment = Tensor::zeros(2, DType::F32, &Device::Cpu)?;
        let error = optimizer.resume(1, Some(&[[moment.clone(), moment]])).unwrap_err();
        assert!(error.to_string().contains("expected a moment of shape [3], got [2]"), "{error}");
        assert!(optimizer.resume(1, Some(&[])).is_err());
        Ok(())
    }

    #[test]
    fn norms_biases_and_what_is_named_do_not_decay() -> std::result::Result<(), Error> {
        let one = |shape: &[usize]| Var::ones(shape, DType::F64, &Device::Cpu);
        let shapes: [(&str, &[usize]); 3] = [("b", &[2]), ("pos", &[1, 2]), ("w", &[2, 1])];
        let parameters = shapes.map(|(name, shape)| Ok((name.to_owned(), one(shape)?)));
        let parameters = parameters.into_iter().collect::<Result<Parameters>>()?;
        let zeros = parameters.iter().map(|(_, var)| var.zeros_like());
        let config = OptimizerConfig { decay: Decay::Matrices, ..OptimizerConfig::adamw(0.5, 0.1) };
        Optimizer::sparing(config, &parameters, &["pos"])?
            .step(&zeros.collect::<Result<Vec<_>>>()?)?;
        for ((name, var), expected) in parameters.iter().zip([1.0, 1.0, 0.95]) {
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
    fn settings_out_of_range_are_named() {
        let message = |config: OptimizerConfig| config.check().unwrap_err().to_string();
        assert_eq!(message(OptimizerConfig::adam(-1.0)), "expected lr of at least 0, got -1");
        assert_eq!(message(OptimizerConfig::adam(f64::NAN)), "expected lr of at least 0, got NaN");
        let config = OptimizerConfig { beta2: 1.0, ..OptimizerConfig::adam(0.1) };
        assert_eq!(message(config), "expected beta2 in [0, 1), got 1");
    }
}
