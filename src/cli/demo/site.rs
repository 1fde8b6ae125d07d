//! The demo's temporary folder and the partners in it.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use russh::keys::key::safe_rng;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};

use super::{Failure, Peer};
use crate::channel::test;
use crate::engine::Engine;
use crate::hosted::{Hosted, HostedConfig, Identity, User};
use crate::journal::{DeliveryState, Story};

/// The shipped files that the demo needs, by their path in the repository.
macro_rules! shipped {
    ($($path:literal,)*) => { &[$(($path, include_bytes!(concat!("../../../", $path)))),*] };
}

const FILES: &[(&str, &[u8])] = shipped![
    "channels/bill-hl7-sftp.toml",
    "channels/report-sftp.toml",
    "channels/hl7-results.toml",
    "channels/templates/orm-o01.hl7",
    "channels/templates/oru-r01.hl7",
    "channels/tables/loinc.csv",
    "fixtures/events/bill-two-tests.json",
    "fixtures/events/bill-unicode.json",
    "fixtures/events/report-pdf.json",
    "fixtures/hl7/oru-r01.hl7",
    "fixtures/hl7/oru-r01-many-obx.hl7",
    "fixtures/expected/bill-two-tests.orm.hl7",
    "fixtures/expected/report-pdf.oru.hl7",
];

/// What the user that the channels log in as is called.
const USER: &str = "acme";

/// Something that the demo hands in, and the channel that it is for.
pub(super) struct Exhibit {
    pub(super) title: &'static str,
    /// The path of the shipped file.
    pub(super) file: &'static str,
    pub(super) channel: &'static str,
    pub(super) input: Input,
}

pub(super) enum Input {
    Event(&'static [u8]),
    Hl7(&'static [u8]),
}

/// One delivery as its partner got it.
pub(super) struct Arrived {
    pub(super) destination: String,
    pub(super) place: String,
    pub(super) content: Option<Bytes>,
    pub(super) state: DeliveryState,
}

/// How what arrived compares with what the channel's test expects.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// How many deliveries the test says something of.
    pub(super) compared: usize,
    pub(super) differences: Vec<String>,
}

pub(super) struct Site {
    folder: tempfile::TempDir,
    partner: Hosted,
    mirth: Peer,
    exhibits: Vec<Exhibit>,
}

fn shipped(path: &str) -> &'static [u8] {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, content)| *content).expect("each exhibit is in FILES")
}

impl Site {
    /// Makes the folder, starts the partners, and points the channels to them.
    pub(super) async fn build() -> Result<Site, Failure> {
        let folder = tempfile::Builder::new().prefix("labwire-demo-").tempdir()?;
        let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519)?;
        let partner = Hosted::start(HostedConfig {
            listen: "127.0.0.1:0".parse()?,
            identity: Identity::Generated,
            users: vec![User {
                name: USER.to_owned(),
                password: None,
                keys: vec![key.public_key().to_openssh()?],
                root: folder.path().join("partner"),
            }],
            limits: Default::default(),
        })?;
        for inbox in ["orders/in", "reports/in"] {
            std::fs::create_dir_all(folder.path().join("partner").join(inbox))?;
        }
        let mirth = Peer::start().await?;
        let site = Site { folder, partner, mirth, exhibits: exhibits() };
        for (path, content) in FILES {
            site.write(path, &site.adapted(path, content)?)?;
        }
        site.write("channels/secrets/acme_ed25519", key.to_openssh(LineEnding::LF)?.as_bytes())?;
        Ok(site)
    }

    fn write(&self, path: &str, content: &[u8]) -> std::io::Result<()> {
        let path = self.folder.path().join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, content)
    }

    /// The channel files with this machine's addresses instead of the examples'.
    fn adapted(&self, path: &str, content: &[u8]) -> Result<Vec<u8>, Failure> {
        if !path.ends_with(".toml") {
            return Ok(content.to_vec());
        }
        let mut text = String::from_utf8(content.to_vec())?;
        let partner = self.partner.address();
        let host_key = text
            .lines()
            .find_map(|line| line.trim_start().strip_prefix("host_key")?.split('"').nth(1))
            .map(str::to_owned);
        if let Some(host_key) = host_key {
            text = text.replace(&host_key, self.partner.fingerprint());
            text =
                text.replace("\"sftp.partner.example\"", &format!("\"{}\"\nport = {}", partner.ip(), partner.port()));
        }
        text = text.replace("127.0.0.1:2575", "127.0.0.1:0");
        Ok(text.replace("mirth.hospital.example:6661", &self.mirth.address().to_string()).into_bytes())
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn exhibits(&self) -> &[Exhibit] {
        &self.exhibits
    }

    pub(super) fn partner(&self) -> &Hosted {
        &self.partner
    }

    pub(super) fn mirth(&self) -> &Peer {
        &self.mirth
    }

    /// What each partner got: read from the partner's own folder or memory, not from the journal.
    pub(super) fn arrived(&self, exhibit: &Exhibit, story: &Story) -> Result<Vec<Arrived>, Failure> {
        let deliveries = story.summary.deliveries.iter().zip(&story.deliveries);
        let mut arrived = Vec::new();
        for (summary, delivery) in deliveries {
            if delivery.content.is_none() {
                continue;
            }
            let property = |key: &str| delivery.properties.get(key).cloned().unwrap_or_default();
            let (place, content) = if summary.destination == "mirth" {
                let id = property("control_id");
                (format!("mllp://{} (MSH-10 {id})", self.mirth.address()), self.mirth.received(&id))
            } else {
                let path = PathBuf::from(property("directory")).join(property("file_name"));
                let (base, shown) = match exhibit.input {
                    Input::Event(_) => {
                        ("partner", format!("sftp://{USER}@{}/{}", self.partner.address(), path.display()))
                    }
                    // Relative to the channel file, and beside its folder.
                    Input::Hl7(_) => ("channels", path.strip_prefix("..").unwrap_or(&path).display().to_string()),
                };
                (shown, std::fs::read(self.folder.path().join(base).join(path)).ok().map(Bytes::from))
            };
            arrived.push(Arrived { destination: summary.destination.clone(), place, content, state: summary.state });
        }
        Ok(arrived)
    }

    /// What arrived, beside what the channel's own test with the same input expects.
    pub(super) fn compare(&self, exhibit: &Exhibit, arrived: &[Arrived], engine: &Engine) -> Comparison {
        let failed = |difference: String| Comparison { compared: 0, differences: vec![difference] };
        let Some(channel) = engine.channel(exhibit.channel) else {
            return failed("the channel is not loaded".to_owned());
        };
        let spec = channel.spec();
        let input = self.folder.path().join(exhibit.file);
        let same_input = |test: &&test::TestSpec| test.input.path.canonicalize().ok() == input.canonicalize().ok();
        match spec.tests.iter().find(same_input) {
            Some(test) => compare(test, arrived),
            None => failed(format!("no test of the channel has {} as its input", exhibit.file)),
        }
    }

    pub(super) async fn close(self) {
        self.mirth.stop();
        self.partner.stop().await;
    }
}

