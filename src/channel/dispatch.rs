//! How a destination's lane sends: `order_by`, `parallel`, `on_poison`, `on`.

use schemars::JsonSchema;
use serde::Deserialize;
use toml::Spanned;

use crate::config::{self, Rate, Table};
use crate::destination::{DestinationKind, Rules};
use crate::expr::Expression;

/// Keys of a destination that are read here.
const KEYS: &[&str] = &["order_by", "parallel", "on_poison", "rate"];
/// How many deliveries of different orders are under way at once where the file does not say.
const PARALLEL: usize = 4;
/// … and at most.
const MAX_PARALLEL: usize = 64;

/// What a dead letter does to what comes after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnPoison {
    /// The lane waits until somebody retries or cancels the dead letter.
    Block,
    /// The lane goes on.
    DeadLetter,
    /// What has the same key waits until somebody retries or cancels the dead letter.
    HoldKey,
}

/// How a lane sends.
#[derive(Debug, Clone)]
pub struct Dispatch {
    /// What deliveries keep their order by; none: there is one order for all.
    pub order_by: Option<Expression>,
    /// So many deliveries are under way at once.
    pub parallel: usize,
    /// What a dead letter does to what comes after it.
    pub on_poison: OnPoison,
    /// So many attempts are begun in which time, at most.
    pub rate: Option<Rate>,
    /// What becomes of a delivery after which fault.
    pub on: Rules,
}

/// The keys of a destination about its lane.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DispatchKeys {
    /// Deliveries for which this gives the same keep their order; the others may overtake them. Evaluated after the
    /// destination's own steps, as in "msg['PID-3.1']". Not given: all leave in order of arrival, one at a time.
    order_by: Option<Expression>,
    /// How many deliveries may be under way at once, each on a connection of its own: at most 64. Needs `order_by`.
    #[schemars(with = "Option<u32>", extend("default" = PARALLEL))]
    parallel: Option<Spanned<u32>>,
    /// What a dead letter does to what comes after it: "block" (all wait until somebody retries or cancels it; the default
    /// without `order_by`), "hold_key" (those with the same key wait; the default with it), "dead_letter" (nothing).
    #[schemars(with = "Option<OnPoison>")]
    on_poison: Option<Spanned<OnPoison>>,
    /// How many messages may leave in which time, as in "50/s" or "10/m", evenly spread; further attempts at one count, too. All
    /// that are under way at once share it. Without it, as fast as the peer takes them.
    rate: Option<Rate>,
}

impl Dispatch {
    /// Takes the keys out of a destination's table.
    pub(super) fn take(table: &mut Table<'_>, kind: Option<&DestinationKind>) -> Option<Dispatch> {
        let rules = table.take("on").map(|entry| match kind {
            Some(kind) => Rules::read(entry, kind.name, kind.faults),
            None => Rules::default(),
        });
        let keys: DispatchKeys = table.split_off(KEYS).read()?;
        let is_keyed = keys.order_by.is_some();
        if let Some(parallel) = &keys.parallel {
            check_parallel(parallel, is_keyed);
        }
        if let Some(on_poison) =
            keys.on_poison.as_ref().filter(|word| *word.get_ref() == OnPoison::HoldKey && !is_keyed)
        {
            let help = "write `order_by = \"msg['PID-3.1']\"`, or `block`: without keys there is one order for all";
            let message = "`on_poison = \"hold_key\"` needs `order_by`";
            config::report(on_poison.span(), message, "there is no key to hold", Some(help.to_owned()));
        }
        let by_default = if is_keyed { OnPoison::HoldKey } else { OnPoison::Block };
        let parallel = keys.parallel.map_or(PARALLEL, |parallel| *parallel.get_ref() as usize);
        Some(Dispatch {
            order_by: keys.order_by,
            parallel: if is_keyed { parallel } else { 1 },
            on_poison: keys.on_poison.map_or(by_default, Spanned::into_inner),
            rate: keys.rate,
            on: rules.unwrap_or_default(),
        })
    }
}

fn check_parallel(parallel: &Spanned<u32>, is_keyed: bool) {
    if !(1..=MAX_PARALLEL as u32).contains(parallel.get_ref()) {
        let help = "each of them is a connection of its own to the partner".to_owned();
        config::report(parallel.span(), format!("`parallel` must be from 1 to {MAX_PARALLEL}"), "", Some(help));
    } else if !is_keyed {
        let help = "write `order_by = \"msg['PID-3.1']\"` to keep the order of each patient's messages, or leave `parallel` out";
        let label = "side by side, a later message could overtake an earlier one";
        config::report(parallel.span(), "`parallel` needs `order_by`", label, Some(help.to_owned()));
    }
}
