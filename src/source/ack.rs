//! When a source acknowledges: the options that `mllp` and `http` have in common.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::Until;
use crate::config::{Duration, report};

/// How long is waited for what becomes of a message where the file does not say.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);

/// When a message is acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AckWhen {
    /// As soon as the message is on disk.
    #[default]
    Received,
    /// Once the transformer is done with it: the answer says whether it failed there.
    Transformed,
    /// Once it was delivered, or will not be: the destination's own answer is passed on.
    Delivered,
}

/// What a source waits for before it acknowledges.
#[derive(Debug, Clone)]
pub(super) struct Awaited {
    pub(super) until: Until,
    pub(super) longest: std::time::Duration,
}

/// The three options about acknowledging, together; reports what does not go together. None where nothing is waited for.
pub(super) fn awaited(
    ack: AckWhen,
    ack_from: Option<&Spanned<String>>,
    ack_timeout: Option<&Spanned<Duration>>,
) -> Option<Awaited> {
    if let Some(from) = ack_from.filter(|_| ack != AckWhen::Delivered) {
        let help = "write `ack = \"delivered\"`, or leave `ack_from` out".to_owned();
        report(from.span(), "`ack_from` needs `ack = \"delivered\"`", "no destination is waited for", Some(help));
    }
    if let Some(timeout) = ack_timeout {
        let help = |text: &str| Some(text.to_owned());
        if ack == AckWhen::Received {
            let message = "`ack_timeout` without anything to wait for";
            let label = "the answer is given on receipt";
            report(
                timeout.span(),
                message,
                label,
                help("write `ack = \"transformed\"` or `\"delivered\"`, or leave it out"),
            );
        } else if *timeout.get_ref() == Duration::from_millis(0) {
            let help = help("a duration shorter than the sender's own patience, as in \"20s\"");
            report(timeout.span(), "nothing happens in no time", "", help);
        }
    }
    let until = match ack {
        AckWhen::Received => return None,
        AckWhen::Transformed => Until::Transformed,
        AckWhen::Delivered => Until::Delivered(ack_from.map(|from| from.get_ref().clone())),
    };
    Some(Awaited { until, longest: ack_timeout.map_or(ACK_TIMEOUT, |timeout| *timeout.get_ref()).get() })
}
