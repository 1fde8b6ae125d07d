//! Labwire: the interface engine for clinical laboratories.
//!
//! # The map of the house
//!
//! A message's way, from left to right, and the module that is responsible for each stretch:
//!
//! ```text
//! bytes ─▶ source ─▶ journal ─▶ acknowledgement
//!                       │
//!                       ▼
//!              channel (worker) ─▶ transformer ─▶ journal
//!                                                    │
//!                                                    ▼
//!                                          channel (lane) ─▶ destination ─▶ journal
//! ```
//!
//! | module | is responsible for |
//! |---|---|
//! | [`hl7`] | HL7 v2 as it is on the wire: reading, editing and acknowledging without changing what nobody edited |
//! | [`mllp`] | MLLP frames: bytes in, frames out, with a limit |
//! | [`message`] | what moves: ids, envelope, body, references |
//! | [`journal`] | the durable record; only it can make a [`journal::Receipt`] |
//! | [`config`] | TOML with a place for every mistake: durations, addresses, secrets |
//! | [`diagnostic`] | mistakes, drawn as a compiler draws them |
//! | [`expr`] | the expression language, compiled when a file is read |
//! | [`lookup_table`] | CSV tables |
//! | [`net`] | what several connectors share: SSH, TLS, HTTP, networks |
//! | [`source`], [`transformer`], [`destination`] | one file for each kind; `KINDS` in each `mod.rs` is the register |
//! | [`action`] | the registry of business events |
//! | [`channel`] | channel files, and one channel at work: worker, lanes, tests |
//! | [`engine`] | all channels, events, reload |
//! | [`hosted`] | Labwire's own SFTP server |
//! | [`server`] | the HTTP API |
//! | [`monitor`] | counters |
//! | [`cli`] | the commands; the only place that prints and ends the process |
//!
//! Dependencies point one way: `cli, server -> engine -> channel -> { source, transformer, destination, journal, action } ->
//! { message, mllp, net, expr } -> hl7`; a test checks it (`tests/it/tidy.rs`). `ARCHITECTURE.md` has the invariants.

pub mod action;
pub mod channel;
pub mod cli;
pub mod config;
pub mod destination;
pub mod diagnostic;
pub mod engine;
pub mod expr;
pub mod hl7;
pub mod hosted;
pub mod journal;
pub mod lookup_table;
pub mod message;
pub mod mllp;
pub mod monitor;
pub mod net;
pub mod server;
pub mod source;
pub mod transformer;
