//! The asking end: a connection to an agent, as the source that it reads.
//!
//! One question at a time. A connection that breaks is made anew at the next question; what was open over the old one is
//! then lost, which is an error worth another try from the beginning.

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use syncline_core::{
    Column, Error, ErrorKind, Family, Finding, Result, Selection, Snapshots, Source, Streams, TableSchema,
};
use tokio::sync::{Mutex, MutexGuard};
use tokio::task::JoinSet;

use super::frame::{Awaited, Link, Message, VERSION, Wire, malformed};
use super::message::{Ask, Hello, Said, Wanted, Welcome};
use super::traffic::{Counter, Exchanged, Purpose, Traffic};

/// An agent that says nothing for so long is not there any more: while it works, it says so each second.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a beginning may take.
const BEGINNING_MAX: Duration = Duration::from_secs(15);
/// Longest description of all tables.
const TABLES_BYTES_MAX: usize = 64 << 20;
/// How often an idle connection is used, so that the agent keeps it.
const PING_EVERY: Duration = Duration::from_secs(20);

/// A carried value as a person reads it.
pub type Show = fn(&Column, &[u8]) -> String;

/// The way to an agent.
#[async_trait]
pub trait Dial: Send + Sync {
    /// A new stream of bytes to it.
    ///
    /// # Errors
    /// As any connection.
    async fn dial(&self) -> Result<Box<dyn Wire>>;

    /// Where it is, without secrets.
    fn address(&self) -> String;

    /// Which of the agent's connections is meant.
    fn connection(&self) -> &str;

    /// What opens it.
    fn token(&self) -> &str;

    /// The family of this name and how its values are shown, if it is known here.
    fn family(&self, name: &str) -> Option<(Family, Show)>;
}

/// A database that an agent reads.
pub struct Agent {
    dial: Arc<dyn Dial>,
    family: Family,
    show: Show,
    state: Mutex<State>,
    traffic: Counter,
    /// Owns the task that keeps the connection alive; dropping it ends the task.
    _pings: JoinSet<()>,
}

#[derive(Default)]
struct State {
    /// Not there while nothing is connected, or while a question was dropped in the middle.
    link: Option<Link>,
    /// Counts connections.
    epoch: u64,
}

/// What a question is for, and what its answer may be.
pub(super) struct Question<'a> {
    pub(super) ask: Ask,
    pub(super) body: &'a [u8],
    pub(super) purpose: Purpose,
    pub(super) body_bytes_max: usize,
    /// The connection that it is about, if it is about something that was open there.
    pub(super) epoch: Option<u64>,
}

impl<'a> Question<'a> {
    pub(super) fn new(ask: Ask, body: &'a [u8], purpose: Purpose, body_bytes_max: usize) -> Self {
        Self { ask, body, purpose, body_bytes_max, epoch: None }
    }
}

impl Agent {
    /// Connects, and asks whose values the agent's side has.
    ///
    /// # Errors
    /// Configuration if the token, the connection's name or the version is wrong; as any connection.
    pub async fn connect(dial: Arc<dyn Dial>) -> Result<Arc<Self>> {
        let traffic = Counter::default();
        let begun = begin(dial.as_ref(), &traffic).await;
        let (link, (family, show)) = begun.map_err(|error| named(error, dial.as_ref()))?;
        Ok(Arc::new_cyclic(|agent| {
            let mut pings = JoinSet::new();
            pings.spawn(keep_alive(Weak::clone(agent)));
            let state = Mutex::new(State { link: Some(link), epoch: 1 });
            Self { dial, family, show, state, traffic, _pings: pings }
        }))
    }

    /// Bytes so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic.so_far()
    }

    /// A carried value as a person reads it.
    pub(in crate::diff) fn shown(&self, column: &Column, value: &[u8]) -> String {
        (self.show)(column, value)
    }

    /// Gives up the snapshots that the agent holds.
    pub(in crate::diff) async fn release(&self) -> Result<()> {
        self.ask::<()>(Question::new(Ask::Release, &[], Purpose::Rest, 0), None).await.map(drop)
    }

    /// Whether the connection on which the last question was asked is still good.
    pub(super) async fn is_connected(&self) -> bool {
        self.state.lock().await.link.is_some()
    }

    /// Whether that connection is this one.
    pub(super) async fn is_on(&self, epoch: u64) -> bool {
        let state = self.state.lock().await;
        state.link.is_some() && state.epoch == epoch
    }

    /// Asks, and waits for the answer: its head, its body, and the connection's number.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        question: Question<'_>,
        progress: Option<&mut (dyn FnMut(u64) + Send)>,
    ) -> Result<(T, Vec<u8>, u64)> {
        let state = self.state.lock().await;
        self.ask_with(state, question, progress).await.map_err(|error| named(error, self.dial.as_ref()))
    }

    async fn ask_with<T: DeserializeOwned>(
        &self,
        mut state: MutexGuard<'_, State>,
        question: Question<'_>,
        progress: Option<&mut (dyn FnMut(u64) + Send)>,
    ) -> Result<(T, Vec<u8>, u64)> {
        if question.epoch.is_some_and(|epoch| epoch != state.epoch || state.link.is_none()) {
            return Err(lost());
        }
        let mut link = match state.link.take() {
            Some(link) => link,
            None => {
                let (link, (family, _)) = begin(self.dial.as_ref(), &self.traffic).await?;
                if family != self.family {
                    return Err(Error::conflict("the agent reads another system now"));
                }
                state.epoch += 1;
                link
            }
        };
        let before = (link.sent_bytes, link.received_bytes);
        let answered = exchange(&mut link, &question, progress).await;
        self.traffic.add(question.purpose, exchanged(&link, before));
        let message = answered?;
        let said: Said<T> = message.head()?;
        // Only a connection on which everything went well is used again.
        state.link = Some(link);
        match said {
            Said::Done(done) => Ok((done, message.body, state.epoch)),
            Said::Failed(failure) => Err(failure.into_error()),
        }
    }
}

