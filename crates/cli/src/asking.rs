//! Asking a pipeline that runs in another process for a verification, by way of the state directory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use syncline_core::{Error, ErrorKind, PipelineName, Result, TablePattern};
use syncline_engine::diff::RowDifference;
use syncline_engine::{Asks, Verified};
use syncline_store::{Asked, RunId, RunRecord, Store};

use crate::signals::Stop;
use crate::verifying;

/// How often a running pipeline looks whether it is asked something.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often who asked looks for an answer.
const ANSWER_EVERY: Duration = Duration::from_millis(200);
/// A run that has not seen the question by then does not listen: it does not follow, or is of another version.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// A verification that is asked for.
#[derive(Serialize, Deserialize)]
pub(crate) struct Question {
    pub(crate) tables: Vec<TablePattern>,
    pub(crate) repair: bool,
    /// Bounds of the repair.
    #[serde(default)]
    pub(crate) guard: Vec<String>,
    pub(crate) samples: usize,
}

/// What was found. Samples travel beside the report, which never holds values when it is kept.
#[derive(Serialize, Deserialize)]
struct Answer {
    verified: Verified,
    samples: Vec<Vec<RowDifference>>,
}

impl Answer {
    fn of(verified: Verified) -> Self {
        let samples = verified.tables.iter().map(|table| table.samples.clone()).collect();
        Self { verified, samples }
    }

    fn whole(mut self) -> Verified {
        for (table, samples) in self.verified.tables.iter_mut().zip(self.samples) {
            table.samples = samples;
        }
        self.verified
    }
}

/// Asks the run and waits for its answer. `None`: stopped before it came.
///
/// # Errors
/// As the store; configuration if the run does not listen; retriable if it ended without an answer.
pub(crate) async fn ask(
    store: &Store,
    run: &RunRecord,
    question: &Question,
    stop: &Stop,
) -> Result<Option<Verified>> {
    let id = tokio::task::block_in_place(|| store.ask(run.id, &json(question)?))?;
    let answer = tokio::select! {
        answer = answer(store, run, id) => answer.map(Some),
        () = stop.asked() => Ok(None),
    };
    tokio::task::block_in_place(|| store.forget_ask(id))?;
    answer
}

async fn answer(store: &Store, run: &RunRecord, id: syncline_store::AskId) -> Result<Verified> {
    let begun = Instant::now();
    loop {
        tokio::time::sleep(ANSWER_EVERY).await;
        match tokio::task::block_in_place(|| store.asked(id))? {
            Asked::Answered(answer) => {
                let answer: Answer = serde_json::from_value(answer)
                    .map_err(|error| Error::conflict("the answer cannot be read").with_source(error))?;
                return Ok(answer.whole());
            }
            Asked::Waiting if begun.elapsed() > TAKEN_WITHIN => return Err(does_not_listen(run)),
            Asked::Waiting | Asked::Taken => {}
        }
        let still = tokio::task::block_in_place(|| running(store, &run.pipeline))?;
        if still.is_none_or(|still| still.id != run.id) {
            return Err(
                Error::new(ErrorKind::Retriable, "the run ended before it answered").with_remedy("ask again")
            );
        }
    }
}

fn does_not_listen(run: &RunRecord) -> Error {
    let message = format!("pipeline `{}` is running (process {}) and does not answer", run.pipeline, run.pid);
    Error::configuration(message).with_remedy(
        "only a run with --follow can be asked; wait for its end, or stop it with Ctrl-C or SIGTERM",
    )
}

/// The run of a pipeline that goes on now.
///
/// # Errors
/// As the store.
pub(crate) fn running(store: &Store, name: &PipelineName) -> Result<Option<RunRecord>> {
    Ok(store.runs(name, 10)?.into_iter().find(|run| run.running))
}

/// Answers what the run is asked, until dropped.
pub(crate) async fn listen(store: Store, run: RunId, asks: Arc<Asks>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let served = match tokio::task::block_in_place(|| store.take_ask(run)) {
            Ok(Some((id, question))) => {
                let verified = verified(&asks, question).await;
                tokio::task::block_in_place(|| store.answer(id, &json(&Answer::of(verified))?))
            }
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            tracing::warn!(%error, "a question could not be answered");
        }
    }
}

async fn verified(asks: &Asks, question: serde_json::Value) -> Verified {
    let failed = |error: String| Verified { error: Some(error), ..Verified::default() };
    let question: Question = match serde_json::from_value(question) {
        Ok(question) => question,
        Err(_) => return failed("the question is of another version".to_owned()),
    };
    let guard = match verifying::guard(&question.guard) {
        Ok(guard) => guard,
        Err(error) => return failed(error.to_string()),
    };
    let ask = verifying::ask(question.tables, question.repair.then_some(guard), question.samples);
    match asks.ask(ask) {
        Ok(answer) => {
            answer.await.unwrap_or_else(|_| failed("the stream broke off meanwhile; ask again".to_owned()))
        }
        Err(error) => failed(error.to_string()),
    }
}

fn json(value: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| Error::bug("a message cannot be written").with_source(error))
}
