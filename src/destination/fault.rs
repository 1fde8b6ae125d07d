//! What can go wrong with an attempt, by class, and what becomes of the delivery then: as data, so that a channel file can say
//! otherwise.
//!
//! A connector names the class, and nothing else: it knows its protocol. What follows is looked up by the lane, first in the
//! destination's own `on` table, then in [`FAULTS`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;

use crate::config::{self, Entry};

/// What becomes of a delivery after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The destination has it, whatever it said.
    Sent,
    /// Try again later; counts as an attempt.
    Retry,
    /// Never try this one again by itself: dead letter.
    Dead,
    /// The destination itself is unusable until a human acts (name, authentication, host key, configuration): try again later,
    /// the attempt does not count.
    Pause,
}

impl Disposition {
    const ALL: [Disposition; 4] = [Disposition::Sent, Disposition::Retry, Disposition::Dead, Disposition::Pause];

    /// What a word in channel files means.
    pub(crate) fn of_word(word: &str) -> Option<Disposition> {
        Disposition::ALL.into_iter().find(|known| known.as_str() == word)
    }

    /// The word in channel files.
    pub fn as_str(self) -> &'static str {
        match self {
            Disposition::Sent => "sent",
            Disposition::Retry => "retry",
            Disposition::Dead => "dead",
            Disposition::Pause => "pause",
        }
    }

    /// The words in channel files.
    pub fn words() -> [&'static str; 4] {
        Disposition::ALL.map(Disposition::as_str)
    }
}

/// What went wrong with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultClass {
    /// Nobody takes the connection.
    Refused,
    /// The connection broke.
    Reset,
    /// No connection, or no answer, in time.
    Timeout,
    /// The name leads nowhere.
    Dns,
    /// The name leads to an address that is not allowed.
    Address,
    /// No TLS came about, or the certificate is not to be trusted.
    Tls,
    /// The login is refused.
    Authentication,
    /// Another host key than the pinned one.
    HostKey,
    /// The peer speaks another protocol.
    Protocol,
    /// What the peer answered is of no use.
    Answer,
    /// Application error: MSA-1 is AE.
    Ae,
    /// Commit error: MSA-1 is CE.
    Ce,
    /// Application reject: MSA-1 is AR.
    Ar,
    /// Commit reject: MSA-1 is CR.
    Cr,
    /// Negative commit acknowledgement of MLLP release 2.
    Nak,
    /// An HTTP status that is no success.
    Status(u16),
    /// No fault: the destination has it, and is still at work. It is asked again later; the attempt does not count.
    Pending,
    /// The server refuses for now: SMTP's 4yz; a fax line that is busy.
    Temporary,
    /// The server refuses for good: SMTP's 5yz; a fax that cannot be sent.
    Permanent,
    /// The folder is not there.
    Folder,
    /// The right to write is missing.
    Permission,
    /// Disk or quota are full.
    Full,
    /// Another fault of the disk that is written to.
    Disk,
    /// Something else has the name already.
    Conflict,
    /// This content, or its name, cannot be sent at all.
    Content,
    /// What was to be sent can no longer be read from the journal.
    Damaged,
    /// The destination cannot be made as the channel file says (a secret is missing).
    Configuration,
    /// A mistake of Labwire's own.
    Internal,
}

/// A row of the table of faults.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// The word in a destination's `on` table; a status (`429`), or a hundred of them (`5xx`).
    pub word: &'static str,
    /// What becomes of the delivery where the channel file says nothing.
    pub then: Disposition,
    /// Whether the destination as a whole is at fault, and not this one delivery: it is then probed with one message, and the
    /// others wait.
    pub whole: bool,
    /// What happened, for people.
    pub what: &'static str,
}

const fn fault(word: &'static str, then: Disposition, whole: bool, what: &'static str) -> Fault {
    Fault { word, then, whole, what }
}

