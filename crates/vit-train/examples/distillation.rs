//! A custom loss: distillation, where a small model learns from a larger one (Hinton et al., arXiv 1503.02531).
//!
//! `cargo run -p vit-train --example distillation` trains a teacher on 6,000 digits, and the same student twice on 500
//! of them: on the labels alone, and on labels and the teacher's logits. It fails if the teacher does not help.

#![allow(clippy::print_stdout, reason = "a program for a terminal")]

mod common;

use std::error::Error;
use std::sync::Arc;

use candle_core::{DType, Device, Result as TensorResult, Tensor};
use common::{Digits, TestAccuracy, trunk_and_head};
use vit_layers::Parameters;
use vit_ops::{cross_entropy_sum, soft_cross_entropy_sum, softmax};
use vit_train::{
    Batch, CrossEntropy, Data, Loss, Mode, Model, OptimizerConfig, TrainConfig, Trainer,
};

/// Softens the teacher's probabilities, so that the wrong classes carry information too.
const TEMPERATURE: f64 = 3.0;

/// Mean of the cross entropy with the label and that with the teacher's softened probabilities.
struct Distillation;

impl Loss for Distillation {
    fn sum(&self, outputs: &Tensor, targets: &[Tensor]) -> TensorResult<Tensor> {
        let [labels, teacher] = targets else { candle_core::bail!("expected labels and logits") };
        let soft = softmax(&(teacher / TEMPERATURE)?)?;
        let taught = soft_cross_entropy_sum(&(outputs / TEMPERATURE)?, &soft)?;
        // Its gradient scales with 1 / temperature².
        let taught = (taught * (TEMPERATURE * TEMPERATURE))?;
        (cross_entropy_sum(outputs, labels)? + taught)? * 0.5
    }

    /// Test digits have no teacher logits.
    fn evaluation_sum(&self, outputs: &Tensor, targets: &[Tensor]) -> TensorResult<Tensor> {
        cross_entropy_sum(outputs, &targets[0])
    }
}

/// Digits with the teacher's logits as a second target.
struct Taught {
    digits: Digits,
    teacher: Arc<dyn Model>,
}

impl Data for Taught {
    fn order(&self, epoch: u64) -> Vec<u32> {
        self.digits.order(epoch)
    }
    fn train_batch(&self, epoch: u64, indices: &[u32]) -> TensorResult<Batch> {
        let Batch { inputs, mut targets, .. } = self.digits.train_batch(epoch, indices)?;
        targets.push(self.teacher.forward(&inputs, Mode::Eval)?);
        Ok(Batch::with_targets(inputs, targets))
    }
    fn test_len(&self) -> usize {
        self.digits.test_len()
    }
    fn test_batch(&self, indices: &[u32]) -> TensorResult<Batch> {
        self.digits.test_batch(indices)
    }
}

/// Trains a model of this width; returns its test accuracy and parameters.
fn train(
    width: usize,
    epochs: u64,
    loss: impl Loss + 'static,
    data: &dyn Data,
) -> Result<(f64, Parameters), vit_train::Error> {
    let parameters = Parameters::seeded(3);
    let config = TrainConfig { seed: 3, ..TrainConfig::new(epochs, OptimizerConfig::adam(3e-3)) };
    let mut accuracy = TestAccuracy::default();
    Trainer::builder(config)
        .threads(2)
        .loss(loss)
        .build(&parameters.builder(DType::F32, &Device::Cpu), |vb| trunk_and_head(width, &vb))?
        .run(data, &mut accuracy)?;
    Ok((accuracy.0, parameters))
}

fn main() -> Result<(), Box<dyn Error>> {
    let (accuracy, parameters) = train(64, 4, CrossEntropy::default(), &Digits::new(6_000))?;
    println!("the teacher, on 6,000 digits: {:.1} %", 100.0 * accuracy);
    let vb = parameters.detached_builder(DType::F32, &Device::Cpu);
    let teacher: Arc<dyn Model> = Arc::new(trunk_and_head(64, &vb)?);
    let (alone, _) = train(16, 100, CrossEntropy::default(), &Digits::new(500))?;
    let taught = Taught { digits: Digits::new(500), teacher };
    let (taught, _) = train(16, 100, Distillation, &taught)?;
    println!("a student, on 500: {:.1} %, taught {:.1} %", 100.0 * alone, 100.0 * taught);
    if taught <= alone {
        return Err("expected the student to learn more from its teacher".into());
    }
    Ok(())
}
