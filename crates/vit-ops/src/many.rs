//! Operations of one input and any number of parameters. candle's custom operations take at most three tensors.
//!
//! A chain of scalars ties the parameters to the operation: each link is an operation on the previous link and two
//! parameters. The operation's backward pass stores the parameters' gradients, and the links pick them up, for candle or
//! for [`backward`](crate::backward()).

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, CustomOp3, DType, Device, Layout, Result, Shape, Tensor, bail,
};

use crate::{backward, slices};

/// A gradient, if one is tracked.
pub(crate) type OptionalGradient = Option<Vec<f32>>;

/// The operation itself, on contiguous `f32` on the CPU.
pub(crate) trait Many: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    fn forward(&self, xs: &[f32], parameters: &OpParameters) -> Result<(Vec<f32>, Shape)>;

    /// The gradients of the input and of each parameter. Untracked ones may be missing.
    fn backward(
        &self,
        xs: &[f32],
        parameters: &OpParameters,
        grad: &[f32],
    ) -> Result<(OptionalGradient, Vec<OptionalGradient>)>;
}

/// An operation's parameters, and which gradients are needed.
pub(crate) struct OpParameters<'a> {
    values: Vec<&'a [f32]>,
    tensors: &'a [Tensor],
    /// Whether the operation's input needs a gradient.
    pub(crate) of_input: bool,
}

impl<'a> OpParameters<'a> {
    pub(crate) fn all(&self) -> &[&'a [f32]] {
        &self.values
    }

    /// Whether a parameter needs a gradient.
    pub(crate) fn tracked(&self, index: usize) -> bool {
        self.tensors[index].track_op()
    }
}

/// Applies the operation to `f32` tensors on the CPU, contiguous or not.
pub(crate) fn apply<'a, O: Many>(
    xs: &Tensor,
    parameters: impl IntoIterator<Item = &'a Tensor>,
    op: O,
) -> Result<Tensor> {
    let parameters: Vec<Tensor> =
        parameters.into_iter().map(Tensor::contiguous).collect::<Result<_>>()?;
    let gradients = Gradients::default();
    let tracked: Vec<usize> = (0..parameters.len()).filter(|&i| parameters[i].track_op()).collect();
    let mut link = None;
    for pair in tracked.chunks(2) {
        let op = |places| Link { places, gradients: gradients.clone() };
        let before = match link {
            Some(link) => link,
            None => Tensor::zeros((), DType::F32, &Device::Cpu)?,
        };
        link = Some(match *pair {
            [i, j] => before.apply_op3(&parameters[i], &parameters[j], op([i, j]))?,
            [i] => before.apply_op2(&parameters[i], op([i, i]))?,
            _ => bail!("expected one or two parameters a link"),
        });
    }
    let op = Linked { op, parameters, gradients };
    let xs = xs.contiguous()?;
    match link {
        Some(link) => xs.apply_op2(&link, op),
        None => xs.apply_op1(op),
    }
}

/// The parameters' gradients, between the backward passes of the operation and of its links.
#[derive(Clone, Default)]
struct Gradients(Arc<Mutex<Vec<Option<Vec<f32>>>>>);

impl Gradients {
    fn set(&self, gradients: Vec<Option<Vec<f32>>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = gradients;
    }

    fn take(&self, place: usize, like: &Tensor) -> Result<Option<Tensor>> {
        let mut gradients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match gradients.get_mut(place).and_then(Option::take) {
            Some(gradient) => backward::of_parameter(like, gradient),
            None => bail!("a parameter of shape {:?} got no gradient", like.dims()),
        }
    }
}

struct Linked<O> {
    op: O,
    parameters: Vec<Tensor>,
    gradients: Gradients,
}

impl<O: Many> Linked<O> {
    /// Runs `run` on the values of all parameters.
    fn with<R>(&self, of_input: bool, run: impl FnOnce(&OpParameters) -> Result<R>) -> Result<R> {
        let held: Vec<_> = self.parameters.iter().map(Tensor::storage_and_layout).collect();
        let values = held.iter().map(|(storage, layout)| match &**storage {
            candle_core::Storage::Cpu(storage) => slices::of_storage(storage, layout),
            _ => bail!("{}: expected parameters on the CPU", self.op.name()),
        });
        let values = values.collect::<Result<Vec<_>>>()?;
        run(&OpParameters { values, tensors: &self.parameters, of_input })
    }

    fn forward(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let xs = slices::of_storage(xs, layout)?;
        let (ys, shape) = self.with(false, |parameters| self.op.forward(xs, parameters))?;
        slices::output(ys, shape)
    }

    fn backward(&self, xs: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let grad = slices::upstream(grad)?;
        let (of_xs, gradients) = slices::read2(xs, &grad, |xs_values, grad| {
            self.with(xs.track_op(), |parameters| self.op.backward(xs_values, parameters, grad))
        })?;
        self.gradients.set(gradients);
        match of_xs {
            Some(of_xs) => slices::gradient(of_xs, xs),
            None => Ok(None),
        }
    }
}

impl<O: Many> CustomOp1 for Linked<O> {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(&self, xs: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        self.forward(xs, layout)
    }

    fn bwd(&self, xs: &Tensor, _ys: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        self.backward(xs, grad)
    }
}

