//! One line that tells how far a long run is. Only on a terminal, on standard error: what a program reads stays clean.

use std::io::{self, Write as _};
use std::time::Duration;

const WIDTH: usize = 30;

/// How far a run is. The default shows nothing.
#[derive(Debug, Default)]
pub(in crate::cli) struct Progress {
    visible: bool,
    label: String,
    count: Option<u64>,
    lasts: Option<Duration>,
}

impl Progress {
    /// Shows a bar where standard error is a terminal, for a run of so many messages or of so long.
    pub(in crate::cli) fn bar(label: &str, count: Option<u64>, lasts: Option<Duration>) -> Progress {
        Progress { visible: crate::cli::stderr_is_terminal(), label: label.to_owned(), count, lasts }
    }

    pub(in crate::cli) fn show(&mut self, messages: u64, passed: Duration) {
        if self.visible {
            let _ = write!(io::stderr().lock(), "\r\x1b[K{}", self.line(messages, passed));
        }
    }

    pub(in crate::cli) fn clear(&mut self) {
        if self.visible {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }

    fn line(&self, messages: u64, passed: Duration) -> String {
        // A connection takes its turn before it knows that there is none left.
        let messages = messages.min(self.count.unwrap_or(u64::MAX));
        let parts = [
            self.count.map(|count| messages as f64 / count.max(1) as f64),
            self.lasts.map(|lasts| passed.as_secs_f64() / lasts.as_secs_f64()),
        ];
        let part = parts.into_iter().flatten().fold(0.0, f64::max).min(1.0);
        let full = (part * WIDTH as f64) as usize;
        let rate = messages as f64 / passed.as_secs_f64().max(1e-3);
        let label = &self.label;
        format!("{label}[{:<WIDTH$}] {:>3.0} %  {messages} messages, {rate:.0}/s", "#".repeat(full), part * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_first_fills_the_bar() {
        let (count, lasts) = (Some(1000), Some(Duration::from_secs(10)));
        let progress = Progress { count, lasts, ..Progress::default() };
        let line = progress.line(250, Duration::from_secs(5));
        assert_eq!(line, "[###############               ]  50 %  250 messages, 50/s");
        assert!(progress.line(1001, Duration::from_secs(5)).contains("100 %  1000 messages"));
    }
}
