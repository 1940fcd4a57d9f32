//! The connectors against the testkit's suites, on the real systems.

#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;

/// Whether this process makes chunks small, so that few rows are several of them.
fn sizes_are_small() -> bool {
    let points = std::env::var("SYNCLINE_FAILPOINT").unwrap_or_default();
    cfg!(feature = "failpoints") && points.contains("chunk_")
}

/// Runs the cases of a suite that are about chunks in a process of its own: sizes hold for a whole process.
#[cfg(feature = "failpoints")]
fn run_with_small_sizes(test: &str, sizes: &str) {
    for room in ["snapshot::", "window::"] {
        let output = std::process::Command::new(std::env::current_exe().expect("a test binary"))
            .args([test, "--exact", "--nocapture"])
            .env("SYNCLINE_CASE", room)
            .env("SYNCLINE_FAILPOINT", sizes)
            .output()
            .expect("a process");
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}\n{errors}");
        assert!(said.contains("… ok"), "no case ran: {said}");
    }
}
