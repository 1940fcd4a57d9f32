//! `check`: everything that would stop or hurt a pipeline, with the statement that mends it.

use serde_json::json;
use syncline_core::{Finding, Severity};

use crate::args::{GlobalArgs, Output, SyncArgs};
use crate::exit::{Exit, Failure, tell_error};
use crate::progress::format::counted;
use crate::spec::ResolvedPipeline;
use crate::{output, state};

/// Runs the command: 2 if a pipeline cannot run.
///
/// # Errors
/// What is wrong before anything can be checked.
pub(crate) async fn run(args: &SyncArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let pipelines = super::pipelines(args)?;
    let dir = state::directory(&args.state)?;
    let several = pipelines.len() > 1;
    let mut exit = Exit::DONE;
    for pipeline in &pipelines {
        let wired = pipeline.wire(dir.join("journals").join(pipeline.name.as_str()));
        let one = match syncline_engine::check(&wired).await {
            Ok(findings) => tell(pipeline, findings, global),
            Err(error) => {
                tell_error(several.then_some(pipeline.name.as_str()), &error, global);
                Exit(error.kind().exit_code())
            }
        };
        exit = exit.worse(one);
    }
    Ok(exit)
}

fn tell(pipeline: &ResolvedPipeline, mut findings: Vec<Finding>, global: &GlobalArgs) -> Exit {
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.table.cmp(&b.table)));
    match global.output {
        Output::Text => output::to_stdout(&render(pipeline, &findings)),
        Output::Json => {
            output::to_stdout_line(&json!({ "pipeline": pipeline.name, "findings": findings }));
        }
    }
    let refused = findings.iter().any(|finding| finding.severity == Severity::Error);
    if refused { Exit::USAGE } else { Exit::DONE }
}

fn render(pipeline: &ResolvedPipeline, findings: &[Finding]) -> String {
    let mut text =
        format!("{}: {} → {}\n", pipeline.name, pipeline.source.address(), pipeline.destination.address());
    for finding in findings {
        text.push_str(&line(finding));
    }
    text.push_str(&format!("  {}\n", verdict(findings)));
    text
}

fn line(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Note => "note",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let table = finding.table.as_ref().map(|table| format!("{table}: ")).unwrap_or_default();
    let remedy = finding.remedy.as_ref().map(|remedy| format!("           remedy: {remedy}\n"));
    format!("  {severity:<8} {table}{} ({})\n{}", finding.message, finding.code, remedy.unwrap_or_default())
}

fn verdict(findings: &[Finding]) -> String {
    let number = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
    let (errors, warnings) = (number(Severity::Error), number(Severity::Warning));
    let warned = if warnings > 0 { format!(", {}", counted(warnings, "warning")) } else { String::new() };
    match errors {
        0 => format!("ready to run{warned}"),
        _ => format!("cannot run: {}{warned}", counted(errors, "error")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncline_core::TableId;

    #[test]
    fn a_finding_is_a_line_with_its_remedy() {
        let finding = Finding {
            severity: Severity::Error,
            code: "replica_identity",
            table: Some(TableId::new("public", "logs")),
            message: "has no replica identity".to_owned(),
            remedy: Some("ALTER TABLE public.logs REPLICA IDENTITY FULL;".to_owned()),
        };
        assert_eq!(
            line(&finding),
            "  error    public.logs: has no replica identity (replica_identity)\n           \
             remedy: ALTER TABLE public.logs REPLICA IDENTITY FULL;\n"
        );
        assert_eq!(verdict(&[finding]), "cannot run: 1 error");
        assert_eq!(verdict(&[]), "ready to run");
    }
}