fn compare(test: &test::TestSpec, arrived: &[Arrived]) -> Comparison {
    let mut comparison = Comparison::default();
    for (destination, _) in test.sent.iter().filter(|(_, expected)| !expected.is_empty()) {
        if !arrived.iter().any(|arrived| arrived.destination == *destination) {
            comparison.differences.push(format!("{destination}: nothing was sent there"));
        }
    }
    for arrived in arrived {
        match &arrived.content {
            None => {
                comparison.differences.push(format!("{}: nothing arrived ({})", arrived.destination, arrived.state))
            }
            Some(content) => {
                let found = test::arrived(test, &arrived.destination, content);
                comparison.differences.extend(found.iter().map(ToString::to_string));
                comparison.compared += usize::from(test.sent.contains_key(&arrived.destination));
            }
        }
    }
    comparison
}

fn exhibits() -> Vec<Exhibit> {
    let event = |title, file, channel| Exhibit { title, file, channel, input: Input::Event(shipped(file)) };
    let hl7 = |title, file, channel| Exhibit { title, file, channel, input: Input::Hl7(shipped(file)) };
    vec![
        event("a bill with two tests", "fixtures/events/bill-two-tests.json", "bill-hl7-sftp"),
        event("a bill whose names hold what HL7 separates with", "fixtures/events/bill-unicode.json", "bill-hl7-sftp"),
        event("a signed report with its PDF", "fixtures/events/report-pdf.json", "report-sftp"),
        hl7("results of a blood count", "fixtures/hl7/oru-r01.hl7", "hl7-results"),
        hl7("sixty results for a VIP", "fixtures/hl7/oru-r01-many-obx.hl7", "hl7-results"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_of(words: &str) -> test::TestSpec {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("c.toml");
        let text = format!(
            "name = \"c\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[destination.out]\ntype = \"file\"\n\
             directory = \"out\"\nfile_name = \"x\"\n[[test]]\nname = \"t\"\ninput = \"i\"\n{words}\n"
        );
        std::fs::write(&path, text).expect("a file");
        let mut set = crate::channel::load_paths(&[path]).expect("it can be read");
        set.channels.remove(0).tests.remove(0)
    }

    #[test]
    fn a_destination_that_got_nothing_is_a_difference() {
        let test = test_of("sent.out = { \"MSH-10\" = \"M1\" }");
        let nothing = compare(&test, &[]);
        assert_eq!((nothing.compared, nothing.differences), (0, vec!["out: nothing was sent there".to_owned()]));
        let content = Some(Bytes::from_static(b"MSH|^~\\&|A|B|C|D|2026||ORU^R01|M1|P|2.5\r"));
        let arrived =
            Arrived { destination: "out".to_owned(), place: String::new(), content, state: DeliveryState::Sent };
        let silent = compare(&test_of(""), std::slice::from_ref(&arrived));
        assert_eq!((silent.compared, silent.differences.len()), (0, 0), "the test says nothing of it");
        let said = compare(&test, &[arrived]);
        assert_eq!((said.compared, said.differences.len()), (1, 0));
    }
}
