//! `labwire messages export`.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;

use super::Filter;
use crate::cli::client::Client;
use crate::cli::{ExitCode, complain, print_line};
use crate::journal::{JournalError, Page, Removed};
use crate::server::{Content, MessageView};

/// Messages on a page of the list.
const PAGE: &str = "1000";

#[derive(Debug, Args)]
pub(in crate::cli) struct Export {
    /// Ids of the messages; or use the filters
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// Write each message's body, as it came, into a file of this folder under the message's id; without it, one line of JSON
    /// for each message goes to standard output, with its deliveries, attempts and commands. A body that was removed is no file, and
    /// an error
    #[arg(long, value_name = "FOLDER")]
    to: Option<PathBuf>,
    #[command(flatten)]
    client: Client,
}

impl Export {
    pub(super) fn run(&self) -> Result<ExitCode, ExitCode> {
        let filter = self.filter.pairs();
        if self.ids.is_empty() == filter.is_empty() {
            complain("say which messages: either their ids or filters such as --channel results");
            return Err(ExitCode::Usage);
        }
        if let Some(folder) = &self.to {
            // Nobody else's business: these are patients.
            let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| failed(folder, &error))?;
        }
        let (mut count, mut gone) = (0, 0);
        let mut write = |id: &str| {
            *if self.write(id)? { &mut count } else { &mut gone } += 1;
            Ok(())
        };
        for id in &self.ids {
            write(id)?;
        }
        let mut before = None;
        while self.ids.is_empty() {
            let mut query = filter.clone();
            query.push(("limit", PAGE.to_owned()));
            query.extend(before.map(|before| ("before", before)));
            let page: Page = self.client.get("/messages", &query)?;
            for message in &page.messages {
                write(&message.id.to_string())?;
            }
            let Some(next) = page.next else { break };
            before = Some(next.to_string());
        }
        if let Some(folder) = &self.to {
            print_line(&format!("{count} messages in {}", folder.display()));
        }
        Ok(if gone == 0 { ExitCode::Done } else { ExitCode::No })
    }

    /// False where there is nothing left to be written.
    fn write(&self, id: &str) -> Result<bool, ExitCode> {
        let view: MessageView = self.client.get(&format!("/messages/{id}"), &[])?;
        let Some(folder) = &self.to else {
            print_line(&serde_json::to_string(&view).expect("our own values are JSON"));
            return Ok(true);
        };
        let extension = view.summary.format.extension();
        let path = folder.join(format!("{}.{extension}", view.summary.id));
        let body = match &view.body {
            Content::Text(text) => text.clone().into_bytes(),
            Content::Base64(text) => STANDARD.decode(text).map_err(|error| failed(&path, &io::Error::other(error)))?,
            Content::Removed(Removed { at, .. }) => {
                complain(JournalError::Removed { id: view.summary.id, at: *at });
                return Ok(false);
            }
        };
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(&body)).map_err(|error| failed(&path, &error))?;
        Ok(true)
    }
}

fn failed(path: &Path, error: &io::Error) -> ExitCode {
    complain(format!("{}: {error}", path.display()));
    ExitCode::No
}
