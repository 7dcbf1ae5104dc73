//! The end of a training step on the GPU: gradient checks, Adam and the tally, each over all parameters at once.
#![expect(unsafe_code, reason = "kernels take tables of pointers, which are made here")]

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr, DeviceRepr, ValidAsZeroBits,
};
use candle_core::{Device, Result, Tensor, Var, bail};

use super::Clock;
use super::launch::{ByValue, Grid, held, kernel, zeros};

/// A parameter for Adam.
#[derive(Clone, Debug)]
pub struct AdamSlot {
    /// The parameter to update.
    pub parameter: Var,
    /// Its row of the [updates](Step::set_updates).
    pub row: usize,
    /// Its moving average, if any.
    pub average: Option<Var>,
}

/// The settings of one Adam step, rounded like PyTorch's: computed in `f64`, then cast.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct AdamUpdate {
    /// `1 - β₁`
    pub first: f32,
    /// `β₂`
    pub beta2: f32,
    /// `1 - β₂`
    pub second: f32,
    /// `lr / (1 - β₁ᵗ)`
    pub step_size: f32,
    /// `sqrt(1 - β₂ᵗ)`
    pub second_correction: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// L2 regularisation: this times the parameter is added to the gradient.
    pub gradient_decay: f32,
    /// Decoupled weight decay: the factor of the parameter.
    pub shrink: f32,
    /// The share by which the moving average moves to the parameter.
    pub average_share: f32,
}

// SAFETY: nine floats, for which any bits are valid.
unsafe impl DeviceRepr for AdamUpdate {}
// SAFETY: as above.
unsafe impl ValidAsZeroBits for AdamUpdate {}

/// A loss or gradient that was not finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// The clock's step.
    pub step: u32,
    /// The gradient's parameter, or `None` for the loss.
    pub parameter: Option<usize>,
    /// The value; for a gradient, its sum of squares.
    pub value: f64,
}

/// The accumulated results of steps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Sum of the samples' losses.
    pub loss_sum: f64,
    /// Correctly classified samples.
    pub correct: u64,
    /// The first fault. No parameter was updated from its step on.
    pub fault: Option<Fault>,
}

/// The end of a training step, with its state on the GPU.
#[derive(Debug)]
pub struct Step {
    device: CudaDevice,
    slots: Vec<AdamSlot>,
    moments: Vec<(CudaSlice<f32>, CudaSlice<f32>)>,
    /// (rows, steps), for each step of an epoch.
    updates: CudaSlice<AdamUpdate>,
    rows: usize,
    steps: usize,
    /// Partial sums of the gradients' squared norm.
    squares: CudaSlice<f64>,
    /// [`Tally`] in the kernels' form.
    tally: CudaSlice<u64>,
}

/// The kernels' view of a parameter.
#[derive(Clone, Copy)]
#[repr(C)]
struct Slot {
    parameter: u64,
    gradient: u64,
    m: u64,
    v: u64,
    average: u64,
    len: u32,
    /// The row of the updates.
    row: u32,
}

/// Slots per launch.
const SLOTS: usize = 64;

#[derive(Clone, Copy)]
#[repr(C)]
struct Slots([Slot; SLOTS]);

// SAFETY: five pointers and two unsigned numbers in the kernels' order.
unsafe impl ByValue for Slots {}

/// An empty tally.
const EMPTY: [u64; 3] = [0, 0, u64::MAX];

impl Step {
    /// Creates the state with zero moments.
    ///
    /// # Errors
    /// If `device` is not a GPU, or is out of memory.
    pub fn new(device: &Device, slots: Vec<AdamSlot>) -> Result<Self> {
        let device = device.as_cuda_device()?.clone();
        let moments = slots.iter().map(|slot| {
            let len = slot.parameter.elem_count();
            Ok((zeros(&device, len)?, zeros(&device, len)?))
        });
        let moments = moments.collect::<Result<Vec<_>>>()?;
        let blocks = blocks_of(&slots);
        let squares = zeros(&device, slots.len() * blocks)?;
        let rows = slots.iter().map(|slot| slot.row + 1).max().unwrap_or(1);
        let updates = zeros(&device, rows)?;
        let mut tally = zeros(&device, EMPTY.len())?;
        device.memcpy_htod(&EMPTY, &mut tally)?;
        Ok(Self { device, slots, moments, updates, rows, steps: 1, squares, tally })
    }

