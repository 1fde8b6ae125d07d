//! The envelope of a batch, and what is put around its acknowledgements (HL7 v2.5.1 §2.10.3.3).

use bytes::Bytes;

use crate::hl7::{Charset, Header, batch};
use crate::message::Batch;

/// What a batch says of itself and of each of its messages.
pub(super) struct Heads {
    /// FHS.
    file: Option<Bytes>,
    /// Every BHS.
    batches: Vec<Bytes>,
    /// The MSH of each message, where it can be found, and the set that it was decoded from, if it was.
    pub(super) messages: Vec<(Option<Header>, Option<Charset>)>,
}

impl Heads {
    /// Of a batch, also of one that is refused; none where it cannot be taken apart.
    pub(super) fn of(raw: &Bytes) -> Option<Heads> {
        let found = batch::split(raw).ok()?;
        Some(Heads {
            file: found.file_header.map(|header| raw.slice_ref(header)),
            batches: found.batch_headers.iter().map(|header| raw.slice_ref(header)).collect(),
            messages: found.messages.iter().map(|message| (Header::scan(message), None)).collect(),
        })
    }

    /// The same where the messages were read: what was decoded to be read has its header from there.
    pub(super) fn read(mut self, batch: &Batch) -> Heads {
        for (head, message) in self.messages.iter_mut().zip(batch.messages()) {
            if message.is_decoded() {
                *head = (message.header(), Some(message.charset()));
            }
        }
        self
    }

    /// What the batch is known by when it comes again: what its headers say, and its messages' senders and MSH-10. None where
    /// neither a header nor each message has an id of its own.
    pub(super) fn key(&self) -> Option<Vec<&[u8]>> {
        let headers = || self.file.iter().chain(&self.batches).map(|header| Fields::of(header));
        let has_id = headers().any(|fields| !fields.get(11).is_empty());
        let ids = |(header, _): &(Option<Header>, _)| {
            header.as_ref().is_some_and(|header| !matches!(header.control_id().trim_ascii(), b"" | b"\"\""))
        };
        if !has_id && (self.messages.is_empty() || !self.messages.iter().all(ids)) {
            return None;
        }
        let of_headers = headers().flat_map(|fields| [fields.get(3), fields.get(4), fields.get(11)]);
        let of_messages = self.messages.iter().filter_map(|(header, _)| header.as_ref());
        let of_messages = of_messages
            .flat_map(|header| [header.sending_application(), header.sending_facility(), header.control_id()]);
        Some(of_headers.chain(of_messages).collect())
    }

    /// Acknowledgements as the batch that answers this one: sender and receiver exchanged, and the id of this one as reference.
    pub(super) fn answer(&self, acknowledgements: &[Vec<u8>], control_id: &str, timestamp: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + acknowledgements.iter().map(Vec::len).sum::<usize>());
        if let Some(file) = &self.file {
            Fields::of(file).answer(b"FHS", control_id, timestamp, true, &mut out);
        }
        if let Some(batch) = self.batches.first() {
            // One id can stand for one batch only.
            let refers = self.batches.len() == 1;
            Fields::of(batch).answer(b"BHS", control_id, timestamp, refers, &mut out);
        }
        acknowledgements.iter().for_each(|acknowledgement| out.extend_from_slice(acknowledgement));
        if let Some(batch) = self.batches.first() {
            let separator = char::from(Fields::of(batch).separator);
            out.extend_from_slice(format!("BTS{separator}{}\r", acknowledgements.len()).as_bytes());
        }
        if let Some(file) = &self.file {
            let separator = char::from(Fields::of(file).separator);
            out.extend_from_slice(format!("FTS{separator}{}\r", usize::from(!self.batches.is_empty())).as_bytes());
        }
        out
    }
}

