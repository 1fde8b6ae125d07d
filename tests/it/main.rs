//! The integration tests: one binary, because linking is what costs. They drive the real `labwire` and real peers.
#![allow(clippy::unwrap_used, clippy::disallowed_macros)]

mod support;

mod check;
mod cli;
mod conformance;
mod crash;
mod events;
mod readme;
mod reload;
mod steps;
mod tidy;