/// Every class of fault and what becomes of a delivery by default.
pub const FAULTS: &[Fault] = &[
    fault("refused", Disposition::Retry, true, "nobody takes the connection"),
    fault("reset", Disposition::Retry, true, "the connection broke"),
    fault("timeout", Disposition::Retry, true, "no connection, or no answer, in time"),
    fault("dns", Disposition::Pause, true, "the name leads nowhere"),
    fault("address", Disposition::Pause, true, "the name leads to an address that is not allowed"),
    fault("tls", Disposition::Pause, true, "no TLS came about, or the certificate is not to be trusted"),
    fault("authentication", Disposition::Pause, true, "the login is refused"),
    fault("host_key", Disposition::Pause, true, "another host key than the pinned one"),
    fault("protocol", Disposition::Pause, true, "the peer speaks another protocol"),
    fault("answer", Disposition::Retry, false, "what the peer answered is of no use"),
    fault("AE", Disposition::Retry, false, "the peer answered AE: application error"),
    fault("CE", Disposition::Retry, false, "the peer answered CE: commit error"),
    fault("AR", Disposition::Dead, false, "the peer answered AR: application reject"),
    fault("CR", Disposition::Dead, false, "the peer answered CR: commit reject"),
    fault("NAK", Disposition::Retry, false, "the peer answered NAK: it could not keep the message (MLLP release 2)"),
    fault("3xx", Disposition::Pause, true, "the address has moved"),
    fault("401", Disposition::Pause, true, "the peer refuses the login"),
    fault("403", Disposition::Pause, true, "the peer says that this login may not do that"),
    fault("407", Disposition::Pause, true, "the proxy refuses the login"),
    fault("408", Disposition::Retry, true, "the peer says that the request took too long"),
    fault("425", Disposition::Retry, true, "the peer says that the request came too early"),
    fault("429", Disposition::Retry, true, "the peer says that it gets too many requests"),
    fault("4xx", Disposition::Dead, false, "the peer refuses the request"),
    fault("503", Disposition::Retry, true, "the peer says that it is not available"),
    fault("5xx", Disposition::Retry, false, "the peer failed"),
    fault("pending", Disposition::Retry, false, "the destination has it, and is still at work"),
    fault("temporary", Disposition::Retry, false, "it does not work now: SMTP's 4yz, a fax line that is busy"),
    fault("permanent", Disposition::Dead, false, "it will never work: SMTP's 5yz, a number that is no fax"),
    fault("folder", Disposition::Retry, false, "the folder is not there"),
    fault("permission", Disposition::Retry, false, "the right to write is missing"),
    fault("full", Disposition::Retry, true, "disk or quota are full"),
    fault("disk", Disposition::Retry, false, "another fault of the disk that is written to"),
    fault("conflict", Disposition::Dead, false, "something else has the name already"),
    fault("content", Disposition::Dead, false, "this content, or its name, cannot be sent at all"),
    fault("damaged", Disposition::Dead, false, "what was to be sent can no longer be read"),
    fault("configuration", Disposition::Pause, true, "the destination cannot be made as the channel file says"),
    fault("internal", Disposition::Retry, false, "a mistake of Labwire's own"),
];

impl FaultClass {
    /// The words that it goes by, the most specific first.
    fn words(self) -> [Cow<'static, str>; 2] {
        let word = match self {
            FaultClass::Status(status) => return [status.to_string().into(), format!("{}xx", status / 100).into()],
            FaultClass::Refused => "refused",
            FaultClass::Reset => "reset",
            FaultClass::Timeout => "timeout",
            FaultClass::Dns => "dns",
            FaultClass::Address => "address",
            FaultClass::Tls => "tls",
            FaultClass::Authentication => "authentication",
            FaultClass::HostKey => "host_key",
            FaultClass::Protocol => "protocol",
            FaultClass::Answer => "answer",
            FaultClass::Ae => "AE",
            FaultClass::Ce => "CE",
            FaultClass::Ar => "AR",
            FaultClass::Cr => "CR",
            FaultClass::Nak => "NAK",
            FaultClass::Pending => "pending",
            FaultClass::Temporary => "temporary",
            FaultClass::Permanent => "permanent",
            FaultClass::Folder => "folder",
            FaultClass::Permission => "permission",
            FaultClass::Full => "full",
            FaultClass::Disk => "disk",
            FaultClass::Conflict => "conflict",
            FaultClass::Content => "content",
            FaultClass::Damaged => "damaged",
            FaultClass::Configuration => "configuration",
            FaultClass::Internal => "internal",
        };
        [word.into(), word.into()]
    }

