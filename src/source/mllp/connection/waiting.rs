//! The answer to a message for whose outcome it was waited. The connection waits with it: the next message's answer comes after.

use std::ops::ControlFlow;

use tracing::debug;

use super::{Connection, End, Judged};
use crate::journal::{Receipt, Repeat};
use crate::source::Waiter;

impl Connection {
    /// Answers a message that is on disk once it is known what became of it, or when the time for that is over. One that came
    /// before gets what became of the first one; an acknowledgement that was kept, because the channel answered on receipt then,
    /// is given again.
    pub(super) async fn answer_outcome(
        &mut self,
        receipt: &Receipt,
        judged: &Judged,
        waiter: Waiter,
    ) -> ControlFlow<End> {
        let first = receipt.recipients().first().map(|recipient| recipient.id);
        let is_new = receipt.repeat() != Repeat::SameBody;
        if let (false, Some(kept), Some(id)) = (is_new, receipt.acknowledgement(), first) {
            return self.answer(Some(kept.clone()), id).await;
        }
        let (Some(awaited), Some(id)) = (self.options.awaited.clone(), first) else { return ControlFlow::Continue(()) };
        let waiter = if is_new { waiter } else { self.intake.waiter(id) };
        let fate = self.intake.fate(waiter, &awaited.until, awaited.longest, is_new, &self.stop).await;
        debug!(channel = self.intake.channel(), peer = self.peer, message = %id, end = fate.end.as_str(), "its outcome");
        let answer = judged.outcome(&fate, self.intake.next_id());
        self.answer(answer, id).await
    }
}
