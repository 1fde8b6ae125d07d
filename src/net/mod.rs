//! What two or more connectors share.

pub mod ssh;
mod tcp;

pub(crate) use tcp::{listen, tune};
