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
            let Some(outgoing) = &delivery.outgoing else { continue };
            let property = |key: &str| outgoing.properties.get(key).cloned().unwrap_or_default();
            let (place, content) = if summary.destination == "mirth" {
                let id = property("control_id");
                (format!("mllp://{} (MSH-10 {id})", self.mirth.address()), self.mirth.received(&id))
            } else {
                let path = PathBuf::from(property("directory")).join(property("file_name"));
                let (base, shown) = match exhibit.input {
                    Input::Event(_) => {
                        ("partner", format!("sftp://{USER}@{}/{}", self.partner.address(), path.display()))
                    }
                    Input::Hl7(_) => ("channels", format!("{}", path.display())),
                };
                (shown, std::fs::read(self.folder.path().join(base).join(path)).ok().map(Bytes::from))
            };
            arrived.push(Arrived { destination: summary.destination.clone(), place, content, state: summary.state });
        }
        Ok(arrived)
    }

    /// What is not as the channel's own test with the same input expects.
    pub(super) fn differences(&self, exhibit: &Exhibit, arrived: &[Arrived], engine: &Engine) -> Vec<String> {
        let Some(channel) = engine.channel(exhibit.channel) else {
            return vec!["the channel is not loaded".to_owned()];
        };
        let spec = channel.spec();
        let input = self.folder.path().join(exhibit.file);
        let same_input = |test: &&test::TestSpec| test.input.path.canonicalize().ok() == input.canonicalize().ok();
        let Some(test) = spec.tests.iter().find(same_input) else {
            return vec![format!("no test of the channel has {} as its input", exhibit.file)];
        };
        let mut differences = Vec::new();
        for arrived in arrived {
            match &arrived.content {
                None => differences.push(format!("{}: nothing arrived ({})", arrived.destination, arrived.state)),
                Some(content) => {
                    let found = test::arrived(test, &arrived.destination, content);
                    differences.extend(found.iter().map(ToString::to_string));
                }
            }
        }
        differences
    }

    pub(super) async fn close(self) {
        self.mirth.stop();
        self.partner.stop().await;
    }
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