impl<O: Many> CustomOp2 for Linked<O> {
    fn name(&self) -> &'static str {
        self.op.name()
    }

    fn cpu_fwd(
        &self,
        xs: &CpuStorage,
        layout: &Layout,
        _link: &CpuStorage,
        _link_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.forward(xs, layout)
    }

    fn bwd(
        &self,
        xs: &Tensor,
        link: &Tensor,
        _ys: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((self.backward(xs, grad)?, Some(link.zeros_like()?)))
    }
}

/// Ties one or two parameters to an operation.
struct Link {
    places: [usize; 2],
    gradients: Gradients,
}

impl Link {
    fn scalar() -> Result<(CpuStorage, Shape)> {
        slices::output(vec![0.0], ())
    }

    /// The gradient of the previous link, if any.
    fn before(link: &Tensor) -> Result<Option<Tensor>> {
        link.track_op().then(|| link.zeros_like()).transpose()
    }
}

impl CustomOp2 for Link {
    fn name(&self) -> &'static str {
        "parameter"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::scalar()
    }

    fn bwd(
        &self,
        link: &Tensor,
        parameter: &Tensor,
        _res: &Tensor,
        _grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        Ok((Self::before(link)?, self.gradients.take(self.places[0], parameter)?))
    }
}

impl CustomOp3 for Link {
    fn name(&self) -> &'static str {
        "parameters"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Self::scalar()
    }

    fn bwd(
        &self,
        link: &Tensor,
        first: &Tensor,
        second: &Tensor,
        _res: &Tensor,
        _grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [i, j] = self.places;
        let gradients = (self.gradients.take(i, first)?, self.gradients.take(j, second)?);
        Ok((Self::before(link)?, gradients.0, gradients.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::tensors;
    use candle_core::Var;

    /// `x (a + b + c ...)` of scalars.
    struct TimesSum;

    impl Many for TimesSum {
        fn name(&self) -> &'static str {
            "times-sum"
        }

        fn forward(&self, xs: &[f32], parameters: &OpParameters) -> Result<(Vec<f32>, Shape)> {
            let sum: f32 = parameters.all().iter().map(|p| p[0]).sum();
            Ok((xs.iter().map(|x| x * sum).collect(), xs.len().into()))
        }

        fn backward(
            &self,
            xs: &[f32],
            parameters: &OpParameters,
            grad: &[f32],
        ) -> Result<(OptionalGradient, Vec<OptionalGradient>)> {
            let sum: f32 = parameters.all().iter().map(|p| p[0]).sum();
            let of_sum: f32 = xs.iter().zip(grad).map(|(x, g)| x * g).sum();
            let of_xs = parameters.of_input.then(|| grad.iter().map(|g| g * sum).collect());
            let each = (0..parameters.all().len()).map(|i| parameters.tracked(i));
            Ok((of_xs, each.map(|tracked| tracked.then(|| vec![of_sum])).collect()))
        }
    }

    #[test]
    fn any_number_of_tracked_inputs_get_gradients() -> Result<()> {
        for count in 0..6 {
            for frozen in [None, Some(0), Some(2)] {
                let [values, xs] = tensors(&[&[6], &[4]])?;
                let xs = Var::from_tensor(&xs)?;
                let vars = (0..count).map(|i| Var::from_tensor(&values.narrow(0, i, 1)?));
                let vars = vars.collect::<Result<Vec<_>>>()?;
                let given: Vec<Tensor> = vars
                    .iter()
                    .enumerate()
                    .map(|(i, var)| match Some(i) == frozen {
                        true => var.as_detached_tensor(),
                        false => var.as_tensor().clone(),
                    })
                    .collect();
                let ys = apply(&xs, given.iter(), TimesSum)?;
                let twice = (&ys + &ys)?.sum_all()?;
                // A graph may be walked more than once.
                for backward in [Tensor::backward, backward, Tensor::backward] {
                    let grads = backward(&twice)?;
                    let want = 2.0 * xs.sum_all()?.to_scalar::<f32>()?;
                    for (i, var) in vars.iter().enumerate() {
                        let got = grads.get(var).map(|grad| grad.to_vec1::<f32>().expect("one"));
                        match Some(i) == frozen {
                            true => assert_eq!(got, None),
                            false => assert!((got.expect("a gradient")[0] - want).abs() < 1e-5),
                        }
                    }
                    assert!(grads.get(&xs).is_some());
                }
            }
        }
        Ok(())
    }

    #[test]
    fn gradients_from_several_uses_are_added() -> Result<()> {
        let [xs, parameter] = tensors(&[&[4], &[1]])?;
        let parameter = Var::from_tensor(&parameter)?;
        let [once, again] = [1.0, 2.0].map(|scale| apply(&(&xs * scale)?, [&*parameter], TimesSum));
        // The last use is candle's own operation.
        let direct = (parameter.as_tensor() * 5.0)?.sum_all()?;
        let loss = once?.sum_all()?.add(&again?.sum_all()?)?.add(&direct)?;
        let want = 3.0 * xs.sum_all()?.to_scalar::<f32>()? + 5.0;
        for backward in [backward, Tensor::backward] {
            let got = backward(&loss)?.get(&parameter).expect("a gradient").to_vec1::<f32>()?;
            assert!((got[0] - want).abs() < 1e-5, "{got:?} {want}");
        }
        Ok(())
    }
}
