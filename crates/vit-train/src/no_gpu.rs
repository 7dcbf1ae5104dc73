//! Without the feature `cuda` no step is taken on a GPU: there is no value of [`OnGpu`].

use candle_core::Tensor;

use crate::sums::Sums;
use crate::trainer::Trained;
use crate::{Data, Error, Forward, Parameters, TrainConfig};

pub(crate) enum OnGpu {}

impl OnGpu {
    pub(crate) fn of<F>(
        _: &Trained<F>,
        _: &dyn Data,
        _: Option<Self>,
    ) -> Result<Option<Self>, Error> {
        Ok(None)
    }

    pub(crate) fn begin_epoch<F>(
        &mut self,
        _: &Trained<F>,
        _: (u64, u64),
        _: &[u32],
    ) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn launch(
        &mut self,
        _: &Trained<impl Forward>,
        _: (u64, &[u32]),
        _: &dyn Data,
    ) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn moments(&self, _: &Parameters) -> Result<Vec<[Tensor; 2]>, Error> {
        match *self {}
    }

    pub(crate) fn take(&mut self, _: &TrainConfig, _: &Parameters, _: u64) -> Result<Sums, Error> {
        match *self {}
    }
}
