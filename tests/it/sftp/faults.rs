//! Rows F59 to F64 of docs/faults.md that are not in the other files here: partners that take files away, and full disks.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use labwire::destination::{Disposition, FaultClass};

use super::ORDER;
use crate::faults::mounts::Mount;
use crate::support::cutter::Cutter;
use crate::support::partner::{Make, Partner, names, noise, outgoing, send};

/// Takes whatever is whole in `folder` away, as a partner's job does that looks at no names.
fn take(folder: &Path, bytes: usize, to: &Path) {
    for name in names(folder) {
        let path = folder.join(&name);
        if std::fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() == bytes as u64) {
            std::fs::rename(path, to.join(name)).unwrap();
        }
    }
}

/// A server that moves files away as soon as they are whole, under whatever name, and what a destination to it makes of that.
async fn to_an_eager_partner(
    more: &[(&str, &str)],
    temporary_directory: Option<&str>,
) -> (Result<String, Disposition>, Vec<String>) {
    let partner = Partner::start(Make::OpenSsh);
    let files = partner.files();
    let taken = tempfile::tempdir_in(partner.folder.path()).unwrap();
    std::fs::create_dir(files.join("in")).unwrap();
    std::fs::create_dir(files.join("tmp")).unwrap();
    let proxy = Cutter::start(partner.port(), {
        let (folder, taken) = (files.join("in"), taken.path().to_owned());
        move || {
            take(&folder, ORDER.len(), &taken);
            false
        }
    });
    let port = proxy.await.address.port().to_string();
    let mut destination = partner.destination(&[more, &[("port", &*port)]].concat()).await;
    let mut order = outgoing("in", "a.hl7", ORDER);
    if let Some(folder) = temporary_directory {
        order.properties.insert("temporary_directory".to_owned(), folder.to_owned());
    }
    let sent = send(&mut destination, &order).await.map_err(|error| {
        assert!(error.message.contains("choose another `temporary` name or folder"), "{error}");
        error.disposition()
    });
    assert!(names(&files.join("tmp")).is_empty());
    (sent, names(taken.path()))
}

#[tokio::test(flavor = "multi_thread")]
async fn f62_a_server_that_takes_files_at_once_and_our_temporary_ones_with_them() {
    for (more, sent) in [
        (&[][..], Err(Disposition::Retry)),
        (&[("taken_away", "\"retry\"")], Err(Disposition::Retry)),
        (&[("taken_away", "\"sent\"")], Ok(())),
    ] {
        let (result, taken) = to_an_eager_partner(more, None).await;
        assert!(taken.len() == 1 && taken[0].ends_with(".part"), "{more:?}: {taken:?}");
        if let Ok(answer) = &result {
            assert!(answer.contains("taken away under its temporary name"), "{answer}");
        }
        assert_eq!(result.map(drop), sent, "{more:?}");
    }
    // Written where he does not look, a file comes whole and under its name.
    let (result, taken) = to_an_eager_partner(&[], Some("tmp")).await;
    assert!(result.unwrap().starts_with("stored in/a.hl7"));
    assert_eq!(taken, ["a.hl7"]);
}

/// The rename was asked for, the connection broke, and neither name is left.
#[tokio::test(flavor = "multi_thread")]
async fn f62_a_file_that_is_gone_after_an_unanswered_rename_is_judged_as_the_option_says() {
    for (taken_away, words, left) in [
        ("", "the file was since taken away", false),
        ("\"sent\"", "taken away", false),
        ("\"retry\"", "stored a.hl7", true),
    ] {
        let partner = Partner::start(Make::OpenSsh);
        let last = partner.files().join("a.hl7");
        let cut = AtomicBool::new(false);
        let proxy = Cutter::start(partner.port(), {
            let last = last.clone();
            move || last.exists() && !cut.swap(true, Ordering::Relaxed)
        });
        let port = proxy.await.address.port().to_string();
        let mut destination = partner.destination(&[("port", &port), ("taken_away", taken_away)]).await;
        let order = outgoing(".", "a.hl7", ORDER);
        assert_eq!(send(&mut destination, &order).await.unwrap_err().class, FaultClass::Reset);
        std::fs::remove_file(&last).unwrap();
        let answer = send(&mut destination, &order).await.unwrap();
        assert!(answer.contains(words) && last.exists() == left, "taken_away = {taken_away}: {answer}");
    }
}