fn named(error: Error, dial: &dyn Dial) -> Error {
    error.context(format!("agent {}", dial.address()))
}

async fn exchange(
    link: &mut Link,
    question: &Question<'_>,
    progress: Option<&mut (dyn FnMut(u64) + Send)>,
) -> Result<Message> {
    link.send(&question.ask, question.body).await?;
    let awaited = Awaited { body_bytes_max: question.body_bytes_max, silence_max: SILENCE_MAX };
    let mut ignored = |_| ();
    link.receive(awaited, Some(progress.unwrap_or(&mut ignored))).await?.ok_or_else(lost)
}

fn exchanged(link: &Link, before: (u64, u64)) -> Exchanged {
    Exchanged { sent_bytes: link.sent_bytes - before.0, received_bytes: link.received_bytes - before.1 }
}

/// A connection on which the agent has let us in.
async fn begin(dial: &dyn Dial, traffic: &Counter) -> Result<(Link, (Family, Show))> {
    let beginning = async {
        let mut link = Link::new(dial.dial().await?);
        let welcome = greet(&mut link, dial).await;
        traffic.add(Purpose::Rest, exchanged(&link, (0, 0)));
        let family = dial.family(&welcome?.family).ok_or_else(|| {
            Error::configuration("the agent reads a system that is not known here")
                .with_remedy("use the same release of Syncline on both sides")
        })?;
        Ok((link, family))
    };
    let begun = tokio::time::timeout(BEGINNING_MAX, beginning).await;
    let late = || Error::new(ErrorKind::Retriable, "it does not answer");
    begun.unwrap_or_else(|_| Err(late()))
}

async fn greet(link: &mut Link, dial: &dyn Dial) -> Result<Welcome> {
    link.send_preface().await?;
    let version = link.receive_preface(BEGINNING_MAX).await.map_err(|error| match error.kind() {
        ErrorKind::Permanent | ErrorKind::Retriable => no_agent(error),
        _ => error,
    })?;
    if version != VERSION {
        return Err(other_version(version));
    }
    let hello = Hello { connection: dial.connection().to_owned(), token: dial.token().to_owned() };
    link.send(&hello, &[]).await?;
    let awaited = Awaited { body_bytes_max: 0, silence_max: BEGINNING_MAX };
    let message = link.receive(awaited, None).await?.ok_or_else(lost)?;
    match message.head()? {
        Said::Done(welcome) => Ok(welcome),
        Said::Failed(failure) => Err(failure.into_error()),
    }
}

/// Uses the connection now and then for as long as the agent is used.
async fn keep_alive(agent: Weak<Agent>) {
    loop {
        tokio::time::sleep(PING_EVERY).await;
        let Some(agent) = agent.upgrade() else { return };
        // While a question is under way, the connection is in use.
        let Ok(state) = agent.state.try_lock() else { continue };
        if state.link.is_some() {
            let ping = Question::new(Ask::Ping, &[], Purpose::Rest, 0);
            if let Err(error) = agent.ask_with::<()>(state, ping, None).await {
                // Whoever asks next hears of it.
                tracing::debug!(%error, "the agent does not answer");
            }
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Retriable, "the connection to the agent was lost")
        .with_remedy("see whether the agent still runs, then run again")
}

fn no_agent(error: Error) -> Error {
    Error::new(
        error.kind(),
        "what answers there is no agent, or one that speaks TLS, or one that far too many ask at once",
    )
    .with_remedy("see at which port the agent said it listens; for TLS, add ?tls=on to the URL")
    .with_source(error)
}

/// Two releases that do not understand each other.
pub(super) fn other_version(version: u16) -> Error {
    Error::configuration(format!(
        "one end speaks version {VERSION} of the protocol, the other version {version}"
    ))
    .with_remedy("use the same release of Syncline on both sides")
}

#[async_trait]
impl Source for Agent {
    fn family(&self) -> Family {
        self.family
    }

    fn address(&self) -> String {
        self.dial.address()
    }

    async fn check(&self, _selection: &Selection, _streamed: bool) -> Result<Vec<Finding>> {
        Err(Error::configuration("an agent is no source of a pipeline"))
    }

    async fn discover(&self, selection: &Selection) -> Result<Vec<TableSchema>> {
        let ask = Ask::Discover(Wanted::of(selection));
        let question = Question::new(ask, &[], Purpose::Rest, TABLES_BYTES_MAX);
        let ((), body, _) = self.ask(question, None).await?;
        let tables: Vec<TableSchema> = serde_json::from_slice(&body)
            .map_err(|_| named(malformed("tables cannot be read"), self.dial.as_ref()))?;
        let places = |table: &TableSchema| table.row_key.iter().all(|&place| place < table.columns.len());
        if tables.iter().all(places) {
            return Ok(tables);
        }
        Err(named(malformed("a key has no columns"), self.dial.as_ref()))
    }

    /// Its tables are read by the agent, not through it.
    fn snapshots(&self) -> Option<&dyn Snapshots> {
        None
    }

    fn streams(&self) -> Option<&dyn Streams> {
        None
    }
}
