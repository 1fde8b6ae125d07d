//! The business references by which people look a message up.

use std::fmt;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::hl7;

/// What a reference points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefKind {
    /// The tenant.
    Lab,
    /// Patient identifier: PID-3.1.
    Patient,
    /// Visit number: PV1-19.1.
    Visit,
    /// Bill number.
    Bill,
    /// Order number: ORC-2.1, ORC-3.1, OBR-2.1, OBR-3.1.
    Order,
    /// Accession number of a sample: OBR-18, SPM-2.
    Sample,
    /// Report number.
    Report,
    /// MSH-10.
    ControlId,
    /// MSH-9, as `ORU^R01`.
    MessageType,
    /// The message of another channel that it comes from.
    Parent,
}

impl RefKind {
    /// Every kind, in the order in which they are shown.
    pub const ALL: [RefKind; 10] = [
        RefKind::Lab,
        RefKind::Patient,
        RefKind::Visit,
        RefKind::Bill,
        RefKind::Order,
        RefKind::Sample,
        RefKind::Report,
        RefKind::ControlId,
        RefKind::MessageType,
        RefKind::Parent,
    ];

    /// The word used in the API, in filters and in the journal.
    pub fn as_str(self) -> &'static str {
        match self {
            RefKind::Lab => "lab",
            RefKind::Patient => "patient",
            RefKind::Visit => "visit",
            RefKind::Bill => "bill",
            RefKind::Order => "order",
            RefKind::Sample => "sample",
            RefKind::Report => "report",
            RefKind::ControlId => "control_id",
            RefKind::MessageType => "message_type",
            RefKind::Parent => "parent",
        }
    }
}

impl fmt::Display for RefKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One reference.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ref {
    /// What it points to.
    pub kind: RefKind,
    /// The number or name itself.
    pub value: String,
}

impl fmt::Debug for Ref {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ref({})", self.kind)
    }
}

/// The references of one message, each once.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Refs(Vec<Ref>);

/// A longer value is cut: index keys stay small.
const MAX_VALUE_BYTES: usize = 200;
/// More references than this are not kept: a hostile message must not flood the index.
const MAX_REFS: usize = 64;

impl Refs {
    /// Adds a reference unless it is empty or known already.
    pub fn add(&mut self, kind: RefKind, value: &str) {
        let value = value.trim();
        let mut end = value.len().min(MAX_VALUE_BYTES);
        while !value.is_char_boundary(end) {
            end -= 1;
        }
        let value = &value[..end];
        let is_known = self.0.iter().any(|entry| entry.kind == kind && entry.value == value);
        if !value.is_empty() && self.0.len() < MAX_REFS && !is_known {
            self.0.push(Ref { kind, value: value.to_owned() });
        }
    }

    /// All of them, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Ref> {
        self.0.iter()
    }

    /// The first of a kind.
    pub fn first(&self, kind: RefKind) -> Option<&str> {
        self.0.iter().find(|entry| entry.kind == kind).map(|entry| entry.value.as_str())
    }
}

impl Refs {
    /// The references in a body. Only those formats that have agreed places for them have any.
    pub fn of(body: &super::Body) -> Refs {
        match body {
            super::Body::Hl7(message) => Refs::of_hl7(message),
            super::Body::Batch(batch) => batch.messages().iter().fold(Refs::default(), |mut refs, message| {
                Refs::of_hl7(message).iter().for_each(|entry| refs.add(entry.kind, &entry.value));
                refs
            }),
            super::Body::Json(event) => Refs::of_event(event),
            super::Body::Encoded(encoded) => Refs::of(&encoded.body),
            super::Body::Text(_) | super::Body::Xml(_) | super::Body::Csv(_) | super::Body::Bytes(_) => Refs::default(),
        }
    }

    /// The references in an HL7 message, at the places where the standard keeps them.
    pub fn of_hl7(message: &hl7::Message) -> Refs {
        /// Field, what it refers to, whether in every segment of that name.
        const PLACES: &[(&str, RefKind, bool)] = &[
            ("MSH-10", RefKind::ControlId, false),
            ("PID-3.1", RefKind::Patient, false),
            ("PV1-19.1", RefKind::Visit, false),
            ("ORC-2.1", RefKind::Order, true),
            ("ORC-3.1", RefKind::Order, true),
            ("OBR-2.1", RefKind::Order, true),
            ("OBR-3.1", RefKind::Order, true),
            ("OBR-18", RefKind::Sample, true),
            ("SPM-2.1", RefKind::Sample, true),
        ];
        static PATHS: LazyLock<Vec<(hl7::Path, RefKind, bool)>> = LazyLock::new(|| {
            let parse = |text: &str| text.parse().expect("the paths above are valid");
            PLACES.iter().map(|(text, kind, every)| (parse(text), *kind, *every)).collect()
        });
        let mut refs = Refs::default();
        if let Some(kind) = message_type(message) {
            refs.add(RefKind::MessageType, &kind);
        }
        for (path, kind, every) in PATHS.iter() {
            let count = if *every { message.count(path.segment()).min(MAX_REFS) } else { 1 };
            for occurrence in (1..).take(count) {
                if let Ok(Some(text)) = message.text(&path.with_occurrence(occurrence)) {
                    refs.add(*kind, &text);
                }
            }
        }
        refs
    }

    /// The references in an event `{action, lab, data}`.
    pub fn of_event(event: &serde_json::Value) -> Refs {
        let mut refs = Refs::default();
        let mut add = |kind, value: Option<&serde_json::Value>| match value {
            Some(serde_json::Value::String(text)) => refs.add(kind, text),
            Some(serde_json::Value::Number(number)) => refs.add(kind, &number.to_string()),
            _ => {}
        };
        add(RefKind::Lab, event.get("lab"));
        let data = event.get("data").unwrap_or(&serde_json::Value::Null);
        for identifier in data.pointer("/patient/identifiers").and_then(|list| list.as_array()).into_iter().flatten() {
            add(RefKind::Patient, identifier.get("value"));
        }
        add(RefKind::Bill, data.pointer("/bill/number"));
        add(RefKind::Order, data.pointer("/order/number"));
        add(RefKind::Report, data.pointer("/report/number"));
        let tests = ["/tests", "/report/tests"].into_iter().filter_map(|list| data.pointer(list)?.as_array()).flatten();
        for test in tests {
            add(RefKind::Sample, test.pointer("/specimen/accession"));
        }
        refs
    }
}

/// MSH-9 as `ORU^R01`.
fn message_type(message: &hl7::Message) -> Option<String> {
    static PATHS: LazyLock<[hl7::Path; 2]> =
        LazyLock::new(|| ["MSH-9.1", "MSH-9.2"].map(|text| text.parse().expect("a valid path")));
    let part = |path: &hl7::Path| message.text(path).ok().flatten().unwrap_or_default().into_owned();
    let (code, event) = (part(&PATHS[0]), part(&PATHS[1]));
    match (code.is_empty(), event.is_empty()) {
        (true, _) => None,
        (false, true) => Some(code),
        (false, false) => Some(format!("{code}^{event}")),
    }
}
