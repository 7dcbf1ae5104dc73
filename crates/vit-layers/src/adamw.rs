//! AdamW in one pass over each parameter.

use candle_core::backprop::GradStore;
use candle_core::{DType, Result, Tensor, Var};
use candle_nn::{Optimizer, ParamsAdamW};
use vit_ops::{AdamStep, adam_step};

/// candle-nn's `AdamW` in one multi-threaded pass over each parameter, without temporary tensors.
///
/// It takes the same [`ParamsAdamW`]; with `weight_decay: 0.0` it is Adam. A variable without a gradient stays as it
/// is.
/// `vit-train`'s optimiser also saves its state.
///
/// PyTorch equivalent: `torch.optim.AdamW(fused=True)`.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use candle_nn::{Optimizer, ParamsAdamW};
/// use vit_layers::{AdamW, Encoder, EncoderConfig, Mode, Parameters};
///
/// # fn main() -> candle_core::Result<()> {
/// let parameters = Parameters::seeded(42);
/// let encoder = Encoder::new(&EncoderConfig::new(8, 1, 2), &parameters.builder(DType::F32, &Device::Cpu))?;
/// let vars = parameters.sorted().into_iter().map(|(_name, var)| var).collect();
/// let mut adam = AdamW::new(vars, ParamsAdamW { lr: 1e-3, ..Default::default() })?;
/// let xs = Tensor::ones((2, 5, 8), DType::F32, &Device::Cpu)?;
/// adam.backward_step(&encoder.forward(&xs, Mode::Eval)?.sqr()?.mean_all()?)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AdamW {
    params: ParamsAdamW,
    step: u64,
    slots: Vec<Slot>,
}

/// A variable and its moments.
#[derive(Debug)]
struct Slot {
    var: Var,
    moments: Moments,
}

#[derive(Debug)]
enum Moments {
    /// For `f32` on the CPU.
    Slices([Vec<f32>; 2]),
    Tensors([Tensor; 2]),
}

impl Moments {
    fn zeros(var: &Var) -> Result<Self> {
        if var.device().is_cpu() && var.dtype() == DType::F32 {
            return Ok(Self::Slices([(); 2].map(|()| vec![0.0; var.elem_count()])));
        }
        Ok(Self::Tensors([var.zeros_like()?, var.zeros_like()?]))
    }
}

impl Slot {
    fn step(&mut self, gradient: &Tensor, numbers: &AdamStep) -> Result<()> {
        match &mut self.moments {
            Moments::Slices(moments) => adam_step(&self.var, gradient, moments, numbers),
            Moments::Tensors([m, v]) => composed(&self.var, gradient, (m, v), numbers),
        }
    }
}

/// The same step from candle's tensor operations.
fn composed(
    var: &Var,
    gradient: &Tensor,
    (m, v): (&mut Tensor, &mut Tensor),
    numbers: &AdamStep,
) -> Result<()> {
    let AdamStep { step, lr, beta1, beta2, eps, weight_decay } = *numbers;
    let power = |beta: f64| beta.powf(step as f64);
    *m = (&*m + ((gradient - &*m)? * (1.0 - beta1))?)?;
    *v = ((&*v * beta2)? + (gradient.sqr()? * (1.0 - beta2))?)?;
    let scale = ((v.sqrt()? / (1.0 - power(beta2)).sqrt())? + eps)?;
    let moved = ((&*m / scale)? * (lr / (1.0 - power(beta1))))?;
    var.set(&((var.as_tensor() * (1.0 - lr * weight_decay))? - moved)?)
}

impl Optimizer for AdamW {
    type Config = ParamsAdamW;

    /// # Errors
    /// If the device has no memory for the moments.
    fn new(vars: Vec<Var>, params: ParamsAdamW) -> Result<Self> {
        let vars = vars.into_iter().filter(|var| var.dtype().is_float());
        let slots = vars.map(|var| Ok(Slot { moments: Moments::zeros(&var)?, var }));
        Ok(Self { params, step: 0, slots: slots.collect::<Result<_>>()? })
    }

    fn step(&mut self, gradients: &GradStore) -> Result<()> {
        self.step += 1;
        let ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = self.params;
        let numbers = AdamStep { step: self.step, lr, beta1, beta2, eps, weight_decay };
        for slot in &mut self.slots {
            if let Some(gradient) = gradients.get(&slot.var) {
                slot.step(gradient, &numbers)?;
            }
        }
        Ok(())
    }

    fn learning_rate(&self) -> f64 {
        self.params.lr
    }

    fn set_learning_rate(&mut self, lr: f64) {
        self.params.lr = lr;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Five steps towards the minimum of `(x - 1)²` from fixed values.
    fn trained<O: Optimizer<Config = ParamsAdamW>>(dtype: DType) -> Result<Vec<f64>> {
        let start: Vec<f64> = (0..7).map(|i| f64::from(i) * 0.3 - 1.0).collect();
        let var = Var::from_tensor(&Tensor::new(start, &Device::Cpu)?.to_dtype(dtype)?)?;
        let mut adam = O::new(vec![var.clone()], ParamsAdamW { lr: 0.1, ..Default::default() })?;
        for _ in 0..5 {
            adam.backward_step(&(var.as_tensor() - 1.0)?.sqr()?.sum_all()?)?;
        }
        var.to_dtype(DType::F64)?.to_vec1()
    }

    #[test]
    fn steps_equal_candle_nns_in_every_dtype() -> Result<()> {
        #[expect(clippy::disallowed_types, reason = "the oracle")]
        type Oracle = candle_nn::AdamW;
        let want = trained::<Oracle>(DType::F64)?;
        for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-12)] {
            for (got, want) in trained::<AdamW>(dtype)?.iter().zip(&want) {
                assert!((got - want).abs() < tolerance, "{dtype:?}: {got} {want}");
            }
        }
        Ok(())
    }
}
