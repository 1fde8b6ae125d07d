//! Talks to a running engine's API.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ExitCode, complain};

/// An answer is given up after so long; where something is to be done to many messages, later.
const PATIENCE: Duration = Duration::from_secs(60);
const PATIENCE_WITH_WORK: Duration = Duration::from_secs(60 * 60);

/// Which engine.
#[derive(Debug, Clone, Args)]
pub(super) struct Client {
    /// Address of the engine's API
    #[arg(long, default_value = "127.0.0.1:8080", env = "LABWIRE_ENGINE", global = true)]
    engine: String,
}

impl Client {
    fn url(&self, path: &str) -> String {
        let address = self.engine.strip_prefix("http://").unwrap_or(&self.engine).trim_end_matches('/');
        format!("http://{address}/api/v1{path}")
    }

    fn agent(patience: Duration) -> ureq::Agent {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(patience));
        config.build().into()
    }

    /// Asks. What goes wrong is said, and becomes an exit code.
    pub(super) fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, String)]) -> Result<T, ExitCode> {
        let mut request = Client::agent(PATIENCE).get(self.url(path));
        for (key, value) in query {
            request = request.query(key, value);
        }
        self.answer(request.call())
    }

    /// Tells.
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ExitCode> {
        self.answer(Client::agent(PATIENCE_WITH_WORK).post(self.url(path)).send_json(body))
    }

    fn answer<T: DeserializeOwned>(
        &self,
        result: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<T, ExitCode> {
        let mut response = result.map_err(|error| {
            complain(format!("the engine at {} cannot be reached: {error}", self.engine));
            ExitCode::Unreachable
        })?;
        let status = response.status();
        let reader = response.body_mut().with_config().limit(1 << 30);
        if status.is_success() {
            return reader.read_json().map_err(|error| {
                complain(format!("the engine at {} answered something else than expected: {error}", self.engine));
                ExitCode::Unreachable
            });
        }
        let problem: Value = reader.read_json().unwrap_or_default();
        let message = problem.pointer("/error/message").and_then(Value::as_str);
        complain(message.map_or_else(|| format!("the engine answered {status}"), str::to_owned));
        for problem in problem.pointer("/error/problems").and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| problem.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            complain(format!("  {}: {}", text("pointer"), text("message")));
        }
        Err(ExitCode::No)
    }
}
