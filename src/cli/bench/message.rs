//! The messages of the benchmark. Made up: no real person.

use std::fmt::Write as _;

const HEAD: &str = "MSH|^~\\&|LAB|ACME|EHR|CLINIC|20260115103000||ORU^R01^ORU_R01|MSG00001|P|2.5.1\r\
    PID|1||A-104233^^^ACME^MR||Nagy^Ilona\r";
const VISIT: &str = "PV1|1|O|CLIN^101^A||||D-17^Kovacs^Peter|||LAB||||||||V0001\r\
    OBR|1|O-1|F-1|CBC^Complete blood count^L|||20260115085500\r";
/// Larger messages carry a document in one field, as those with a report in PDF do.
const DOCUMENT_BYTES: usize = 1 << 20;

/// An ORU^R01 of about so many bytes: at least 200.
pub(super) fn oru(bytes: usize) -> Vec<u8> {
    let mut text = HEAD.to_owned();
    if bytes >= 500 {
        text.push_str(VISIT);
    }
    if bytes >= DOCUMENT_BYTES {
        let _ = write!(text, "OBX|1|ED|PDF^Report^L||^AP^PDF^Base64^{}||||||F\r", "JVBERi0x".repeat(bytes / 8));
        return text.into_bytes();
    }
    let mut number = 0;
    while text.len() + 60 < bytes {
        number += 1;
        let _ = write!(
            text,
            "OBX|{number}|NM|WBC^Leukocytes^L||6.{}|10*9/L|4.0-10.0|N|||F|||20260115085500\r",
            number % 10
        );
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hl7::{Limits, Message};

    #[test]
    fn they_are_about_as_long_as_asked() {
        for bytes in [200, 1000, 30_000, 3_000_000] {
            let message = oru(bytes);
            assert!(message.len().abs_diff(bytes) < 80 + bytes / 1000, "{bytes}: {}", message.len());
            Message::parse(message, &Limits::default()).unwrap();
        }
    }
}
