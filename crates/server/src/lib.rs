//! Where one Syncline talks to another: sockets, TLS and tokens. What is said over them is the engine's
//! (`syncline_engine::diff::remote`).
//!
//! | module | what it is for |
//! |---|---|
//! | [`Listener`] | an agent: listens, judges tokens, answers sessions |
//! | [`AgentUrl`] | `syncline://host:port/connection`, and the way there |
//! | [`Token`] | the secret that both ends know |
//! | `tls` | both ends of TLS, with certificates of one's own making |
//!
//! Nothing is listened to from outside without TLS, and nothing at all without a token.

mod listener;
mod tls;
mod token;
mod url;

pub use listener::{Listener, Served};
pub use tls::Identity;
pub use token::{TOKEN_VARIABLE, Token};
pub use url::AgentUrl;
