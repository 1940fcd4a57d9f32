//! Requests that share one round trip.
//!
//! The client sends a request when its future is polled first, so futures polled in order arrive in order, and the
//! server answers them in order. A small load is one flight: begin, data, checkpoint, fence, commit.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Row, Statement};

/// A parameter in PostgreSQL's binary form for whatever type the statement gives it.
#[derive(Clone)]
pub(super) struct Param(Option<Bytes>);

impl Param {
    pub(super) fn text(text: &str) -> Self {
        Self(Some(Bytes::copy_from_slice(text.as_bytes())))
    }

    pub(super) fn bytes(bytes: &[u8]) -> Self {
        Self(Some(Bytes::copy_from_slice(bytes)))
    }

    pub(super) fn int8(number: i64) -> Self {
        Self::bytes(&number.to_be_bytes())
    }

    /// Bytes held.
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, Bytes::len)
    }

    /// Bytes that are the value's binary form already.
    pub(super) fn binary(value: Option<Bytes>) -> Self {
        Self(value)
    }
}

/// Parameters are row values: they have no text form, because the client library logs parameters at debug level.
impl std::fmt::Debug for Param {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl ToSql for Param {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match &self.0 {
            Some(bytes) => {
                out.extend_from_slice(bytes);
                Ok(IsNull::No)
            }
            None => Ok(IsNull::Yes),
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// One request.
pub(super) enum Request {
    /// SQL text without parameters whose counts nobody needs.
    Batch(String),
    /// A prepared statement; the answer is the number of rows it touched.
    Execute(Statement, Vec<Param>),
    /// A prepared statement; the answer is its rows.
    Query(Statement, Vec<Param>),
}

/// What came back.
#[derive(Debug)]
pub(super) enum Answer {
    Done,
    Touched(u64),
    Rows(Vec<Row>),
}

type Pending<'a> = Pin<Box<dyn Future<Output = Result<Answer, tokio_postgres::Error>> + Send + 'a>>;

/// Sends all requests in order, then waits for all answers.
pub(super) async fn send(
    client: &Client,
    requests: Vec<Request>,
) -> Vec<Result<Answer, tokio_postgres::Error>> {
    let mut pending: Vec<Pending<'_>> = requests.into_iter().map(|request| future(client, request)).collect();
    let mut answers: Vec<_> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, answer) in pending.iter_mut().zip(&mut answers) {
            if answer.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(cx)
            {
                *answer = Some(ready);
            }
        }
        if answers.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    answers.into_iter().flatten().collect()
}

fn future(client: &Client, request: Request) -> Pending<'_> {
    match request {
        Request::Batch(sql) => {
            Box::pin(async move { client.batch_execute(&sql).await.map(|()| Answer::Done) })
        }
        Request::Execute(statement, params) => {
            Box::pin(async move { client.execute_raw(&statement, params).await.map(Answer::Touched) })
        }
        Request::Query(statement, params) => Box::pin(async move {
            let mut stream = Box::pin(client.query_raw(&statement, params).await?);
            let mut rows = Vec::new();
            while let Some(row) = stream.next().await {
                rows.push(row?);
            }
            Ok(Answer::Rows(rows))
        }),
    }
}