/// The fields of an FHS or BHS segment, which has its separators where MSH has them.
struct Fields<'a> {
    separator: u8,
    fields: Vec<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn of(segment: &'a [u8]) -> Fields<'a> {
        match segment.get(3) {
            Some(separator) if separator.is_ascii_punctuation() => {
                Fields { separator: *separator, fields: segment.split(|byte| byte == separator).collect() }
            }
            _ => Fields { separator: b'|', fields: Vec::new() },
        }
    }

    /// Field `n`, from 2 on.
    fn get(&self, n: usize) -> &'a [u8] {
        self.fields.get(n - 1).copied().unwrap_or_default()
    }

    fn answer(&self, name: &[u8], control_id: &str, timestamp: &str, refers: bool, out: &mut Vec<u8>) {
        let encoding = if self.get(2).is_empty() { &b"^~\\&"[..] } else { self.get(2) };
        let reference = if refers { self.get(11) } else { b"" };
        let fields = [
            encoding,
            self.get(5),
            self.get(6),
            self.get(3),
            self.get(4),
            timestamp.as_bytes(),
            b"",
            b"",
            b"",
            control_id.as_bytes(),
            reference,
        ];
        out.extend_from_slice(name);
        for field in fields {
            out.push(self.separator);
            // What frames MLLP cannot stand in an answer.
            out.extend(field.iter().filter(|byte| !matches!(byte, 0x0b | 0x1c)));
        }
        out.push(b'\r');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::judge::judge;
    use super::*;
    use crate::hl7::Limits;
    use crate::mllp;

    const ID: &str = "01KF0K8Y20TEST000000000001";
    const TIME: &str = "2026-01-15T10:30:00Z";

    /// What is answered to a batch, without the control ids of the acknowledgements in it.
    fn answer(batch: &str) -> Option<String> {
        let judged = judge(&Bytes::copy_from_slice(batch.as_bytes()), &Limits::default());
        let answer = judged.acknowledgement(ID.parse().expect("an id"), TIME.parse().expect("a time"))?;
        let answer = String::from_utf8(answer).expect("ASCII here");
        let lines = answer.split_terminator('\r').map(|line| match line.strip_prefix("MSH") {
            Some(_) => "MSH",
            None => line,
        });
        Some(lines.collect::<Vec<_>>().join("\n"))
    }

    fn message(id: &str, wants: &str) -> String {
        format!("MSH|^~\\&|A|B|C|D|2026||ORU^R01|{id}|P|2.5|||{wants}\r")
    }

    #[test]
    fn the_envelope_that_came_is_the_one_that_goes() {
        let (one, two, none) = (message("1", "|"), message("2", "AL|"), message("3", "NE|NE"));
        let time = "20260115103000+0000";
        let id = "8Y20TEST000000000001";
        for (batch, expected) in [
            (
                format!("BHS|^~\\&|A|B|C|D|2026||||B7\r{one}{two}BTS|2\r"),
                Some(format!("BHS|^~\\&|C|D|A|B|{time}||||{id}|B7\nMSH\nMSA|AA|1\nMSH\nMSA|CA|2\nBTS|2")),
            ),
            (
                format!("FHS|^~\\&|A||C||||||F7\r{one}FTS|0\r"),
                Some(format!("FHS|^~\\&|C||A||{time}||||{id}|F7\nMSH\nMSA|AA|1\nFTS|0")),
            ),
            // Two batches: which one would the reference be of?
            (
                format!("BHS|^~\\&|A|||||||||B7\r{one}BTS|1\rBHS|^~\\&|A|||||||||B8\r{none}BTS|1\r"),
                Some(format!("BHS|^~\\&|||A||{time}||||{id}|\nMSH\nMSA|AA|1\nBTS|1")),
            ),
            (
                format!("BHS$%~@*$A$B\r{one}BTS$1\r"),
                Some(format!("BHS$%~@*$$$A$B${time}$$$${id}$\nMSH\nMSA|AA|1\nBTS$1")),
            ),
            (format!("BHS|^~\\&|A\r{none}{none}BTS|2\r"), None),
            ("BHS|^~\\&|A\rBTS|0\r".to_owned(), Some(format!("BHS|^~\\&|||A||{time}||||{id}|\nBTS|0"))),
            (format!("BHS|^~\\&|A\r{}BTS|1\r", "MSH|^~\\&|||||||ACK|1|P|2.5\rMSA|AA|7\r"), None),
        ] {
            assert_eq!(answer(&batch), expected, "{batch:?}");
        }
    }

    #[test]
    fn what_a_batch_is_known_by() {
        let key = |batch: String| judge(&Bytes::from(batch), &Limits::default()).key("c");
        let (one, two) = (message("1", "|"), message("2", "|"));
        let of = |id: &str, messages: &str| key(format!("BHS|^~\\&|A||||||||{id}\r{messages}BTS\r"));
        assert!(of("B1", &one).is_some() && of("", &one).is_some());
        assert_ne!(of("B1", &one), of("B2", &one));
        assert_ne!(of("", &one), of("", &two));
        assert_ne!(of("", &one), key(one.clone()), "a message alone is another thing");
        assert_eq!(of("", &message("", "|")), None, "nobody has an id");
        assert_eq!(of("", ""), None);
        assert_eq!(key(format!("BHS|^~\\&|A||||||||B1\r{one}BTS|7\r")), None, "it is refused");
    }

    proptest! {
        #[test]
        fn every_answer_can_be_framed(bytes in proptest::collection::vec(any::<u8>(), 0..80), head in 0..4usize) {
            let heads = ["BHS|^~\\&|A\rMSH|^~\\&|", "FHS", "BHS|^~\\&|", "FHS|^~\\&|\rBHS"];
            let raw = Bytes::from([heads[head].as_bytes(), &bytes].concat());
            let judged = judge(&raw, &Limits::default());
            let (id, at) = (ID.parse().expect("an id"), TIME.parse().expect("a time"));
            for answer in [judged.acknowledgement(id, at), judged.refusal(id, at)].into_iter().flatten() {
                prop_assert!(mllp::encode(&answer).is_ok());
            }
        }
    }
}
