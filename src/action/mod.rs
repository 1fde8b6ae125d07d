//! The registry of actions: the business events of the laboratory platform, each with an id that never changes.

pub mod event;

use serde::Serialize;

/// One business event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Action {
    /// Its number, for ever.
    pub id: u16,
    /// Its name.
    pub name: &'static str,
    /// The part of the laboratory's work that it belongs to.
    pub category: Category,
    /// The actions with the same family share one event schema.
    pub family: &'static str,
}

/// A part of the laboratory's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Bills, claims, invoices.
    Billing,
    /// From collection to storage.
    Sample,
    /// Reports and results.
    Reporting,
    /// Patients and organisations.
    Registration,
    /// Appointments and home collection.
    Appointment,
}

const fn action(id: u16, name: &'static str, category: Category, family: &'static str) -> Action {
    Action { id, name, category, family }
}

/// All actions, by id.
pub const ACTIONS: &[Action] = &[
    action(1, "Bill Generation", Category::Billing, "bill"),
    action(2, "Bill Update", Category::Billing, "bill"),
    action(3, "Bill Cancel", Category::Billing, "bill"),
    action(4, "Bill Reset", Category::Billing, "bill"),
    action(5, "Bill Refund", Category::Billing, "bill"),
    action(6, "Sample Receive", Category::Sample, "sample receive"),
    action(7, "Sample Reject", Category::Sample, "sample status"),
    action(9, "Sample Redraw", Category::Sample, "sample redraw"),
    action(10, "Report Save (With Values)", Category::Reporting, "report"),
    action(12, "Report Signed", Category::Reporting, "report"),
    action(15, "Report Submit (With Values)", Category::Reporting, "report"),
    action(17, "Bill Settlement", Category::Billing, "bill"),
    action(18, "Add Test to Bill", Category::Billing, "add-test"),
    action(19, "Report PDF (Webhook)", Category::Reporting, "report"),
    action(28, "HL7 Integration", Category::Reporting, "report"),
    action(30, "Sample Collect", Category::Sample, "sample status"),
    action(31, "Sample Uncollect", Category::Sample, "sample status"),
    action(32, "Appointment Status", Category::Appointment, "appointment"),
    action(35, "Report Submit, Consolidated Structured Format", Category::Billing, "consolidated report"),
    action(37, "Home Collection Assigned / Reassigned", Category::Appointment, "home collection"),
    action(43, "Home Collection Initiated", Category::Appointment, "home collection"),
    action(49, "Bill Generation HL7 for SFTP (Outbound)", Category::Billing, "bill"),
    action(50, "Report Submit with SFTP", Category::Reporting, "report"),
    action(52, "Organisation Update", Category::Registration, "organisation"),
    action(56, "Send Reports via Fax", Category::Reporting, "report"),
    action(57, "New Patient Registered", Category::Registration, "patient"),
    action(58, "Update Patient Info", Category::Registration, "patient"),
    action(60, "Claim Submission Webhook", Category::Billing, "claim"),
    action(61, "Claim Approval Webhook (Remittance)", Category::Billing, "remittance"),
    action(62, "Create/Update/Delete Invoice", Category::Billing, "invoice"),
    action(63, "Sample ID Update", Category::Sample, "sample status"),
];

/// The action with this number.
pub fn find(id: u16) -> Option<&'static Action> {
    ACTIONS.iter().find(|action| action.id == id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_31_actions_in_the_order_of_their_ids() {
        assert_eq!(ACTIONS.len(), 31);
        assert!(ACTIONS.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert_eq!(find(49).map(|action| action.name), Some("Bill Generation HL7 for SFTP (Outbound)"));
        assert_eq!(find(8), None);
    }
}
