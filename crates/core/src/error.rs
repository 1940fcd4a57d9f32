//! One error type. Its kind is a decision: what the engine does next, and what the operator is told.
//!
//! A kind is set where the typed code is known (SQLSTATE, errno), never from the text of a message.

use std::fmt;

use crate::name::TableId;

/// The result of everything that can fail in Syncline.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means for the run. [`ErrorKind::reaction`] is the one table from kind to action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The other end is gone, busy or restarting; the same step may succeed later.
    Retriable,
    /// The outcome of a write is not known: its answer was lost. The checkpoint tells.
    Unknown,
    /// The other end says no, and will say no again.
    Permanent,
    /// The configuration, a URL, a privilege or a server setting is wrong.
    Configuration,
    /// A value or a row cannot be stored as it is; others can.
    Data,
    /// The state found contradicts the state remembered: a gap, a recreated slot, a checkpoint that does not fit.
    Conflict,
    /// A guard stopped the run before its first write.
    Guard,
    /// More rows would be set aside than the pipeline allows.
    DeadLetters,
    /// Another holder has the pipeline.
    Fenced,
    /// This machine has no room or no right to write (disk full, read-only, too many files).
    Resource,
    /// The run was asked to stop.
    Cancelled,
    /// An invariant of Syncline itself does not hold: a defect.
    Bug,
}

/// What the engine does about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Read the checkpoint again and go on from there, with back-off, a bounded number of times.
    Retry,
    /// Stop the table the error names; the others go on. Without a table: end the run.
    StopTable,
    /// End the run and tell the operator.
    EndRun,
}

impl ErrorKind {
    /// The table kind → action.
    #[must_use]
    pub fn reaction(self) -> Reaction {
        match self {
            Self::Retriable | Self::Unknown => Reaction::Retry,
            Self::Data => Reaction::StopTable,
            Self::Permanent
            | Self::Configuration
            | Self::Conflict
            | Self::Guard
            | Self::DeadLetters
            | Self::Fenced
            | Self::Resource
            | Self::Cancelled
            | Self::Bug => Reaction::EndRun,
        }
    }

    /// Process exit code for a run that ends with an error of this kind (see the README's table).
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Configuration => 2,
            Self::Guard => 4,
            Self::DeadLetters => 5,
            Self::Retriable
            | Self::Unknown
            | Self::Permanent
            | Self::Data
            | Self::Conflict
            | Self::Fenced
            | Self::Resource
            | Self::Cancelled
            | Self::Bug => 1,
        }
    }

    /// What an operator can do when the error itself carries no better advice.
    #[must_use]
    pub fn general_remedy(self) -> Option<&'static str> {
        match self {
            Self::Retriable | Self::Unknown => Some(
                "check that the server is up and reachable, then run again: it goes on from the checkpoint",
            ),
            Self::Resource => {
                Some("free space or raise the limit, then run again: it goes on from the checkpoint")
            }
            Self::Data => Some(
                "make the destination's table take what the source has (types, labels of enums, constraints), or correct \
                 the row at the source, then run again",
            ),
            Self::Bug => Some(
                "nothing was lost: report this with the message above; running again goes on from the checkpoint",
            ),
            _ => None,
        }
    }
}

/// An error with its decision, what was being done, the table concerned, and a remedy.
///
/// `Display` is the message with its context, lowercase, without final stop and without the source chain. It never
/// holds a row value or a secret.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<String>,
    table: Option<TableId>,
    rows_at_fault: bool,
    breaks_reference: bool,
    misses_changes: bool,
    remedy: Option<String>,
    code: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// The code of an error of a load for which the destination's table lacks a part (a partition) that a row belongs to.
pub const MISSING_PART: &str = "missing_part";

