//! Log lines, on stderr. Quiet unless asked: what a person must know is told by the commands themselves.

use tracing_subscriber::EnvFilter;

use crate::output;

/// The environment variable that overrides `--verbose`, in `tracing`'s filter syntax.
const FILTER_VARIABLE: &str = "SYNCLINE_LOG";

/// Starts logging: errors only, `-v` info of Syncline, `-vv` everything of Syncline.
pub(crate) fn start(verbose: u8) {
    let default = match verbose {
        0 => "error",
        1 => {
            "warn,syncline=info,syncline_cli=info,syncline_core=info,syncline_engine=info,syncline_connectors=info,syncline_journal=info,syncline_server=info,syncline_store=info"
        }
        _ => {
            "info,syncline=trace,syncline_cli=trace,syncline_core=trace,syncline_engine=trace,syncline_connectors=trace,syncline_journal=trace,syncline_server=trace,syncline_store=trace"
        }
    };
    let filter = std::env::var(FILTER_VARIABLE)
        .ok()
        .and_then(|text| EnvFilter::try_new(text).ok())
        .unwrap_or_else(|| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| output::Stderr)
        .with_ansi(output::is_watched())
        .init();
}
