//! `demo`: all of Syncline at work on one machine, judged by code that shares nothing with it.
//!
//! A shop in SQLite is copied into a second file; then every change is streamed while a writer works on the shop; then
//! both files are compared in full. Exit 0 only if they are equal, 3 if they are not. Nothing is left without `--keep`,
//! also after Ctrl-C.

mod compare;
mod figures;
mod random;
mod report;
mod shop;
mod values;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use syncline_core::{Error, ErrorKind, PipelineName, Result};
use syncline_engine::{Control, Summary};
use syncline_store::Store;
use tempfile::TempDir;

use crate::args::{CaptureChoice, DemoArgs, GlobalArgs, Output};
use crate::exit::{Exit, Failure};
use crate::signals::{self, Stop};
use crate::spec::{PipelineSpec, ResolvedPipeline};
use crate::state::Recorder;
use crate::{output, progress, runner};

use compare::Comparison;
use figures::Watcher;
use shop::Size;
use writer::Tally;

/// Decides the shop's first rows; and, one further, the writer's day.
const SEED: u64 = 0x5ca1_ab1e;
/// After Ctrl-C the run gets this long to let go of the files before they are removed.
const LETTING_GO_MAX: Duration = Duration::from_secs(5);

/// Runs the command.
///
/// # Errors
/// Whatever keeps the demo from coming to a result.
pub(crate) async fn run(args: &DemoArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let place = Place::new(args.keep)?;
    let forced = place.clone();
    let stop = signals::listen("stopping the demo\n", move || forced.leave())?;
    let result = Demo::new(args, global, &place, &stop).play().await;
    place.leave();
    let exit = match (stop.interrupted(), result) {
        (Some(exit), _) => exit,
        (None, result) => result?,
    };
    if args.keep {
        output::to_stderr(&report::kept(&place));
    }
    Ok(exit)
}

/// Where the demo's files are.
#[derive(Clone)]
struct Place {
    dir: Arc<PathBuf>,
    keep: bool,
}

impl Place {
    fn new(keep: bool) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("syncline-demo-")
            .tempdir()
            .map(TempDir::keep)
            .map_err(|error| Error::io("cannot make a folder for the demo", error))?;
        Ok(Self { dir: Arc::new(dir), keep })
    }

    fn shop(&self) -> PathBuf {
        self.dir.join("shop.db")
    }

    fn copy(&self) -> PathBuf {
        self.dir.join("copy.db")
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// Removes everything, unless it is to be kept. Work that was interrupted may still put a file there: more than one
    /// try.
    fn leave(&self) {
        for _ in 0..20 {
            if self.keep || std::fs::remove_dir_all(&*self.dir).is_ok() || !self.dir.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        output::to_stderr(&format!("warning: cannot remove {}\n", self.dir.display()));
    }
}

/// Removes the files also when a panic goes through.
impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.leave();
        }
    }
}

/// One demo.
struct Demo<'a> {
    size: Size,
    time: Duration,
    global: &'a GlobalArgs,
    place: &'a Place,
    stop: &'a Stop,
    /// Ends generator and writer early.
    halt: Arc<AtomicBool>,
}

/// What the acts gave, for the report.
struct Outcome {
    size: Size,
    first: Summary,
    last: Summary,
    tally: Tally,
    watched: figures::Watched,
    comparison: Comparison,
}

impl<'a> Demo<'a> {
    fn new(args: &DemoArgs, global: &'a GlobalArgs, place: &'a Place, stop: &'a Stop) -> Self {
        Self {
            size: Size::of(args.rows),
            time: Duration::from_secs(args.seconds),
            global,
            place,
            stop,
            halt: Arc::default(),
        }
    }

    /// All acts; interrupted, it ends as soon as nothing uses the files any more.
    async fn play(&self) -> Result<Exit> {
        let halt = self.halt.clone();
        let mut acts = Box::pin(self.acts());
        tokio::select! {
            result = &mut acts => return result,
            () = self.stop.asked() => halt.store(true, Ordering::Relaxed),
        }
        // The control has been drained by the signal: the acts end by themselves, or are dropped.
        let _ = tokio::time::timeout(LETTING_GO_MAX, acts).await;
        Err(stopped())
    }

