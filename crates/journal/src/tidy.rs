//! Freeing: what no lane needs goes, wherever it stands.
//!
//! - A segment that every lane has behind itself is removed.
//! - A sealed segment in which nobody wants a change shrinks to the progress it stands for.
//! - Above the high-water mark, a sealed segment that is mostly unwanted is rewritten to what is wanted of it.
//!
//! Neighbours that became small are rewritten together, so that a lane that waits for long pins few files.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use syncline_core::{Error, Result};

use crate::freed;
use crate::need::Need;
use crate::rewrite::rewrite;
use crate::segment::Segment;
use crate::segment_file::{Header, remove};
use crate::shape::Shape;
use crate::state::{Shared, State};

/// What a rewritten segment costs beyond its changes; below four of them nothing is worth a rewrite.
const OVERHEAD_BYTES: u64 = 1024;

/// Small neighbours that are rewritten together even if nothing of them is freed.
const SMALL_MAX: usize = 16;

/// A segment to be rewritten.
pub(crate) struct Old {
    pub(crate) header: Header,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    pub(crate) shapes: Vec<Arc<Shape>>,
    pub(crate) begin: u64,
    pub(crate) bytes: u64,
    pub(crate) to: syncline_core::Position,
    pub(crate) last_seq: u64,
    /// Whether anybody wants a change in it; if not, it need not be read.
    pub(crate) is_wanted: bool,
}

/// Frees what can be freed, on another thread if there is anything. Returns whether there was.
pub(crate) async fn tidy_if_due(shared: &Arc<Shared>) -> Result<bool> {
    if !is_due(shared) {
        return Ok(false);
    }
    let shared = shared.clone();
    let tidied = tokio::task::spawn_blocking(move || tidy(&shared)).await;
    tidied.map_err(|error| Error::bug("freeing the journal broke off").with_source(error))?.map(|()| true)
}

/// Cheap: asked after each load.
fn is_due(shared: &Shared) -> bool {
    let state = shared.lock();
    let Some(needs) = &state.needs else { return false };
    front_behind(&state, needs) > 0 || next_run(&state, shared, needs).is_some()
}

/// Frees what can be freed. Blocks; one at a time.
fn tidy(shared: &Shared) -> Result<()> {
    let _structure = shared.structure.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(needs) = shared.lock().needs.clone() else { return Ok(()) };
    free_front(shared, &needs)?;
    loop {
        let Some(run) = next_run(&shared.lock(), shared, &needs) else { return Ok(()) };
        if let Some(last) = run.last() {
            freed::remember(&shared.options.dir, &needs, &last.to)?;
        }
        let segment = rewrite(&shared.options.dir, &shared.interner, &needs, &run)?;
        replace(shared, segment, &run)?;
    }
}

/// How many sealed segments at the beginning every lane has behind itself.
fn front_behind(state: &State, needs: &[Need]) -> usize {
    let sealed = state.segments.len().saturating_sub(1);
    let behind = |segment: &&Segment| needs.iter().all(|need| segment.is_behind(&need.after));
    state.segments.iter().take(sealed).take_while(behind).count()
}

fn free_front(shared: &Shared, needs: &[Need]) -> Result<()> {
    let (count, last) = {
        let state = shared.lock();
        let count = front_behind(&state, needs);
        (count, count.checked_sub(1).map(|last| state.segments[last].to.clone()))
    };
    let Some(last) = last else { return Ok(()) };
    freed::remember(&shared.options.dir, needs, &last)?;
    let freed: Vec<Segment> = shared.lock().segments.drain(..count).collect();
    // From the beginning on, so that what an interruption leaves has no hole.
    for segment in &freed {
        remove(&segment.path)?;
    }
    shared.room.send_modify(|tick| *tick += 1);
    Ok(())
}

/// The next segments to be rewritten into one.
fn next_run(state: &State, shared: &Shared, needs: &[Need]) -> Option<Vec<Old>> {
    let is_high = state.bytes() >= shared.options.high_water_bytes();
    let target = shared.options.seal_bytes();
    let sealed = state.segments.len().saturating_sub(1);
    let mut run = Run::default();
    for segment in state.segments.iter().take(sealed) {
        let live = segment.live_bytes(needs);
        let is_wasteful = is_wasteful(segment, live, is_high);
        let is_small = segment.bytes <= target / 8;
        if (is_wasteful || is_small) && run.bytes + live <= target {
            run.add(segment, live, is_wasteful);
            continue;
        }
        if run.is_worth_it() {
            break;
        }
        run = Run::default();
        if is_wasteful || is_small {
            run.add(segment, live, is_wasteful);
        }
    }
    run.is_worth_it().then_some(run.segments)
}

/// Whether a rewrite frees enough to be worth it.
fn is_wasteful(segment: &Segment, live: u64, is_high: bool) -> bool {
    let shrank = segment.live_when_rewritten.is_none_or(|before| live < before && live * 2 <= before);
    let mostly_unwanted = live == 0 || is_high && live * 2 <= segment.bytes;
    shrank && mostly_unwanted && segment.bytes >= live + 4 * OVERHEAD_BYTES
}

/// Neighbours being considered.
#[derive(Default)]
struct Run {
    segments: Vec<Old>,
    bytes: u64,
    frees: bool,
}

impl Run {
    fn add(&mut self, segment: &Segment, live: u64, frees: bool) {
        self.bytes += live + OVERHEAD_BYTES;
        self.frees |= frees;
        self.segments.push(Old {
            header: segment.header.clone(),
            path: segment.path.clone(),
            file: segment.file.clone(),
            shapes: segment.shapes.clone(),
            begin: segment.offset_of_seq(0),
            bytes: segment.bytes,
            to: segment.to.clone(),
            last_seq: segment.last_seq,
            is_wanted: live > 0,
        });
    }

    fn is_worth_it(&self) -> bool {
        self.frees || self.segments.len() >= SMALL_MAX
    }
}

/// Puts a rewritten segment in the place of those it covers.
fn replace(shared: &Shared, segment: Segment, run: &[Old]) -> Result<()> {
    let mut state = shared.lock();
    let place = state.segments.partition_point(|known| known.header.id < segment.header.id);
    state.segments.drain(place..place + run.len());
    state.segments.insert(place, segment);
    drop(state);
    for old in &run[1..] {
        remove(&old.path)?;
    }
    shared.room.send_modify(|tick| *tick += 1);
    Ok(())
}