    /// Its row in [`FAULTS`]. A status that is in no row is a failure of the peer.
    pub fn fault(self) -> &'static Fault {
        let row = |word: &str| FAULTS.iter().find(|fault| fault.word == word);
        let found = self.words().iter().find_map(|word| row(word));
        found.or_else(|| row("5xx")).expect("5xx has a row")
    }

    /// What an error while connecting is.
    pub fn of_connecting(error: &io::Error) -> FaultClass {
        match error.kind() {
            io::ErrorKind::TimedOut => FaultClass::Timeout,
            io::ErrorKind::ConnectionReset => FaultClass::Reset,
            _ => FaultClass::Refused,
        }
    }

    /// What an error of a file system is.
    pub fn of_file(error: &io::Error) -> FaultClass {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FaultClass::Folder,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => FaultClass::Permission,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FaultClass::Full,
            _ => FaultClass::Disk,
        }
    }
}

/// What a destination's `on` table says: `on = { AE = "dead", refused = "pause", "5xx" = "retry" }`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(BTreeMap<String, Disposition>);

impl Rules {
    /// What becomes of a delivery after such a fault: what the file says of exactly this fault, then what it says of its
    /// hundred, then the default.
    pub fn of(&self, class: FaultClass) -> Disposition {
        let own = class.words().into_iter().find_map(|word| self.0.get(&*word).copied());
        own.unwrap_or_else(|| class.fault().then)
    }

    /// Reads the table of a destination of a kind that can bring forth these faults. Every mistake is reported.
    pub(crate) fn read(entry: Entry<'_>, kind: &str, faults: &[&'static str]) -> Rules {
        let mut rules = BTreeMap::new();
        let Some(table) = entry.into_table("on") else { return Rules::default() };
        for entry in table.into_entries() {
            let (word, span) = (entry.name().to_owned(), entry.key.span());
            let is_status = |word: &str| word.len() == 3 && (300..600).contains(&word.parse().unwrap_or(0));
            let group = || format!("{}xx", &word[..1]);
            let is_given = faults.contains(&&*word) || (is_status(&word) && faults.contains(&&*group()));
            if !is_given {
                if FAULTS.iter().any(|fault| fault.word == word) || is_status(&word) {
                    let help = Some(format!("its faults are {}", faults.join(", ")));
                    config::report(span, format!("a destination of kind `{kind}` never gives `{word}`"), "", help);
                } else {
                    config::unknown_word(span, format!("no fault is called `{word}`"), &word, faults);
                }
                continue;
            }
            let Some(then) = entry.text() else { continue };
            match Disposition::of_word(then.get_ref()) {
                Some(known) => {
                    rules.insert(word, known);
                }
                None => {
                    let message = format!("`on.{word}` cannot be `{}`", then.get_ref());
                    config::unknown_word(then.span(), message, then.get_ref(), &Disposition::words());
                }
            }
        }
        Rules(rules)
    }
}

/// An attempt that failed. The text is shown to people and never holds content.
pub struct SendError {
    /// What went wrong.
    pub class: FaultClass,
    /// What happened and, where there is something to do, what to do.
    pub message: String,
    /// What becomes of the delivery, where the destination's options say so of this very answer: goes before `on`.
    pub then: Option<Disposition>,
    /// What the peer answered, if it did.
    pub response: Option<Bytes>,
    /// How long the peer wants to be left alone, where it said so.
    pub retry_after: Option<Duration>,
}