    async fn acts(&self) -> Result<Exit> {
        self.build_shop().await?;
        let pipeline = self.pipeline(true)?;
        let store = Store::open(&self.place.state())?;
        let (first, tally, watched) = self.copy_and_follow(&pipeline, &store).await?;
        self.unless_stopped()?;
        self.say(&report::writer_done(&tally));
        let last = self.catch_up(&store).await?;
        self.unless_stopped()?;
        self.say("Comparing both files, value by value.\n");
        let (shop, copy) = (self.place.shop(), self.place.copy());
        let comparison = blocking(move || compare::compare(&shop, &copy)).await?;
        let outcome = Outcome { size: self.size, first, last, tally, watched, comparison };
        match self.global.output {
            Output::Text => output::to_stdout(&report::text(&outcome)),
            Output::Json => output::to_stdout_line(&report::event(&outcome)),
        }
        Ok(if outcome.comparison.is_equal() { Exit::DONE } else { Exit::DIFFERENT })
    }

    async fn build_shop(&self) -> Result<()> {
        let start = Instant::now();
        let (path, size, halt) = (self.place.shop(), self.size, self.halt.clone());
        blocking(move || shop::build(&path, size, SEED, &halt)).await?;
        self.unless_stopped()?;
        self.say(&report::shop_built(size, &self.place.shop(), start.elapsed(), self.time));
        Ok(())
    }

    fn pipeline(&self, follow: bool) -> Result<ResolvedPipeline> {
        let url = |path: &Path| format!("sqlite:{}", path.display());
        PipelineSpec {
            name: Some(PipelineName::new("demo")?),
            capture: Some(CaptureChoice::Triggers),
            follow,
            ..PipelineSpec::new(url(&self.place.shop()), url(&self.place.copy()))
        }
        .resolve()
    }

    /// First act: the snapshot, then the stream under the writer's work.
    async fn copy_and_follow(
        &self,
        pipeline: &ResolvedPipeline,
        store: &Store,
    ) -> Result<(Summary, Tally, figures::Watched)> {
        let mut recorder = Recorder::begin(store, pipeline)?;
        let (watcher, streaming) = Watcher::new();
        let control = self.stop.control();
        let display = progress::display(self.global.output, &pipeline.name, false);
        let wired = pipeline.wire(store.journal_dir(&pipeline.name));
        let mut watching = watcher.clone();
        let run = runner::run(wired, control.clone(), display, move |now, view| {
            recorder.note(now, view);
            watching.note(now, view);
        });
        let work = async {
            // Without a stream there is nothing to write for: the run has ended, and says why.
            if streaming.await.is_err() {
                return Ok(Tally::default());
            }
            let tally = self.write().await;
            control.drain();
            tally
        };
        let run = async {
            let result = run.await;
            // A run that ended before its stream began has nothing to write for.
            watcher.end();
            result
        };
        let (summary, tally) = tokio::join!(run, work);
        Ok((summary?, tally?, watcher.watched()))
    }

    async fn write(&self) -> Result<Tally> {
        let (path, size, time, halt) = (self.place.shop(), self.size, self.time, self.halt.clone());
        blocking(move || writer::work(&path, size, SEED + 1, time, &halt)).await
    }

    /// Second act: a new run from the checkpoint, until the copy has everything the shop has.
    async fn catch_up(&self, store: &Store) -> Result<Summary> {
        let pipeline = self.pipeline(false)?;
        let recorder = Recorder::begin(store, &pipeline)?;
        let display = progress::display(self.global.output, &pipeline.name, false);
        let wired = pipeline.wire(store.journal_dir(&pipeline.name));
        // A control of its own: the first act's has been drained.
        let run = runner::run(wired, Control::new(), display, |_, _| {});
        let result = tokio::select! {
            result = run => result,
            () = self.stop.asked() => Err(stopped()),
        };
        recorder.end(&result);
        result
    }

    fn unless_stopped(&self) -> Result<()> {
        match self.stop.interrupted() {
            Some(_) => Err(stopped()),
            None => Ok(()),
        }
    }

    fn say(&self, text: &str) {
        output::to_stderr(text);
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Cancelled, "the demo was stopped")
}

/// SQLite's work, on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> rusqlite::Result<T> + Send + 'static,
) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::bug("a part of the demo ended in a panic").with_source(error))?;
    ended.map_err(|error| {
        let kind = match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::ReadOnly) => ErrorKind::Resource,
            _ => ErrorKind::Permanent,
        };
        Error::new(kind, "the demo's own work on its files failed").with_source(error)
    })
}
