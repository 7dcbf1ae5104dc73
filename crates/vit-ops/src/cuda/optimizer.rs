//! What ends a training step on the GPU: gradients looked at, Adam, and the tally, each over all parameters at once.
#![expect(unsafe_code, reason = "kernels take tables of pointers, which are made here")]

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::{
    CudaSlice, DevicePtr, DeviceRepr, ValidAsZeroBits,
};
use candle_core::{Device, Result, Tensor, Var, bail};

use super::Clock;
use super::launch::{ByValue, Grid, held, kernel, zeros};

/// A parameter as Adam sees it.
#[derive(Clone, Debug)]
pub struct AdamSlot {
    /// What is moved.
    pub parameter: Var,
    /// The row of the [updates](Step::set_updates) that moves it.
    pub row: usize,
    /// Its moving average, if one is kept.
    pub average: Option<Var>,
}

/// The numbers of one step of Adam, as PyTorch rounds them: computed in `f64`, then cast.
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
    /// What is added to the gradient for each unit of the parameter.
    pub gradient_decay: f32,
    /// What the parameter is multiplied by.
    pub shrink: f32,
    /// How far a moving average goes to the parameter.
    pub average_share: f32,
}

// SAFETY: nine floats, of which any bits are numbers.
unsafe impl DeviceRepr for AdamUpdate {}
// SAFETY: as above.
unsafe impl ValidAsZeroBits for AdamUpdate {}

/// What was no finite number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// The clock's step.
    pub step: u32,
    /// The parameter whose gradient it was, or none for the loss.
    pub parameter: Option<usize>,
    /// What came: of a gradient, the sum of its squares.
    pub value: f64,
}

/// What a clock's steps have added up to.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// Sum of the samples' losses.
    pub loss_sum: f64,
    /// Samples that were classified right.
    pub correct: u64,
    /// The first fault. From its step on, no parameter was moved.
    pub fault: Option<Fault>,
}

/// The end of a training step, and what it keeps on the GPU.
#[derive(Debug)]
pub struct Step {
    device: CudaDevice,
    slots: Vec<AdamSlot>,
    moments: Vec<(CudaSlice<f32>, CudaSlice<f32>)>,
    /// (rows, steps), for each step of an epoch.
    updates: CudaSlice<AdamUpdate>,
    rows: usize,
    steps: usize,
    /// Parts of the gradients' squared norm.
    squares: CudaSlice<f64>,
    /// [`Tally`] as the kernels have it.
    tally: CudaSlice<u64>,
}

/// What the kernels are given of a parameter.
#[derive(Clone, Copy)]
#[repr(C)]
struct Slot {
    parameter: u64,
    gradient: u64,
    m: u64,
    v: u64,
    average: u64,
    len: u32,
    /// Of the updates.
    row: u32,
}

/// As many as one launch takes.
const SLOTS: usize = 64;

#[derive(Clone, Copy)]
#[repr(C)]
struct Slots([Slot; SLOTS]);

// SAFETY: five pointers and two unsigned numbers, in the order of the kernels' declaration.
unsafe impl ByValue for Slots {}

/// A tally in which nothing has happened.
const EMPTY: [u64; 3] = [0, 0, u64::MAX];

impl Step {
    /// The end of steps, without moments yet.
    ///
    /// # Errors
    /// If `device` is no GPU, or has no room.
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

    /// The first and second moment of each parameter, flattened. It waits for the steps so far.
    ///
    /// # Errors
    /// If a step failed.
    pub fn moments(&self) -> Result<Vec<[Vec<f32>; 2]>> {
        let each = self.moments.iter();
        each.map(|(m, v)| Ok([self.device.clone_dtoh(m)?, self.device.clone_dtoh(v)?])).collect()
    }

    /// Goes on with the moments of an earlier run, as [`moments`](Self::moments) gave them.
    ///
    /// # Errors
    /// If there are not as many as parameters, or one has another length.
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

    /// Makes room for the numbers of an epoch of so many steps. What was recorded before reads another place.
    ///
    /// # Errors
    /// If the GPU has no room.
    pub fn make_room(&mut self, steps: usize) -> Result<()> {
        if self.steps < steps {
            self.updates = zeros(&self.device, self.rows * steps)?;
            self.steps = steps;
        }
        Ok(())
    }

    /// Sets the numbers of the steps of an epoch, row by row.
    ///
    /// # Errors
    /// If there are not as many rows as the slots name, or one has more than there is room for.
    pub fn set_updates(&mut self, updates: &[Vec<AdamUpdate>]) -> Result<()> {
        if updates.len() != self.rows {
            bail!("step: expected {} rows of updates, got {}", self.rows, updates.len());
        }
        if let Some(row) = updates.iter().find(|row| row.len() > self.steps) {
            bail!("step: expected at most {} updates, got {}", self.steps, row.len());
        }
        // In one copy: each is as long as the room for it.
        let rows = updates.iter().flat_map(|row| {
            let rest = std::iter::repeat_n(AdamUpdate::default(), self.steps - row.len());
            row.iter().copied().chain(rest)
        });
        self.device.memcpy_htod(&rows.collect::<Vec<_>>(), &mut self.updates)
    }

    /// Moves each parameter by `scale` times its gradient, all cut to a norm if there is one to cut to. Where the loss or
    /// a gradient is no finite number, and ever after, nothing is moved.
    ///
    /// # Errors
    /// If there are not as many gradients as parameters, or one has another shape.
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
            kernel!(&self.device, OPTIMIZER, "look_at_gradients")
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

    /// Adds the loss of a batch, the sum over its samples, and how many of them were classified right; with the last
    /// batch of a step, the clock goes on.
    ///
    /// # Shapes
    /// `loss` (), `logits` (batch, classes), `labels` u32 (batch)
    ///
    /// # Errors
    /// If the shapes do not fit.
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

    /// Waits for all steps so far, and takes what they have added up to since the last time. A fault stays.
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

    /// A fault as the kernels have it, after which they have left what they saw where it was.
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

    /// The slots of each launch, and how many they are.
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

/// Blocks that share a parameter, by the largest of all.
fn blocks_of(slots: &[AdamSlot]) -> usize {
    const LEN: usize = 1024;
    const MOST: usize = 64;
    let longest = slots.iter().map(|slot| slot.parameter.elem_count()).max().unwrap_or(0);
    longest.div_ceil(LEN).clamp(1, MOST)
}
