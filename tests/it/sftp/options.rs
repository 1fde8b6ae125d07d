//! The options that `sftp` and `file` share, each on both: folders, names, permissions, companions, compression.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use labwire::config::Place;
use labwire::destination::{Destination, DestinationConfig, Disposition, SendError};
use labwire::message::{Format, Message, MessageIds, Meta, Origin};

use crate::support::cutter::Cutter;
use crate::support::mllp_client::MllpClient;
use crate::support::partner::{Make, Partner, names, outgoing, parse_kind, send};
use crate::support::rig::Rig;
use crate::support::sshd::text_of;

const KINDS: [&str; 2] = ["sftp", "file"];
/// A report whose PDF is in OBX-5, as base64.
const REPORT: &str =
    "MSH|^~\\&|LIS|LAB|PARTNER|X|20260101||ORU^R01|R1|P|2.5\rOBX|1|ED|PDF||^application^pdf^Base64^JVBERi0xLjcK|\r";
const PDF: &[u8] = b"%PDF-1.7\n";

/// A place that files are put into, and the options of a destination that does it.
struct Spot {
    kind: &'static str,
    partner: Partner,
}

impl Spot {
    fn new(kind: &'static str) -> Spot {
        let partner = Partner::start(Make::OpenSsh);
        Spot { kind, partner }
    }

    fn files(&self) -> PathBuf {
        self.partner.files()
    }

    fn options(&self, more: &str) -> String {
        match self.kind {
            "sftp" => format!("{}directory = \"in\"\n{more}", self.partner.options(&[("file_name", "\"a.hl7\"")])),
            _ => format!("directory = \"in\"\nfile_name = \"a.hl7\"\n{more}"),
        }
    }

    async fn destination(&self, more: &str) -> (Box<dyn DestinationConfig>, Box<dyn Destination>) {
        let key = self.partner.folder.path();
        let config = parse_kind(self.kind, &self.options(more), key).expect("the options are right");
        // Secrets and local folders both start here: the key is put where the files are.
        let folder = if self.kind == "sftp" { key.to_owned() } else { self.files() };
        let place = Place { folder, channel: "a-channel".into(), name: "partner".into(), data: None };
        let destination = config.build(&place).await.unwrap();
        (config, destination)
    }

    /// Prepares a message and sends it.
    async fn send(&self, more: &str, raw: &'static str) -> Result<String, SendError> {
        let (config, mut destination) = self.destination(more).await;
        send(&mut destination, &config.prepare(&message(raw)).unwrap()).await
    }

    /// What a destination with these options says that is wrong with them.
    fn mistakes(&self, more: &str) -> String {
        parse_kind(self.kind, &self.options(more), self.partner.folder.path()).expect_err("a mistake").join("\n")
    }
}

fn message(raw: &'static str) -> Message {
    let ids = MessageIds::default();
    let received_at = "2026-01-01T00:00:00Z".parse().unwrap();
    let meta = Meta { id: ids.next(), channel: "c".into(), received_at, origin: Origin::default() };
    Message::read(meta, Format::Hl7, &Bytes::from_static(raw.as_bytes()), &labwire::hl7::Limits::default()).unwrap()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

const COMPANION: &str = "[[companion]]\nfile_name = \"a.pdf\"\ncontent = \"msg['OBX-5.5']\"\nbase64 = true\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_companion_is_there_before_the_file_that_announces_it() {
    for kind in KINDS {
        let spot = Spot::new(kind);
        let folder = spot.files().join("in");
        std::fs::create_dir(&folder).unwrap();
        // What stands in the companion's way keeps its file back, too.
        std::fs::write(folder.join("a.pdf"), "another").unwrap();
        let error = spot.send(COMPANION, REPORT).await.unwrap_err();
        assert_eq!(error.disposition(), Disposition::Dead, "{kind}: {error}");
        assert_eq!(names(&folder), ["a.pdf"], "{kind}");

        std::fs::remove_file(folder.join("a.pdf")).unwrap();
        let answer = spot.send(COMPANION, REPORT).await.unwrap();
        assert!(
            answer.contains("a.hl7") && answer.contains("before it") && answer.contains("a.pdf"),
            "{kind}: {answer}"
        );
        assert_eq!(names(&folder), ["a.hl7", "a.pdf"], "{kind}");
        assert_eq!(std::fs::read(folder.join("a.pdf")).unwrap(), PDF, "{kind}");
        assert_eq!(std::fs::read_to_string(folder.join("a.hl7")).unwrap(), REPORT, "{kind}");
        // As after a crash: all is there already.
        assert!(spot.send(COMPANION, REPORT).await.unwrap().contains("already"), "{kind}");
    }
}

