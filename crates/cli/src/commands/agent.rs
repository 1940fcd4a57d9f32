//! `agent`: reads databases for comparisons that are made elsewhere, and writes what table syncs elsewhere send, until it is
//! stopped.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use syncline_connectors::registry;
use syncline_core::{Error, Result};
use syncline_server::{Identity, Listener, Served, Token};

use crate::args::{AgentArgs, GlobalArgs, Output};
use crate::commands::diff::readers;
use crate::config::{self, AgentSpec, environment};
use crate::exit::{Exit, Failure};
use crate::{output, signals, spec};

/// What is said when the first signal comes.
const STOPPING: &str = "stopping: what is under way gets a moment to end; once more stops at once\n";

/// Runs the command: 0 after a signal.
///
/// # Errors
/// Configuration if a connection, the token, the certificate or the address cannot be used.
pub(crate) async fn run(args: &AgentArgs, global: &GlobalArgs) -> Result<Exit, Failure> {
    let AgentSpec { listen, connections, writable, token_file, tls_cert, tls_key } = match &args.config {
        Some(file) => config::load_agent(file)?,
        None => told(args)?,
    };
    let listen = listen.unwrap_or_else(|| args.listen.clone());
    let writable = may_be_written(&writable, &connections)?;
    let token = Token::load(token_file.as_deref())?;
    let identity = match (&tls_cert, &tls_key) {
        (Some(certificate), Some(key)) => Some(Identity::load(certificate, key)?),
        _ => None,
    };
    let stop = signals::listen(STOPPING, || {})?;
    let listener = Listener::bind(&listen, identity.as_ref()).await?;
    let (address, tls) = (listener.address()?, identity.is_some());
    let names: Vec<&String> = connections.keys().collect();
    match global.output {
        Output::Text => {
            let told = |name: &&String| match writable.contains(*name) {
                true => format!("{name} (writable)"),
                false => (*name).clone(),
            };
            let names = names.iter().map(told).collect::<Vec<_>>().join(", ");
            let tls = if tls { "with TLS" } else { "without TLS" };
            output::to_stdout(&format!("listening at {address} {tls}: {names}\n"));
        }
        Output::Json => output::to_stdout_line(
            &json!({ "event": "listening", "address": address, "tls": tls, "connections": names,
                "writable": writable }),
        ),
    }
    let served = Served {
        token,
        connections,
        open: Box::new(registry::source),
        writable,
        open_writable: Box::new(registry::destination),
        holds: Arc::default(),
        readers: readers(),
    };
    listener.serve(served, stop.asked()).await;
    Ok(stop.at_once().unwrap_or(Exit::DONE))
}

/// The agent that the arguments describe.
fn told(args: &AgentArgs) -> Result<AgentSpec> {
    Ok(AgentSpec {
        listen: Some(args.listen.clone()),
        connections: connections(&args.connection)?,
        writable: args.writable.clone(),
        token_file: args.token_file.clone(),
        tls_cert: args.tls_cert.clone(),
        tls_key: args.tls_key.clone(),
    })
}

/// The URLs behind the names, each looked at before anything is served.
fn connections(texts: &[String]) -> Result<BTreeMap<String, String>> {
    let mut connections = BTreeMap::new();
    for text in texts {
        let (name, url) = connection(text)?;
        if connections.insert(name.clone(), url).is_some() {
            return Err(Error::configuration(format!("two connections have the name `{name}`")));
        }
    }
    Ok(connections)
}

/// Those of the connections that may be written, each looked at before anything is served.
fn may_be_written(names: &[String], connections: &BTreeMap<String, String>) -> Result<BTreeSet<String>> {
    let named = |name: &String| {
        let url = connections.get(name).ok_or_else(|| {
            Error::configuration(format!("`{name}` is to be writable, but is no connection of this agent"))
                .with_remedy("name one of the agent's connections")
        })?;
        registry::destination(url).map_err(|error| error.context(format!("connection `{name}`")))?;
        Ok(name.clone())
    };
    names.iter().map(named).collect()
}

/// `name=url`. What is wrong is said without the URL, which may hold a password.
fn connection(text: &str) -> Result<(String, String)> {
    let (name, url) = text.split_once('=').ok_or_else(|| {
        Error::configuration("a connection has no name that can be used")
            .with_remedy("write --connection name=URL, with a name of letters, digits, `-`, `_` and `.`")
    })?;
    let url = environment::fill(url, &environment::of_process).map_err(|bad| {
        let (message, remedy) =
            bad.into_iter().map(|bad| (bad.message, bad.remedy)).next().unwrap_or_default();
        Error::configuration(format!("connection `{name}`: {message}")).with_remedy(remedy)
    })?;
    Ok((name.to_owned(), named_connection(name, &url)?))
}

/// The URL of a connection, looked at before anything is served.
///
/// # Errors
/// Configuration, without the URL, if it or its name cannot be used.
pub(crate) fn named_connection(name: &str, url: &str) -> Result<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || !name.chars().all(allowed) {
        return Err(Error::configuration("a connection has no name that can be used")
            .with_remedy("name it with letters, digits, `-`, `_` and `.`"));
    }
    let url = spec::from_anywhere(url);
    spec::no_agent(&url)?;
    registry::source(&url).map_err(|error| error.context(format!("connection `{name}`")))?;
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_has_a_name_and_its_url_is_never_repeated() {
        let (name, url) = connection("shop=sqlite:/x/a.db").unwrap();
        assert_eq!((name.as_str(), url.as_str()), ("shop", "sqlite:/x/a.db"));
        for wrong in [
            "postgres://u:s3cret@h/d",
            "=postgres://u:s3cret@h/d",
            "a b=postgres://u:s3cret@h/d",
            "a=oracle://s3cret",
        ] {
            let error = connection(wrong).unwrap_err();
            assert!(!format!("{error} {:?}", error.remedy()).contains("s3cret"), "{error}");
        }
        assert!(connections(&["a=sqlite:/a".to_owned(), "a=sqlite:/b".to_owned()]).is_err());
        assert!(connection("a=syncline://localhost:7077/b").is_err());
    }
}
