//! The integration tests: one binary, because linking is what costs. They drive the real `labwire` and real peers.
#![allow(clippy::unwrap_used, clippy::disallowed_macros, unreachable_pub)]

mod support;

mod acks;
mod api;
mod batches;
mod bench;
mod between_channels;
mod channel_tests;
mod charsets;
mod check;
mod cli;
mod commands;
mod conformance;
mod connector_docs;
mod corpus;
mod crash;
mod delivery;
mod disk_full;
mod drop;
mod email;
mod events;
mod faults;
mod faults_by_class;
mod fax;
mod files;
mod formats;
mod hosted;
mod http;
mod http_source;
mod journal;
mod journal_commands;
mod lanes;
mod load;
mod mllp;
mod mllp_destination;
mod poison;
mod pressure;
mod readme;
mod reload;
mod retention;
mod sftp;
mod steps;
mod tidy;
mod timer;
mod tls;
