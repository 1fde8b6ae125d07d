//! What is answered where it was waited for what becomes of a message (`ack = "transformed"` or `"delivered"`).
//!
//! | the message | original mode | enhanced mode |
//! |---|---|---|
//! | was transformed, was filtered, was delivered | AA | AA if MSH-16 wants it, else CA if MSH-15 does, else nothing |
//! | could not be transformed; its delivery was cancelled; nothing was known in time | AE 207 | AE, else CE, else nothing |
//! | is a dead letter | AE or AR as the receiver said, with its MSA-3 and ERR; AE 207 where it said nothing | the same, else CE or CR |
//!
//! A batch has one fate for all of its messages, that of the first which did not end well; each has its own answer.
//!
//! This answer is the word of the system behind us, so it is an application acknowledgement where the sender wants one. The
//! receiver's own mode does not matter: its CA is told as AA. Where a rule of the channel turns what it said into the opposite
//! (`on = { AE = "sent" }`), the rule counts, and nothing of what it said is passed on.

use super::{Judged, error_code, in_set};
use crate::hl7::{self, Ack, AckCode, Header, Mode, Relayed};
use crate::message::MessageId;
use crate::source::{End, Fate};

/// The three kinds of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Error,
    Rejected,
}

impl Verdict {
    fn of(code: AckCode) -> Verdict {
        match code {
            AckCode::AA | AckCode::CA => Verdict::Accepted,
            AckCode::AE | AckCode::CE => Verdict::Error,
            AckCode::AR | AckCode::CR => Verdict::Rejected,
        }
    }

    fn codes(self) -> (AckCode, AckCode) {
        match self {
            Verdict::Accepted => (AckCode::CA, AckCode::AA),
            Verdict::Error => (AckCode::CE, AckCode::AE),
            Verdict::Rejected => (AckCode::CR, AckCode::AR),
        }
    }
}

impl Judged {
    /// Whether the sender wants to know what becomes of the message, whatever that is. One that cannot be processed is answered
    /// at once.
    pub(in crate::source::mllp) fn wants_outcome(&self) -> bool {
        let verdicts = [Verdict::Accepted, Verdict::Error, Verdict::Rejected];
        let wants = |header: Option<&Header>| verdicts.into_iter().any(|verdict| code_for(header, verdict).is_some());
        let wanted = match &self.batch {
            Some(heads) => heads.messages.is_empty() || heads.messages.iter().any(|(header, _)| wants(header.as_ref())),
            None => wants(self.header.as_ref()),
        };
        self.rejection.is_none() && wanted
    }

    /// What is answered; none where the sender wants no such answer. The same fate gives the same bytes, but for one that is not
    /// known yet: that answer is another one each time, with a control id of its own (`fresh`).
    pub fn outcome(&self, fate: &Fate, fresh: MessageId) -> Option<Vec<u8>> {
        let said = fate.response.as_deref().and_then(Relayed::read);
        let (verdict, text, said) = match fate.end {
            End::Filtered | End::Transformed => (Verdict::Accepted, None, None),
            End::Sent => (Verdict::Accepted, None, said.filter(|said| Verdict::of(said.code()) == Verdict::Accepted)),
            End::Errored => (Verdict::Error, Some("message could not be transformed"), None),
            End::Cancelled => (Verdict::Error, Some("delivery was cancelled by hand"), None),
            End::Pending => {
                let text = "message is kept, but what becomes of it was not known in time; send it again to learn that";
                (Verdict::Error, Some(text), None)
            }
            End::Dead => match said.map(|said| (Verdict::of(said.code()), said)) {
                Some((verdict, said)) if verdict != Verdict::Accepted => (verdict, None, Some(said)),
                _ => (Verdict::Error, Some("message could not be delivered"), None),
            },
        };
        let id = if fate.end == End::Pending { fresh } else { fate.id };
        let timestamp = fate.at.strftime("%Y%m%d%H%M%S%z").to_string();
        let error = text.map(|_| error_code::INTERNAL);
        self.each(id, &timestamp, |header, set, id| {
            let code = code_for(header, verdict)?;
            let ack = Ack { code, control_id: &id.short(), timestamp: &timestamp, text, error };
            Some(match said.as_ref().filter(|_| self.batch.is_none()) {
                Some(said) => said.build(ack, header),
                None => in_set(ack.build(header), set),
            })
        })
    }
}

