//! The models of a server, from one file or from runs. A run's model is reopened when the run saves a new one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::spawn_blocking;
use vit_run::{CONFIG, MODEL};

use crate::runs::{Details, Runs, Summary};
use crate::{Model, Problem};

/// What a server serves.
#[derive(Clone, Debug)]
pub enum Subject {
    /// A model file, or anything else that the loader opens.
    Model(PathBuf),
    /// A run.
    Run(PathBuf),
    /// A folder of runs.
    Runs(PathBuf),
}

/// Opens the model in a run directory or file.
pub type Load = Box<dyn Fn(&Path) -> Result<Arc<dyn Model>, Problem> + Send + Sync>;

/// Interval for checking a run's model, and so the maximum age of an answer's model.
const LOOK: Duration = Duration::from_millis(500);
/// Most models held in memory.
const MOST_OPEN: usize = 4;

/// Size and modification time, which identify a file's version.
type Stamp = (u64, SystemTime);

struct Open {
    /// `None` if the training process supplies the model.
    stamp: Option<Stamp>,
    looked: Instant,
    model: Arc<dyn Model>,
    /// Increases with each model of the run.
    version: u64,
}

/// The models of a server.
pub(crate) struct Models {
    inner: Arc<Inner>,
}

struct Inner {
    subject: Subject,
    load: Load,
    runs: Runs,
    open: Mutex<BTreeMap<String, Open>>,
    /// The run used when a request names none, and when it was chosen.
    chosen: Mutex<Option<(String, Instant)>>,
    versions: AtomicU64,
    watchers: AtomicUsize,
    /// Held while a model is opened, one at a time.
    loading: Mutex<()>,
}

