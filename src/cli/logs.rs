//! Logs: readable on a terminal, JSON elsewhere; on standard error. Never message content.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Starts logging. `LABWIRE_LOG` takes tracing's filter directives; `default` holds where it is not set.
pub(super) fn start(default: LevelFilter) {
    let filter =
        EnvFilter::builder().with_env_var("LABWIRE_LOG").with_default_directive(default.into()).from_env_lossy();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Only one subscriber can be set; a second call would come from a test in the same process.
    let _ = if super::stderr_is_terminal() {
        logs.compact().with_target(false).with_ansi(super::colour_of(&std::io::stderr())).try_init()
    } else {
        logs.json().flatten_event(true).with_target(false).try_init()
    };
}
