//! Exponential moving average (EMA) of the parameters (Polyak, Juditsky, 1992).

use candle_core::{Result, Var};
use rayon::prelude::*;

use crate::NamedVars;
use crate::gradients::PARAMETERS_AT_ONCE;

/// `e = e + (1 - d) (p - e)` after each step, with `d = min(decay, n / (n + 9))` after `n` earlier steps: the first
/// step copies the parameters, and random initial values soon have no weight.
///
/// PyTorch equivalent: `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn(d)`.
#[derive(Debug)]
pub(crate) struct Averages {
    decay: f64,
    /// In the order of the trained parameters.
    averages: NamedVars,
}

impl Averages {
    /// Averages over no steps yet, initialised with the parameters.
    pub(crate) fn new(decay: f64, trained: &NamedVars) -> Result<Self> {
        // A copy: a variable of the same tensor would share its storage.
        let copy = |var: &Var| Var::from_tensor(&var.as_detached_tensor().copy()?);
        let averages = trained.iter().map(|(name, var)| Ok((name.clone(), copy(var)?)));
        Ok(Self { decay, averages: averages.collect::<Result<_>>()? })
    }

    /// The averages, under the names of the parameters.
    pub(crate) const fn parameters(&self) -> &NamedVars {
        &self.averages
    }

    /// Weight of the parameters in the update after `before` earlier steps: `1 - d`.
    pub(crate) fn share(&self, before: u64) -> f64 {
        let before = before as f64;
        1.0 - self.decay.min(before / (before + 9.0))
    }

    /// Updates the averages after step `step`, counted from 1 over all averaged steps.
    pub(crate) fn update(&self, step: u64, trained: &NamedVars) -> Result<()> {
        let share = self.share(step - 1);
        let each = self.averages.par_iter().zip(trained).with_min_len(PARAMETERS_AT_ONCE);
        each.try_for_each(|((_, average), (_, var))| {
            let old = average.as_detached_tensor();
            let moved = ((var.as_detached_tensor() - &old)? * share)?;
            average.set(&(old + moved)?)
        })
    }

    /// Exchanges the values of parameters and averages; doing it twice restores both.
    pub(crate) fn swap(&self, trained: &NamedVars) -> Result<()> {
        for ((_, average), (_, var)) in self.averages.iter().zip(trained) {
            let value = var.as_detached_tensor().copy()?;
            var.set(&average.as_detached_tensor())?;
            average.set(&value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn parameters(value: f64) -> Result<NamedVars> {
        Ok(vec![("p".to_owned(), Var::new(&[value], &Device::Cpu)?)])
    }

    fn value(parameters: &NamedVars) -> Result<f64> {
        parameters[0].1.squeeze(0)?.to_scalar()
    }

    #[test]
    fn the_average_follows_its_formula() -> Result<()> {
        let parameters = parameters(7.0)?;
        let averages = Averages::new(0.15, &parameters)?;
        let mut expected = 7.0;
        // Decays of 0, 1/10, then 2/11, which is above the requested 0.15.
        for (step, decay) in [(1_u32, 0.0), (2, 0.1), (3, 0.15), (4, 0.15)] {
            let trained = f64::from(step).sin();
            parameters[0].1.set(&candle_core::Tensor::new(&[trained], &Device::Cpu)?)?;
            averages.update(step.into(), &parameters)?;
            expected = decay * expected + (1.0 - decay) * trained;
            assert!((value(averages.parameters())? - expected).abs() < 1e-15);
        }
        Ok(())
    }

    #[test]
    fn swapping_exchanges_values_and_twice_restores_them() -> Result<()> {
        let parameters = parameters(1.0)?;
        let averages = Averages::new(0.5, &parameters)?;
        parameters[0].1.set(&candle_core::Tensor::new(&[2.0], &Device::Cpu)?)?;
        averages.swap(&parameters)?;
        assert_eq!((value(&parameters)?, value(averages.parameters())?), (1.0, 2.0));
        averages.swap(&parameters)?;
        assert_eq!((value(&parameters)?, value(averages.parameters())?), (2.0, 1.0));
        Ok(())
    }
}