impl Models {
    pub(crate) fn new(subject: Subject, load: Load) -> Self {
        let runs = match &subject {
            Subject::Model(_) => Runs::default(),
            Subject::Run(run) => Runs::one(run),
            Subject::Runs(folder) => Runs::in_folder(folder),
        };
        let inner = Inner {
            subject,
            load,
            runs,
            open: Mutex::default(),
            chosen: Mutex::default(),
            versions: AtomicU64::new(0),
            watchers: AtomicUsize::new(0),
            loading: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The model of a run, by default of the newest.
    ///
    /// # Errors
    /// If there is no such run, or it has no model.
    pub(crate) async fn get(&self, run: Option<&str>) -> Result<Arc<dyn Model>, Problem> {
        if let Some(model) = self.inner.fresh(run) {
            return Ok(model);
        }
        let (inner, run) = (Arc::clone(&self.inner), run.map(str::to_owned));
        let loaded = spawn_blocking(move || inner.look(run.as_deref())).await;
        loaded.unwrap_or_else(|_| Err(Problem::new(500, "the model could not be opened")))
    }

    pub(crate) fn open(&self) -> Result<(), Problem> {
        match self.inner.look(None) {
            Err(_) if self.inner.waits() => Ok(()),
            opened => opened.map(drop),
        }
    }

    pub(crate) fn publish(&self, run: &Path, model: Arc<dyn Model>) {
        let Some(name) = run.file_name() else { return };
        self.inner.put(name.to_string_lossy().into_owned(), None, model);
    }

    /// Increases with each model of the run that this process has opened.
    pub(crate) fn version(&self, run: &str) -> Option<u64> {
        locked(&self.inner.open).get(run).map(|open| open.version)
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.inner.runs.names()
    }

    pub(crate) fn list(&self) -> Vec<Summary> {
        self.inner.runs.list()
    }

    pub(crate) fn run(&self, name: &str) -> Result<Details, Problem> {
        self.inner.runs.details(name)
    }

    /// The directory of a run, by default of the chosen one.
    pub(crate) fn folder_of(&self, run: Option<&str>) -> Option<PathBuf> {
        match run {
            Some(name) => self.inner.runs.folder(name),
            None => self.inner.runs.folder(&self.inner.choose()?),
        }
    }

    /// Number of clients that watch runs.
    pub(crate) fn watchers(&self) -> usize {
        self.inner.watchers.load(Ordering::Relaxed)
    }

    pub(crate) fn watch(&self) -> Watching {
        self.inner.watchers.fetch_add(1, Ordering::Relaxed);
        Watching(Arc::clone(&self.inner))
    }

    /// Opens a run's newer model, if there is one.
    pub(crate) fn refresh(&self, run: &str) {
        if locked(&self.inner.open).contains_key(run) {
            // Errors are reported to requests for it.
            let _ = self.inner.look(Some(run));
        }
    }
}

/// Counts as a watcher until dropped.
pub(crate) struct Watching(Arc<Inner>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Key of a file's model, which cannot be a run's name.
const OF_FILE: &str = "";

impl Inner {
    /// A model that was checked a moment ago.
    fn fresh(&self, run: Option<&str>) -> Option<Arc<dyn Model>> {
        let of_file = matches!(self.subject, Subject::Model(_));
        let chosen = locked(&self.chosen);
        let name = match run {
            Some(name) => name,
            None if of_file => OF_FILE,
            None => match &*chosen {
                Some((name, since)) if since.elapsed() < LOOK => name,
                _ => return None,
            },
        };
        let open = locked(&self.open);
        let open = open.get(name)?;
        let is_fresh = name == OF_FILE || open.stamp.is_none() || open.looked.elapsed() < LOOK;
        is_fresh.then(|| Arc::clone(&open.model))
    }

    /// Checks the disk, and opens a newer model.
    fn look(&self, run: Option<&str>) -> Result<Arc<dyn Model>, Problem> {
        let _loading = locked(&self.loading);
        if let Some(model) = self.fresh(run) {
            return Ok(model);
        }
        if let Subject::Model(path) = &self.subject {
            if let Some(name) = run {
                return Err(Problem::new(404, format!("there is no run {name:?}"))
                    .hint("this server has only one model: leave out `run`"));
            }
            let model = (self.load)(path)?;
            self.put(OF_FILE.to_owned(), None, Arc::clone(&model));
            return Ok(model);
        }
        let name = match run {
            Some(name) => name.to_owned(),
            None => self.choose().ok_or_else(|| self.none_yet())?,
        };
        let Some(folder) = self.runs.folder(&name) else {
            return Err(Problem::new(404, format!("there is no run {name:?}"))
                .hint("GET /v1/runs lists them"));
        };
        let stamp = stamp_of(&folder.join(MODEL));
        if let Some(open) = locked(&self.open).get_mut(&name)
            && (open.stamp == stamp || open.stamp.is_none())
        {
            open.looked = Instant::now();
            return Ok(Arc::clone(&open.model));
        }
        let Some(stamp) = stamp else {
            return Err(Problem::new(503, format!("the run {name:?} has saved no model yet"))
                .hint("the first is saved after the first epoch, or as --save-every says")
                .retry_after(5));
        };
        let model = (self.load)(&folder)?;
        self.put(name, Some(stamp), Arc::clone(&model));
        Ok(model)
    }

    fn put(&self, name: String, stamp: Option<Stamp>, model: Arc<dyn Model>) {
        let version = self.versions.fetch_add(1, Ordering::Relaxed) + 1;
        let mut open = locked(&self.open);
        open.insert(name, Open { stamp, looked: Instant::now(), model, version });
        while open.len() > MOST_OPEN {
            let oldest = open.iter().min_by_key(|(_, open)| open.looked);
            let Some(name) = oldest.map(|(name, _)| name.clone()) else { return };
            open.remove(&name);
        }
    }

    /// The run with the newest model.
    fn choose(&self) -> Option<String> {
        let live = locked(&self.open)
            .iter()
            .find(|(_, open)| open.stamp.is_none())
            .map(|(name, _)| name.clone());
        let newest = || {
            let changed = |name: &String| {
                let folder = self.runs.folder(name)?;
                Some(stamp_of(&folder.join(MODEL))?.1)
            };
            let runs = self.runs.names().into_iter();
            runs.filter_map(|name| Some((changed(&name)?, name))).max().map(|(_, name)| name)
        };
        let name = live.filter(|name| !name.is_empty()).or_else(newest)?;
        *locked(&self.chosen) = Some((name.clone(), Instant::now()));
        Some(name)
    }

    /// Whether there are runs, but none with a model.
    fn waits(&self) -> bool {
        !matches!(self.subject, Subject::Model(_)) && self.choose().is_none()
    }

    fn none_yet(&self) -> Problem {
        Problem::new(503, "no run has saved a model yet")
            .hint("the first is saved after the first epoch, or as --save-every says")
            .retry_after(5)
    }
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    let data = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some((data.len(), data.modified().ok()?))
}

/// Whether a folder is a run directory.
pub(crate) fn is_run(path: &Path) -> bool {
    path.join(CONFIG).is_file() && path.join(vit_run::METRICS).is_file()
}

fn locked<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}