/// The code for a message of this header; none where its sender wants no such answer.
fn code_for(header: Option<&Header>, verdict: Verdict) -> Option<AckCode> {
    if header.is_some_and(Header::is_ack) {
        return None;
    }
    let (accept, application) = verdict.codes();
    let is_good = verdict == Verdict::Accepted;
    match header.map_or(Mode::Original, hl7::Header::mode) {
        Mode::Original => Some(application),
        Mode::Enhanced { application: when, .. } if when.wants(is_good) => Some(application),
        Mode::Enhanced { accept: when, .. } if when.wants(is_good) => Some(accept),
        Mode::Enhanced { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::judge;
    use super::*;

    const ID: &str = "01KF0K8Y20TEST000000000001";
    const FRESH: &str = "01KF0K8Y20TEST000000000002";

    fn look(modes: &str) -> Judged {
        let header = format!("MSH|^~\\&|A|B|C|D|2026||ORU^R01|9|P|2.5|||{modes}\r");
        judge(&Bytes::from(header), &hl7::Limits::default())
    }

    fn answer(modes: &str, end: End, response: &str) -> String {
        let at = "2026-01-15T10:30:00Z".parse().expect("a time");
        let response = Some(Bytes::copy_from_slice(response.as_bytes())).filter(|response| !response.is_empty());
        let id = ID.parse().expect("an id");
        let fate = Fate { id, end, at, received_at: at, response, answered: None };
        let answer = look(modes).outcome(&fate, FRESH.parse().expect("an id"));
        answer.map_or("nothing".to_owned(), |bytes| String::from_utf8(bytes).expect("ASCII here"))
    }

    fn msa(answer: &str) -> &str {
        answer.split_once("\rMSA|").map_or(answer, |(_, msa)| msa.split('\r').next().unwrap_or_default())
    }

    #[test]
    fn what_became_of_it_is_what_is_answered() {
        let said = |code: &str| format!("MSH|^~\\&|X\rMSA|{code}|77|so\r");
        for (end, response, expected) in [
            (End::Filtered, "", "AA|9"),
            (End::Transformed, "", "AA|9"),
            (End::Sent, "", "AA|9"),
            (End::Sent, "written to a file", "AA|9"),
            (End::Sent, &said("AA"), "AA|9|so"),
            (End::Sent, &said("CA"), "AA|9|so"),
            (End::Sent, &said("AE"), "AA|9"),
            (End::Errored, "", "AE|9|message could not be transformed"),
            (End::Dead, "", "AE|9|message could not be delivered"),
            (End::Dead, &said("AA"), "AE|9|message could not be delivered"),
            (End::Dead, &said("AR"), "AR|9|so"),
            (End::Dead, &said("CR"), "AR|9|so"),
            (End::Dead, &said("AE"), "AE|9|so"),
            (End::Cancelled, "", "AE|9|delivery was cancelled by hand"),
        ] {
            let found = answer("", end, response);
            assert_eq!(msa(&found), expected, "{end:?} {response}");
            assert!(found.contains("|20260115103000+0000||ACK^R01|8Y20TEST000000000001|P|2.5\r"), "{found}");
        }
        let pending = answer("", End::Pending, "");
        assert!(msa(&pending).starts_with("AE|9|message is kept"), "{pending}");
        assert!(pending.contains("|8Y20TEST000000000002|"), "another answer later has another id: {pending}");
    }

    /// Columns: MSH-15 and MSH-16, then what is answered when all is well, and when it is rejected.
    #[test]
    fn who_wants_which_answer() {
        for (modes, good, bad) in [
            ("|", "AA", "AR"),
            ("|AL", "AA", "AR"),
            ("|NE", "nothing", "nothing"),
            ("|ER", "nothing", "AR"),
            ("|SU", "AA", "nothing"),
            ("AL|", "CA", "CR"),
            ("AL|AL", "AA", "AR"),
            ("AL|NE", "CA", "CR"),
            ("AL|ER", "CA", "AR"),
            ("AL|SU", "AA", "CR"),
            ("ER|", "nothing", "CR"),
            ("NE|", "nothing", "nothing"),
        ] {
            let code = |end, response| answer(modes, end, response);
            let (sent, dead) = (code(End::Sent, ""), code(End::Dead, "MSH|^~\\&|X\rMSA|AR|77\r"));
            let first = |answer: &str| msa(answer).split('|').next().unwrap_or_default().to_owned();
            assert_eq!((first(&sent).as_str(), first(&dead).as_str()), (good, bad), "{modes}");
            assert_eq!(look(modes).wants_outcome(), (good, bad) != ("nothing", "nothing"), "{modes}");
        }
        let ack = judge(&Bytes::from_static(b"MSH|^~\\&|||||||ACK|1|P|2.5\rMSA|AA|7\r"), &hl7::Limits::default());
        assert!(!ack.wants_outcome(), "two engines would acknowledge each other for ever");
        assert!(!judge(&Bytes::from_static(b"HELLO"), &hl7::Limits::default()).wants_outcome());
    }
}