    /// The first and second moment of each parameter, flattened. Waits for launched steps.
    ///
    /// # Errors
    /// If a step failed.
    pub fn moments(&self) -> Result<Vec<[Vec<f32>; 2]>> {
        let each = self.moments.iter();
        each.map(|(m, v)| Ok([self.device.clone_dtoh(m)?, self.device.clone_dtoh(v)?])).collect()
    }

    /// Restores moments from [`moments`](Self::moments).
    ///
    /// # Errors
    /// If their number or a length differs from the parameters'.
    pub fn set_moments(&mut self, moments: &[[Vec<f32>; 2]]) -> Result<()> {
        if moments.len() != self.moments.len() {
            let (want, got) = (self.moments.len(), moments.len());
            bail!("step: expected the moments of {want} parameters, got {got}");
        }
        for ((m, v), moments) in self.moments.iter_mut().zip(moments) {
            for (to, from) in [m, v].into_iter().zip(moments) {
                if to.len() != from.len() {
                    bail!("step: expected a moment of {} numbers, got {}", to.len(), from.len());
                }
                self.device.memcpy_htod(from, to)?;
            }
        }
        Ok(())
    }

    /// Allocates the updates of an epoch of `steps` steps. Earlier recordings become invalid.
    ///
    /// # Errors
    /// If the GPU is out of memory.
    pub fn make_room(&mut self, steps: usize) -> Result<()> {
        if self.steps < steps {
            self.updates = zeros(&self.device, self.rows * steps)?;
            self.steps = steps;
        }
        Ok(())
    }

    /// Sets the updates of an epoch's steps, row by row.
    ///
    /// # Errors
    /// If the number of rows differs from the slots', or a row is too long.
    pub fn set_updates(&mut self, updates: &[Vec<AdamUpdate>]) -> Result<()> {
        if updates.len() != self.rows {
            bail!("step: expected {} rows of updates, got {}", self.rows, updates.len());
        }
        if let Some(row) = updates.iter().find(|row| row.len() > self.steps) {
            bail!("step: expected at most {} updates, got {}", self.steps, row.len());
        }
        // In one copy: each row is padded to `steps` updates.
        let rows = updates.iter().flat_map(|row| {
            let rest = std::iter::repeat_n(AdamUpdate::default(), self.steps - row.len());
            row.iter().copied().chain(rest)
        });
        self.device.memcpy_htod(&rows.collect::<Vec<_>>(), &mut self.updates)
    }

    /// Updates each parameter with `scale` times its gradient, clipped to a norm if given. From the first loss or
    /// gradient that is not finite on, nothing is updated.
    ///
    /// # Errors
    /// If the number or a shape of the gradients differs from the parameters'.
    pub fn update(
        &mut self,
        clock: &Clock,
        (loss, gradients): (&Tensor, &[Tensor]),
        scale: f64,
        clip: Option<f64>,
    ) -> Result<()> {
        let gradients = self.checked(gradients)?;
        let (tables, blocks) = (self.tables(&gradients)?, blocks_of(&self.slots));
        let grid = |slots: usize| Grid::blocks(blocks, slots).of(256, 1);
        for (first, (table, count)) in (0..).step_by(SLOTS).zip(&tables) {
            kernel!(&self.device, OPTIMIZER, "sum_and_check_gradients")
                .value(*table)
                .count(first)
                .read(&held(loss).elements::<f32>()?)
                .float(scale as f32)
                .write(&mut self.squares)
                .write(&mut self.tally)
                .pointer(clock.pointer())
                .launch(grid(*count))?;
        }
        for (table, count) in &tables {
            kernel!(&self.device, OPTIMIZER, "adam")
                .value(*table)
                .read(&self.updates)
                .count(self.steps)
                .float(scale as f32)
                .read_if(clip.map(|_| &self.squares))
                .count(self.slots.len() * blocks)
                .double(clip.unwrap_or_default())
                .read(&self.tally)
                .pointer(clock.pointer())
                .launch(grid(*count))?;
        }
        Ok(())
    }

