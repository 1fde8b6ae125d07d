//! What two or more connectors share.

pub(crate) mod dial;
pub mod drop;
pub(crate) mod framing;
pub(crate) mod http;
pub mod networks;
pub mod ssh;
mod tcp;
pub mod tls;
pub(crate) mod webhook;

pub(crate) use tcp::{listen, tune};
