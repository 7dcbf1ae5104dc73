//! Serving a run while it trains.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Device;
use vit_model::{ModelInfo, Tensors};
use vit_run::RunFolder;
use vit_serve::{Limits, Server, Stop, Subject};
use vit_train::NamedVars;

use crate::commands::serve::{self, Access};
use crate::failure::{Exit, Failure, Result};
use crate::interrupt;
use crate::saved_model::SavedModel;
use crate::served::{self, Served};
use crate::settings::Settings;

/// How often watchers see the current weights. Copying them takes far less than a hundredth of that.
const EVERY: Duration = Duration::from_secs(1);

/// The server of a run, until dropped.
pub(super) struct Live {
    live: vit_serve::Live,
    stop: Stop,
    folder: Arc<RunFolder>,
    settings: Settings,
    info: ModelInfo,
    shown: Option<Instant>,
}

impl Live {
    /// Starts serving the run in its directory, on a separate thread.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn begin(
        (listener, access): (TcpListener, &Access),
        folder: &Arc<RunFolder>,
        (settings, info): (&Settings, &ModelInfo),
    ) -> Result<Self> {
        let subject = Subject::Run(folder.path().to_owned());
        // Training needs the cores.
        let limits = Limits { threads: 1, awake: Duration::ZERO, ..Limits::default() };
        let server: Server = serve::server(listener, (subject, served::load()), access, limits)?;
        let (live, stop) = (server.live(), server.stop());
        tracing::info!("watch the run at {}", serve::address(&server));
        let on_signal = stop.clone();
        interrupt::serves(move || on_signal.stop());
        let serve = move || {
            if let Err(error) = server.run() {
                tracing::warn!("stopped serving the run: {error}");
            }
        };
        std::thread::Builder::new().name("server".to_owned()).spawn(serve).map_err(|error| {
            Failure::new(Exit::Internal, format!("cannot start the server's thread: {error}"))
        })?;
        let folder = Arc::clone(folder);
        Ok(Self { live, stop, folder, settings: settings.clone(), info: info.clone(), shown: None })
    }

    /// Publishes the current weights from time to time, if anyone is watching.
    ///
    /// # Errors
    /// If they cannot be copied.
    pub(super) fn show(&mut self, weights: &NamedVars) -> Result<()> {
        if self.shown.is_some_and(|shown| shown.elapsed() < EVERY) || !self.live.is_watched() {
            return Ok(());
        }
        self.shown = Some(Instant::now());
        // A copy, since the optimiser changes them in place.
        let copy = |(name, var): &(String, candle_core::Var)| -> candle_core::Result<_> {
            let tensor = var.as_detached_tensor();
            let tensor = if tensor.device().is_cpu() {
                tensor.copy()?
            } else {
                tensor.to_device(&Device::Cpu)?
            };
            Ok((name.clone(), tensor))
        };
        let parameters = weights.iter().map(copy).collect::<candle_core::Result<Tensors>>()?;
        let saved = SavedModel {
            config: self.settings.model.clone(),
            info: self.info.clone(),
            parameters,
            run: Some(self.settings.clone()),
        };
        let (live, folder) = (self.live.clone(), Arc::clone(&self.folder));
        let publish = move || match Served::of(saved, &served::name_of(folder.path())) {
            Ok(model) => live.publish(folder.path(), Arc::new(model)),
            Err(failure) => tracing::debug!("not shown: {}", failure.message()),
        };
        // Without a thread, it is published next time.
        drop(std::thread::Builder::new().name("show".to_owned()).spawn(publish));
        Ok(())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.stop();
    }
}