    /// Adds a batch's loss, summed over samples, and its number of correct samples. The last batch of a step advances
    /// the clock.
    ///
    /// # Shapes
    /// `loss` (), `logits` (batch, classes), `labels` u32 (batch)
    ///
    /// # Errors
    /// If the shapes do not match.
    pub fn count(
        &mut self,
        clock: &Clock,
        (loss, logits, labels): (&Tensor, &Tensor, &Tensor),
        is_last: bool,
    ) -> Result<()> {
        let (batch, classes) = logits.dims2()?;
        let logits = logits.contiguous()?;
        let threads = batch.next_multiple_of(32).min(1024);
        kernel!(&self.device, OPTIMIZER, "count")
            .read(&held(loss).elements::<f32>()?)
            .read(&held(&logits).elements::<f32>()?)
            .read(&held(labels).elements::<u32>()?)
            .count(batch)
            .count(classes)
            .count(is_last.into())
            .write(&mut self.tally)
            .pointer(clock.pointer())
            .launch(Grid::blocks(1, 1).of(threads as u32, 1))
    }

    /// Waits for all steps, and returns and resets the tally. A fault stays.
    ///
    /// # Errors
    /// If a step failed.
    pub fn take(&mut self) -> Result<Tally> {
        let [loss_sum, correct, fault] = self.device.clone_dtoh(&self.tally)?[..] else {
            unreachable!("a tally has three numbers");
        };
        self.device.memcpy_htod(&EMPTY[..2], &mut self.tally.slice_mut(..2))?;
        let loss_sum = f64::from_bits(loss_sum);
        let fault = (fault != u64::MAX).then(|| self.fault(fault, loss_sum)).transpose()?;
        Ok(Tally { loss_sum, correct, fault })
    }

    /// Decodes the kernels' fault. They leave the faulty values in place.
    fn fault(&self, fault: u64, loss_sum: f64) -> Result<Fault> {
        let (step, parameter) = ((fault >> 32) as u32, (fault as u32 as usize).checked_sub(1));
        let value = match parameter {
            None => loss_sum,
            Some(parameter) => {
                let blocks = blocks_of(&self.slots);
                let squares = self.device.clone_dtoh(&self.squares)?;
                squares[parameter * blocks..][..blocks].iter().sum()
            }
        };
        Ok(Fault { step, parameter, value })
    }

    fn checked(&self, gradients: &[Tensor]) -> Result<Vec<Tensor>> {
        if gradients.len() != self.slots.len() {
            bail!("step: expected {} gradients, got {}", self.slots.len(), gradients.len());
        }
        let each = self.slots.iter().zip(gradients).map(|(slot, gradient)| {
            let (want, got) = (slot.parameter.shape(), gradient.shape());
            if want != got {
                bail!("step: expected a gradient of shape {want:?}, got {got:?}");
            }
            gradient.contiguous()
        });
        each.collect()
    }

    /// The slots of each launch, with their number.
    fn tables(&self, gradients: &[Tensor]) -> Result<Vec<(Slots, usize)>> {
        let stream = self.device.cuda_stream();
        let place =
            |xs: &Tensor| -> Result<u64> { Ok(held(xs).elements::<f32>()?.device_ptr(&stream).0) };
        let each = self.slots.iter().zip(gradients).zip(&self.moments);
        let slots = each.map(|((slot, gradient), (m, v))| {
            Ok(Slot {
                parameter: place(&slot.parameter)?,
                gradient: place(gradient)?,
                m: m.device_ptr(&stream).0,
                v: v.device_ptr(&stream).0,
                average: slot.average.as_ref().map_or(Ok(0), |average| place(average))?,
                len: gradient.elem_count() as u32,
                row: slot.row as u32,
            })
        });
        let slots = slots.collect::<Result<Vec<_>>>()?;
        let none = Slot { parameter: 0, gradient: 0, m: 0, v: 0, average: 0, len: 0, row: 0 };
        let tables = slots.chunks(SLOTS).map(|slots| {
            let mut table = Slots([none; SLOTS]);
            table.0[..slots.len()].copy_from_slice(slots);
            (table, slots.len())
        });
        Ok(tables.collect())
    }
}

/// Blocks per parameter, by the largest one.
fn blocks_of(slots: &[AdamSlot]) -> usize {
    const LEN: usize = 1024;
    const MOST: usize = 64;
    let longest = slots.iter().map(|slot| slot.parameter.elem_count()).max().unwrap_or(0);
    longest.div_ceil(LEN).clamp(1, MOST)
}
