//! Which acknowledgements a sender wants (HL7 v2.5.1 §2.9.2, table 0155).

use super::header::Header;

/// How a message is to be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// One application acknowledgement (AA, AE, AR): MSH-15 and MSH-16 are both empty.
    Original,
    /// An accept acknowledgement (CA, CE, CR) and, on its own, an application acknowledgement, each on a condition.
    Enhanced {
        /// MSH-15.
        accept: Condition,
        /// MSH-16.
        application: Condition,
    },
}

/// When an acknowledgement is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// `AL`, and every value that table 0155 does not have: a sender who asks for something gets an answer.
    Always,
    /// `NE`, and empty where the other of the two fields is valued.
    Never,
    /// `ER`.
    OnError,
    /// `SU`.
    OnSuccess,
}

impl Condition {
    /// Reads MSH-15 or MSH-16.
    pub fn parse(field: &[u8]) -> Condition {
        match field.trim_ascii() {
            b"NE" | b"" | b"\"\"" => Condition::Never,
            b"ER" => Condition::OnError,
            b"SU" => Condition::OnSuccess,
            _ => Condition::Always,
        }
    }

    /// Whether an acknowledgement of this outcome is wanted.
    pub fn wants(self, success: bool) -> bool {
        match self {
            Condition::Always => true,
            Condition::Never => false,
            Condition::OnError => !success,
            Condition::OnSuccess => success,
        }
    }
}

impl Header {
    /// Original mode where MSH-15 and MSH-16 are both empty, else enhanced.
    pub fn mode(&self) -> Mode {
        let empty = |field: &[u8]| matches!(field.trim_ascii(), b"" | b"\"\"");
        if empty(self.accept_ack()) && empty(self.application_ack()) {
            return Mode::Original;
        }
        Mode::Enhanced {
            accept: Condition::parse(self.accept_ack()),
            application: Condition::parse(self.application_ack()),
        }
    }

    /// Whether an accept acknowledgement (CA, CE, CR) of this outcome is wanted; never in original mode.
    pub fn accept_ack_wanted(&self, positive: bool) -> bool {
        match self.mode() {
            Mode::Original => false,
            Mode::Enhanced { accept, .. } => accept.wants(positive),
        }
    }

    /// Whether an application acknowledgement (AA, AE, AR) of this outcome is wanted; always in original mode.
    pub fn application_ack_wanted(&self, positive: bool) -> bool {
        match self.mode() {
            Mode::Original => true,
            Mode::Enhanced { application, .. } => application.wants(positive),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_0155() {
        // Accept acknowledgement wanted on success, on error; application acknowledgement likewise.
        for (msh15, msh16, accept, application) in [
            ("", "", (false, false), (true, true)),
            ("\"\"", "", (false, false), (true, true)),
            ("AL", "", (true, true), (false, false)),
            ("AL", "NE", (true, true), (false, false)),
            ("AL", "AL", (true, true), (true, true)),
            ("NE", "AL", (false, false), (true, true)),
            ("NE", "NE", (false, false), (false, false)),
            ("ER", "SU", (false, true), (true, false)),
            ("SU", "ER", (true, false), (false, true)),
            ("", "ER", (false, false), (false, true)),
            ("ZZ", "NE", (true, true), (false, false)),
            ("al", "NE", (true, true), (false, false)),
        ] {
            let text = format!("MSH|^~\\&|||||||||||||{msh15}|{msh16}\r");
            let header = Header::scan(text.as_bytes()).unwrap();
            let got = |wanted: fn(&Header, bool) -> bool| (wanted(&header, true), wanted(&header, false));
            assert_eq!(got(Header::accept_ack_wanted), accept, "{msh15}/{msh16}");
            assert_eq!(got(Header::application_ack_wanted), application, "{msh15}/{msh16}");
            assert_eq!(header.mode() == Mode::Original, matches!(msh15, "" | "\"\"") && msh16.is_empty());
        }
    }
}