/// In the engine: what is journaled holds the companion, and what people are shown is the message.
#[test]
fn a_companion_goes_through_the_journal_and_is_not_shown_as_the_message() {
    let rig = Rig::with(&format!(
        "name = \"reports\"\n[source]\ntype = \"mllp\"\nlisten = \"127.0.0.1:0\"\n[destination.out]\ntype = \"file\"\n\
         directory = \"../out\"\nfile_name = \"a.hl7\"\n{}",
        COMPANION.replace("[[companion]]", "[[destination.out.companion]]")
    ));
    let mut client = MllpClient::connect(rig.listener("reports")).unwrap();
    client.send(REPORT.as_bytes()).unwrap();
    let sent = rig.wait_for("sent", 1);
    assert_eq!(names(&rig.path().join("out")), ["a.hl7", "a.pdf"]);
    assert_eq!(std::fs::read(rig.path().join("out/a.pdf")).unwrap(), PDF);
    let story = rig.story(sent[0]["id"].as_str().unwrap()).to_string();
    assert!(story.contains("a.pdf") && story.contains("ORU^R01") && !story.contains("%PDF"), "{story}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_companion_is_what_its_options_say() {
    let spot = Spot::new("file");
    let folder = spot.files().join("in");
    let undecoded = COMPANION.replace("base64 = true\n", "");
    spot.send(&undecoded, REPORT).await.unwrap();
    assert_eq!(std::fs::read(folder.join("a.pdf")).unwrap(), b"JVBERi0xLjcK");
    std::fs::remove_dir_all(&folder).unwrap();
    spot.send(&format!("{COMPANION}when = \"msg['OBX-3'] == 'TXT'\"\n"), REPORT).await.unwrap();
    assert_eq!(names(&folder), ["a.hl7"]);

    let (config, _) = spot.destination(&COMPANION.replace("OBX-5.5", "OBX-5.3")).await;
    let error = config.prepare(&message(REPORT)).unwrap_err().to_string();
    assert!(error.contains("no base64") && !error.contains("pdf"), "{error}");
    let (config, _) = spot.destination(&COMPANION.replace("OBX-5.5", "OBX-5.9")).await;
    assert!(config.prepare(&message(REPORT)).unwrap_err().to_string().contains("empty"));
    let (config, mut destination) = spot.destination(&COMPANION.replace("a.pdf", "a.hl7")).await;
    let error = send(&mut destination, &config.prepare(&message(REPORT)).unwrap()).await.unwrap_err();
    assert!(error.message.contains("the same name"), "{error}");
    assert!(spot.mistakes(&format!("exists = \"number\"\n{COMPANION}")).contains("companions and `exists"));
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_are_made_and_have_the_permissions_that_are_asked_for() {
    for kind in KINDS {
        let spot = Spot::new(kind);
        let error = spot.send("mkdir = false\n", REPORT).await.unwrap_err();
        assert_eq!(error.disposition(), Disposition::Retry, "{kind}: {error}");
        assert!(names(&spot.files()).is_empty(), "{kind}");

        let more = "mkdir = true\npermissions = \"0666\"\nfolder_permissions = \"0777\"\n\
                    temporary = { directory = \"deep/er/tmp\" }\n";
        spot.send(more, REPORT).await.unwrap();
        assert_eq!(mode(&spot.files().join("in/a.hl7")), 0o666, "{kind}");
        for folder in ["in", "deep", "deep/er", "deep/er/tmp"] {
            assert_eq!(mode(&spot.files().join(folder)), 0o777, "{kind}: {folder}");
        }
        std::fs::remove_dir_all(spot.files().join("in")).unwrap();
        spot.send("mkdir = true\npermissions = \"600\"\nfolder_permissions = \"700\"\n", REPORT).await.unwrap();
        assert_eq!((mode(&spot.files().join("in")), mode(&spot.files().join("in/a.hl7"))), (0o700, 0o600), "{kind}");
        for bad in ["", "8", "0999", "7777", "rw-"] {
            assert!(spot.mistakes(&format!("permissions = \"{bad}\"\n")).contains("no permissions"), "{kind}: {bad}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_the_name_already_is_treated_as_the_option_says() {
    for kind in KINDS {
        let spot = Spot::new(kind);
        let folder = spot.files().join("in");
        std::fs::create_dir(&folder).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        std::fs::write(folder.join("a.hl7"), "theirs").unwrap();
        let error = spot.send("exists = \"compare\"\n", REPORT).await.unwrap_err();
        assert_eq!(error.disposition(), Disposition::Dead, "{kind}: {error}");

        let answer = spot.send("exists = \"keep\"\n", REPORT).await.unwrap();
        assert!(answer.contains("left as it is"), "{kind}: {answer}");
        assert_eq!(read("a.hl7"), "theirs", "{kind}");

        for _ in 0..2 {
            // The second time it is there already, and no third file comes of it.
            spot.send("exists = \"number\"\n", REPORT).await.unwrap();
            assert_eq!(
                (names(&folder), read("a-1.hl7").as_str()),
                (vec!["a-1.hl7".into(), "a.hl7".into()], REPORT),
                "{kind}"
            );
        }
        let answer = spot.send("exists = \"overwrite\"\n", REPORT).await.unwrap();
        assert!(!answer.contains("already"), "{kind}: {answer}");
        assert_eq!(read("a.hl7"), REPORT, "{kind}");
        assert!(spot.send("exists = \"overwrite\"\n", REPORT).await.unwrap().contains("already"), "{kind}");
        assert_eq!(names(&folder), ["a-1.hl7", "a.hl7"], "{kind}");
        assert!(spot.mistakes("exists = \"append\"\n").contains("`exists` cannot be `append`"), "{kind}");
    }
}

/// The names that are there while a file is on its way, and where: what a partner sees who looks all the time.
#[tokio::test(flavor = "multi_thread")]
async fn the_temporary_name_is_the_one_that_is_asked_for() {
    let partner = Partner::start(Make::OpenSsh);
    std::fs::create_dir_all(partner.files().join("in/tmp")).unwrap();
    for (temporary, folder, prefix, suffix) in [
        ("", "in", ".", ".part"),
        ("{ prefix = \"tmp_\" }", "in", "tmp_", ".part"),
        ("{ prefix = \"\", suffix = \".filepart\" }", "in", "", ".filepart"),
        ("{ directory = \"in/tmp\" }", "in/tmp", ".", ".part"),
    ] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let proxy = Cutter::start(partner.port(), {
            let (seen, files) = (seen.clone(), partner.files());
            move || {
                for folder in ["in", "in/tmp"] {
                    let found = names(&files.join(folder)).into_iter().map(|name| (folder, name));
                    seen.lock().unwrap().extend(found.filter(|(_, name)| name.len() > 15));
                }
                false
            }
        });
        let port = proxy.await.address.port().to_string();
        let mut destination = partner.destination(&[("port", &port), ("temporary", temporary)]).await;
        let mut order = outgoing("in", "a.hl7", REPORT);
        if folder != "in" {
            order.properties.insert("temporary_directory".into(), folder.into());
        }
        send(&mut destination, &order).await.unwrap();
        std::fs::remove_file(partner.files().join("in/a.hl7")).unwrap();
        let seen = std::mem::take(&mut *seen.lock().unwrap());
        assert!(!seen.is_empty(), "{temporary}");
        for (found, name) in seen {
            let is_right = name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("a.hl7."));
            assert!(found == folder && is_right && name.ends_with(suffix), "{temporary}: {found}/{name}");
        }
        assert_eq!(names(&partner.files().join("in")), ["tmp"], "{temporary}");
    }
    // A `file` has its temporary name for a moment only: what is in the way of it shows which one it is.
    let spot = Spot::new("file");
    std::fs::create_dir_all(spot.files().join("in/tmp_a.hl7.x")).unwrap();
    let error = spot.send("temporary = { prefix = \"tmp_\", suffix = \".x\" }\n", REPORT).await.unwrap_err();
    assert!(error.message.contains("writing the file"), "{error}");
    spot.send("temporary = { prefix = \"tmp_\" }\n", REPORT).await.unwrap();
    for kind in KINDS {
        let spot = Spot::new(kind);
        for (bad, words) in [
            ("{ prefix = \"a/b\" }", "cannot be a part"),
            ("{ prefix = \"\", suffix = \"\" }", "is the final one"),
            ("{ name = \"x\" }", "unknown key"),
        ] {
            let found = spot.mistakes(&format!("temporary = {bad}\n"));
            assert!(found.contains(words), "{kind} {bad}: {found}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_packed_so_that_others_can_unpack_them() {
    for kind in KINDS {
        let spot = Spot::new(kind);
        std::fs::create_dir(spot.files().join("in")).unwrap();
        let path = spot.files().join("in/a.hl7");
        for (compress, unpack) in [
            ("gzip", "import gzip,sys; sys.stdout.buffer.write(gzip.open(sys.argv[1]).read())"),
            (
                "zip",
                "import zipfile,sys; z=zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None and z.namelist()==['a.hl7']; \
                     sys.stdout.buffer.write(z.read('a.hl7'))",
            ),
        ] {
            let more = format!("compress = \"{compress}\"\n{COMPANION}");
            spot.send(&more, REPORT).await.unwrap();
            assert_eq!(text_of(Command::new("python3").args(["-c", unpack]).arg(&path)), REPORT.trim_end(), "{kind}");
            assert_eq!(std::fs::read(path.with_extension("pdf")).unwrap(), PDF, "{kind}: companions are not packed");
            // The next attempt packs it alike.
            assert!(spot.send(&more, REPORT).await.unwrap().contains("already"), "{kind} {compress}");
            std::fs::remove_file(&path).unwrap();
        }
        assert!(spot.mistakes("compress = \"rar\"\n").contains("`compress` cannot be `rar`"), "{kind}");
    }
}