impl SendError {
    /// An attempt that failed so.
    pub fn new(class: FaultClass, message: impl Into<String>) -> SendError {
        SendError { class, message: message.into(), then: None, response: None, retry_after: None }
    }

    /// The same, where the destination's options say what becomes of the delivery.
    pub fn then(mut self, then: Disposition) -> SendError {
        self.then = Some(then);
        self
    }

    /// The same, with what the peer answered.
    pub fn with_response(mut self, response: Bytes) -> SendError {
        self.response = Some(response);
        self
    }

    /// The same, where the peer said for how long it wants to be left alone.
    pub fn after(mut self, wait: Duration) -> SendError {
        self.retry_after = Some(wait);
        self
    }

    /// What becomes of the delivery where the channel file says nothing.
    pub fn disposition(&self) -> Disposition {
        self.then.unwrap_or_else(|| Rules::default().of(self.class))
    }
}

/// What the peer answered may be content.
impl fmt::Debug for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SendError { class, message, then, retry_after, .. } = self;
        let mut shown = f.debug_struct("SendError");
        shown.field("class", class).field("message", message).field("then", then).field("retry_after", retry_after);
        shown.finish_non_exhaustive()
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for SendError {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use toml::de::DeTable;

    use super::*;
    use crate::config::Table;
    use crate::diagnostic::SourceFile;
    use Disposition::{Dead, Pause, Retry, Sent};

    const CLASSES: &[(FaultClass, Disposition, bool)] = &[
        (FaultClass::Refused, Retry, true),
        (FaultClass::Reset, Retry, true),
        (FaultClass::Timeout, Retry, true),
        (FaultClass::Dns, Pause, true),
        (FaultClass::Address, Pause, true),
        (FaultClass::Tls, Pause, true),
        (FaultClass::Authentication, Pause, true),
        (FaultClass::HostKey, Pause, true),
        (FaultClass::Protocol, Pause, true),
        (FaultClass::Answer, Retry, false),
        (FaultClass::Ae, Retry, false),
        (FaultClass::Ce, Retry, false),
        (FaultClass::Ar, Dead, false),
        (FaultClass::Cr, Dead, false),
        (FaultClass::Nak, Retry, false),
        (FaultClass::Status(302), Pause, true),
        (FaultClass::Status(400), Dead, false),
        (FaultClass::Status(401), Pause, true),
        (FaultClass::Status(403), Pause, true),
        (FaultClass::Status(404), Dead, false),
        (FaultClass::Status(407), Pause, true),
        (FaultClass::Status(408), Retry, true),
        (FaultClass::Status(422), Dead, false),
        (FaultClass::Status(425), Retry, true),
        (FaultClass::Status(429), Retry, true),
        (FaultClass::Status(499), Dead, false),
        (FaultClass::Status(500), Retry, false),
        (FaultClass::Status(503), Retry, true),
        (FaultClass::Status(599), Retry, false),
        (FaultClass::Status(777), Retry, false),
        (FaultClass::Pending, Retry, false),
        (FaultClass::Temporary, Retry, false),
        (FaultClass::Permanent, Dead, false),
        (FaultClass::Folder, Retry, false),
        (FaultClass::Permission, Retry, false),
        (FaultClass::Full, Retry, true),
        (FaultClass::Disk, Retry, false),
        (FaultClass::Conflict, Dead, false),
        (FaultClass::Content, Dead, false),
        (FaultClass::Damaged, Dead, false),
        (FaultClass::Configuration, Pause, true),
        (FaultClass::Internal, Retry, false),
    ];

    fn rules(text: &str, faults: &[&'static str]) -> Result<Rules, Vec<String>> {
        let file = SourceFile::new(Path::new("t.toml"), format!("on = {{ {text} }}"));
        let read = config::collect(&file, Path::new("."), || {
            let table = DeTable::parse(&file.text).expect("TOML").into_inner();
            Rules::read(Table::new(table, 0..0, "").take("on").expect("there"), "web", faults)
        });
        if read.diagnostics.is_empty() {
            Ok(read.value)
        } else {
            Err(read.diagnostics.iter().map(ToString::to_string).collect())
        }
    }

    #[test]
    fn each_class_has_its_default() {
        for (class, then, whole) in CLASSES {
            assert_eq!((class.fault().then, class.fault().whole), (*then, *whole), "{class:?}");
            assert_eq!(Rules::default().of(*class), *then, "{class:?}");
        }
        let used = |fault: &&Fault| CLASSES.iter().any(|(class, ..)| class.fault().word == fault.word);
        assert_eq!(FAULTS.iter().filter(used).count(), FAULTS.len(), "each row is some class's");
    }

    #[test]
    fn what_the_file_says_goes_before_the_default_and_the_exact_word_before_its_hundred() {
        let all: Vec<&'static str> = FAULTS.iter().map(|fault| fault.word).collect();
        for (class, ..) in CLASSES {
            for then in Disposition::ALL {
                let word = class.words()[0].clone();
                if word == "777" {
                    continue;
                }
                let rules = rules(&format!("\"{word}\" = \"{}\"", then.as_str()), &all).expect("sound");
                assert_eq!(rules.of(*class), then, "{class:?}");
                let others = CLASSES.iter().filter(|(other, ..)| other != class);
                for (other, default, _) in others {
                    assert_eq!(rules.of(*other), *default, "{other:?} after a rule for {class:?}");
                }
            }
        }
        let rules = rules(r#""4xx" = "pause", 404 = "sent""#, &["4xx"]).expect("sound");
        let of = |status| rules.of(FaultClass::Status(status));
        assert_eq!([of(404), of(400), of(429), of(500)], [Sent, Pause, Pause, Retry]);
    }

    #[test]
    fn mistakes_in_the_table_are_told() {
        for (text, words) in [
            ("AEE = \"dead\"", "no fault is called `AEE`: did you mean `AE`?"),
            ("refused = \"ded\"", "`on.refused` cannot be `ded`: did you mean `dead`?"),
            ("refused = 1", "`refused` must be a string"),
            ("host_key = \"dead\"", "a destination of kind `web` never gives `host_key`"),
            ("404 = \"dead\"", "a destination of kind `web` never gives `404`"),
            ("600 = \"dead\"", "no fault is called `600`"),
            ("internal = \"dead\"", "never gives `internal`"),
        ] {
            let mistakes = rules(text, &["refused", "AE", "5xx"]).expect_err(text);
            assert!(mistakes.len() == 1 && mistakes[0].contains(words), "{text}: {mistakes:?}");
        }
    }

    #[test]
    fn each_kind_gives_faults_that_are_in_the_table() {
        for kind in super::super::KINDS {
            assert!(!kind.faults.is_empty(), "{}", kind.name);
            for word in kind.faults {
                assert!(FAULTS.iter().any(|fault| fault.word == *word), "{}: {word}", kind.name);
            }
        }
    }

    #[test]
    fn errors_of_the_system_have_their_class() {
        use io::ErrorKind;
        for (kind, class) in [
            (ErrorKind::ConnectionRefused, FaultClass::Refused),
            (ErrorKind::HostUnreachable, FaultClass::Refused),
            (ErrorKind::TimedOut, FaultClass::Timeout),
            (ErrorKind::ConnectionReset, FaultClass::Reset),
        ] {
            assert_eq!(FaultClass::of_connecting(&kind.into()), class, "{kind}");
        }
        for (kind, class) in [
            (ErrorKind::NotFound, FaultClass::Folder),
            (ErrorKind::NotADirectory, FaultClass::Folder),
            (ErrorKind::PermissionDenied, FaultClass::Permission),
            (ErrorKind::StorageFull, FaultClass::Full),
            (ErrorKind::QuotaExceeded, FaultClass::Full),
            (ErrorKind::Other, FaultClass::Disk),
        ] {
            assert_eq!(FaultClass::of_file(&kind.into()), class, "{kind}");
        }
    }
}