/// What is known of one file's rename says nothing about the next file of the same name.
#[tokio::test(flavor = "multi_thread")]
async fn f62_another_file_of_the_same_name_is_not_taken_for_the_one_that_is_gone() {
    for tried_again in [false, true] {
        let partner = Partner::start(Make::OpenSsh);
        let last = partner.files().join("a.hl7");
        let cut = AtomicBool::new(false);
        let proxy = Cutter::start(partner.port(), {
            let last = last.clone();
            move || last.exists() && !cut.swap(true, Ordering::Relaxed)
        });
        let port = proxy.await.address.port().to_string();
        let mut destination = partner.destination(&[("port", &port)]).await;
        let first = outgoing(".", "a.hl7", ORDER);
        assert_eq!(send(&mut destination, &first).await.unwrap_err().class, FaultClass::Reset);
        if tried_again {
            assert!(send(&mut destination, &first).await.unwrap().starts_with("already there"));
        }
        std::fs::remove_file(&last).unwrap();
        let second = if tried_again { first } else { outgoing(".", "a.hl7", "MSH|another") };
        let answer = send(&mut destination, &second).await.unwrap();
        assert!(answer.starts_with("stored a.hl7") && !answer.contains("taken away"), "{tried_again}: {answer}");
        assert_eq!(std::fs::read(&last).unwrap(), second.content, "{tried_again}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f63_a_full_disk_at_the_partner_keeps_nothing_half_and_is_tried_again() {
    let Some(disk) = Mount::tmpfs(2) else { return };
    let partner = Partner::with_config(&["ed25519"], "", Some(disk.path().to_owned()));
    let mut destination = partner.destination(&[]).await;
    send(&mut destination, &outgoing(".", "first.hl7", noise(1_000_000))).await.unwrap();
    let order = outgoing(".", "second.hl7", noise(1_500_000));
    for _ in 0..2 {
        let error = send(&mut destination, &order).await.unwrap_err();
        // A fault of the whole destination: one delivery at a time tries it, ever more rarely.
        assert_eq!((error.class, error.disposition()), (FaultClass::Full, Disposition::Retry), "{error}");
        assert!(error.class.fault().whole);
        assert_eq!(names(disk.path()), ["first.hl7"], "nothing half is left");
    }
    std::fs::remove_file(disk.path().join("first.hl7")).unwrap();
    send(&mut destination, &order).await.unwrap();
    assert!(std::fs::read(disk.path().join("second.hl7")).unwrap() == order.content);
}

/// The session that serves us is killed, and the server lives on.
#[tokio::test(flavor = "multi_thread")]
async fn f59_a_session_killed_in_the_middle_of_an_upload() {
    let partner = Arc::new(Partner::start(Make::OpenSsh));
    let order = outgoing(".", "a.hl7", noise(60_000_000));
    let mut destination = partner.destination(&[]).await;
    let half = || {
        let part = names(&partner.files()).into_iter().find(|name| name.ends_with(".part"))?;
        let bytes = std::fs::metadata(partner.files().join(&part)).ok()?.len();
        (bytes > 1_000_000).then_some(part)
    };
    let left = async {
        loop {
            if let Some(part) = half() {
                partner.sshd().kill_sessions();
                return part;
            }
            tokio::task::yield_now().await;
        }
    };
    let (sent, left) = tokio::join!(send(&mut destination, &order), left);
    let error = sent.unwrap_err();
    assert_eq!((error.class, error.disposition()), (FaultClass::Reset, Disposition::Retry), "{error}");
    assert_eq!(names(&partner.files()), [left], "what was half is under its temporary name alone");
    assert!(send(&mut destination, &order).await.unwrap().starts_with("stored"));
    assert_eq!(names(&partner.files()), ["a.hl7"]);
    assert!(std::fs::read(partner.files().join("a.hl7")).unwrap() == order.content);
}
