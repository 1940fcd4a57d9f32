//! What a run shows while it runs: a live display on a terminal, plain lines elsewhere, JSON events for programs.

mod events;
pub(crate) mod format;
mod live;
mod plain;
pub(crate) mod summary;
pub(crate) mod view;

use std::time::{Duration, Instant};

use syncline_core::PipelineName;

use crate::args::Output;
use crate::output;
use view::View;

/// One pipeline's display.
pub(crate) trait Display: Send {
    /// How often [`Display::show`] wants to be called.
    fn tick(&self) -> Duration;

    /// Shows a moment of the run.
    fn show(&mut self, now: Instant, view: &View);

    /// Takes the display away; what stays on the screen is the summary.
    fn clear(&mut self);
}

/// The display that fits where the output goes. Lines carry the pipeline's name if several run.
pub(crate) fn display(output: Output, name: &PipelineName, several: bool) -> Box<dyn Display> {
    let prefix = if several { format!("{name}: ") } else { String::new() };
    match output {
        Output::Json => Box::new(events::Events::new(name.clone())),
        Output::Text if output::is_watched() => Box::new(live::Live::new(prefix)),
        Output::Text => Box::new(plain::Plain::new(prefix)),
    }
}
