//! JSON events: one object per line on stdout, `event` says which.

use std::time::{Duration, Instant};

use serde::Serialize;
use syncline_core::PipelineName;

use super::Display;
use super::view::{Moment, View};
use crate::output;

/// `{"event":"progress",…}` about once a second, when something changed.
pub(super) struct Events {
    pipeline: PipelineName,
    last: Option<String>,
}

#[derive(Serialize)]
struct ProgressEvent<'a> {
    event: &'static str,
    pipeline: &'a PipelineName,
    #[serde(flatten)]
    moment: Moment<'a>,
}

impl Events {
    pub(super) fn new(pipeline: PipelineName) -> Self {
        Self { pipeline, last: None }
    }
}

impl Display for Events {
    fn tick(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn show(&mut self, _now: Instant, view: &View) {
        let event = ProgressEvent { event: "progress", pipeline: &self.pipeline, moment: view.moment() };
        let Ok(line) = serde_json::to_string(&event) else { return };
        if self.last.as_ref() != Some(&line) {
            output::to_stdout(&format!("{line}\n"));
            self.last = Some(line);
        }
    }

    fn clear(&mut self) {}
}