impl Error {
    /// A new error of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                context: Vec::new(),
                table: None,
                rows_at_fault: false,
                breaks_reference: false,
                misses_changes: false,
                remedy: None,
                code: None,
                source: None,
            }),
        }
    }

    /// Wrong configuration, URL, privilege or server setting.
    pub fn configuration(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Configuration, message)
    }

    /// State that contradicts what is remembered.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// A broken invariant of our own.
    pub fn bug(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Bug, message)
    }

    /// An I/O error of this machine, classified by errno: no space and no right are [`ErrorKind::Resource`],
    /// what a peer does to a connection is [`ErrorKind::Retriable`]. The system's reason follows the message: without it
    /// nobody knows what to mend.
    pub fn io(message: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::StorageFull
            | Io::QuotaExceeded
            | Io::ReadOnlyFilesystem
            | Io::PermissionDenied
            | Io::FileTooLarge => ErrorKind::Resource,
            Io::ConnectionRefused
            | Io::ConnectionReset
            | Io::ConnectionAborted
            | Io::BrokenPipe
            | Io::UnexpectedEof
            | Io::TimedOut
            | Io::NotConnected
            | Io::HostUnreachable
            | Io::NetworkUnreachable
            | Io::NetworkDown
            | Io::Interrupted
            | Io::WouldBlock => ErrorKind::Retriable,
            _ => ErrorKind::Permanent,
        };
        Self::new(kind, format!("{}: {source}", message.into())).with_source(source)
    }

    /// Says what was being done. Outer contexts come first on the screen.
    #[must_use]
    pub fn context(mut self, what: impl Into<String>) -> Self {
        self.inner.context.push(what.into());
        self
    }

    /// Names the table at fault, which then stops alone if the kind allows it.
    #[must_use]
    pub fn with_table(mut self, table: &TableId) -> Self {
        self.inner.table = Some(table.clone());
        self
    }

    /// Says that single rows of the load are at fault, not their table: without them the others can be stored. Said by
    /// connectors, where the typed code is known; such rows may be set aside as dead letters.
    #[must_use]
    pub fn with_rows_at_fault(mut self) -> Self {
        self.inner.rows_at_fault = true;
        self
    }

    /// Whether single rows are at fault, see [`Error::with_rows_at_fault`].
    #[must_use]
    pub fn rows_at_fault(&self) -> bool {
        self.inner.rows_at_fault && self.inner.kind == ErrorKind::Data
    }

    /// Says that rows of the table refer to rows that are not there (a foreign key). Those may come later in the same load, so
    /// which rows are at fault is known only at its end.
    #[must_use]
    pub fn with_broken_reference(mut self) -> Self {
        self.inner.breaks_reference = true;
        self
    }

    /// Whether rows refer to others that are not there, see [`Error::with_broken_reference`].
    #[must_use]
    pub fn breaks_reference(&self) -> bool {
        self.inner.breaks_reference && self.inner.kind == ErrorKind::Data
    }

    /// Says that changes are missing between what a pipeline has read and what its source's log still has: reading on cannot
    /// make the destination right again.
    #[must_use]
    pub fn with_changes_missing(mut self) -> Self {
        self.inner.misses_changes = true;
        self
    }

    /// Whether changes are missing, see [`Error::with_changes_missing`].
    #[must_use]
    pub fn misses_changes(&self) -> bool {
        self.inner.misses_changes
    }

    /// Says what the operator can do.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<String>) -> Self {
        self.inner.remedy = Some(remedy.into());
        self
    }

    /// The other end's own code (SQLSTATE, errno, HTTP).
    #[must_use]
    pub fn with_code(mut self, code: impl Into<String>) -> Self {
        self.inner.code = Some(code.into());
        self
    }

    /// The lower error this one came from.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.inner.source = Some(source.into());
        self
    }

    /// The decision.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The table at fault, if the error is about one.
    #[must_use]
    pub fn table(&self) -> Option<&TableId> {
        self.inner.table.as_ref()
    }

    /// What the operator can do: the error's own advice, else the general one of its kind.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.inner.remedy.as_deref().or_else(|| self.inner.kind.general_remedy())
    }

    /// The other end's code, if it gave one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.inner.code.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for what in self.inner.context.iter().rev() {
            write!(f, "{what}: ")?;
        }
        if let Some(table) = &self.inner.table {
            write!(f, "table {table}: ")?;
        }
        f.write_str(&self.inner.message)?;
        match &self.inner.code {
            Some(code) => write!(f, " [{code}]"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.inner.kind)?;
        let mut source = std::error::Error::source(self);
        while let Some(lower) = source {
            write!(f, " <- {lower}")?;
            source = lower.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.source.as_deref().map(|source| source as _)
    }
}

/// Adds context to a failed result, as [`Error::context`] does to an error.
pub trait Context<T> {
    /// Says what was being done when the error came.
    ///
    /// # Errors
    /// The same error, with its context.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| error.context(what()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_puts_outer_context_first_and_the_systems_reason_last() {
        let error = Error::io("cannot write", std::io::Error::from(std::io::ErrorKind::StorageFull))
            .context("writing a segment")
            .context("journal");
        assert_eq!(error.to_string(), "journal: writing a segment: cannot write: no storage space");
        assert_eq!(error.kind(), ErrorKind::Resource);
        assert!(error.remedy().is_some());
    }

    #[test]
    fn a_lost_connection_is_retried_and_a_wrong_setting_is_not() {
        let lost = Error::io("read", std::io::Error::from(std::io::ErrorKind::ConnectionReset));
        assert_eq!(lost.kind().reaction(), Reaction::Retry);
        assert_eq!(Error::configuration("x").kind().reaction(), Reaction::EndRun);
        assert_eq!(ErrorKind::Configuration.exit_code(), 2);
    }
}
