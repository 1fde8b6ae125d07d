//! `sftp_server`: puts files into a folder of Labwire's own SFTP server, from which a partner picks them up.
//!
//! A delivery is `sent` once the file is on disk and the partner can see it, whole. That it was picked up is not waited for.

use std::any::Any;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Delivered, Destination, DestinationConfig, DestinationKind, FaultClass, SendError};
use crate::config::{BuildError, Duration, Mistake, Place, Resource, Table};
use crate::expr::{ExprError, FileNameTemplate, Scope};
use crate::hosted::{self, Access, Placed, Rules};
use crate::journal::Outgoing;
use crate::message::Message;
use crate::net::drop::Door;

pub(super) const KIND: DestinationKind = DestinationKind {
    name: "sftp_server",
    summary: "Puts each message as a file into a folder of Labwire's own SFTP server, from which a partner downloads it.",
    example: r#"type      = "sftp_server"
listen    = "127.0.0.1:2222"
user      = "acme"
keys      = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ acme"]
folder    = "results"
file_name = "{{ meta.id }}.hl7"
"#,
    schema: Door::schema_with::<Keys>,
    faults: &["folder", "permission", "full", "disk", "conflict", "content"],
    parse,
};

/// The keys of the destination, beside those of the door.
const KEYS: &[&str] = &["file_name", "keep", "may_delete"];

/// What is placed has no quota: it is not the partner who fills the folder.
const UNLIMITED: u64 = u64::MAX;

/// A crash may leave a temporary file behind; it goes after so long.
const LEFT_BEHIND: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// The options of an `sftp_server` destination, beside those of the door.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// The file's name, with expressions. It must not change from attempt to attempt, and should differ from message to message.
    file_name: FileNameTemplate,
    /// For how long a file waits to be picked up; then it is removed. Without it, until the partner deletes it.
    keep: Option<Duration>,
    /// Whether the partner may delete what it has picked up (true if not given).
    #[serde(default = "default_may_delete")]
    may_delete: bool,
}

fn default_may_delete() -> bool {
    true
}

#[derive(Debug)]
struct SftpServer {
    door: Door,
    keys: Keys,
}

fn parse(mut table: Table<'_>) -> Option<Box<dyn DestinationConfig>> {
    let more = [KEYS, super::COMMON_KEYS].concat();
    let door = Door::take(&mut table, &more);
    let more = [Door::keys(), super::COMMON_KEYS].concat();
    let keys = table.read_with_more::<Keys>(&more);
    Some(Box::new(SftpServer { door: door?, keys: keys? }))
}

#[async_trait]
impl DestinationConfig for SftpServer {
    fn prepare(&self, message: &Message) -> Result<Outgoing, ExprError> {
        let file_name = self.keys.file_name.render(&Scope::new(message))?;
        let properties = [("file_name".to_owned(), file_name)].into();
        Ok(Outgoing { content: message.body.to_bytes(), properties })
    }

    fn resources(&self) -> Vec<Resource> {
        let Keys { keep, may_delete, .. } = &self.keys;
        self.door.resources(Some(format!("{keep:?} {may_delete}")))
    }

    fn mistakes(&self) -> Vec<Mistake> {
        self.door.mistakes()
    }

    async fn offer(&self, place: &Place) -> Result<Option<Box<dyn Any + Send + Sync>>, BuildError> {
        let listener = self.door.listener(place).await?;
        let rules = Rules {
            access: Access::Download,
            by_rename: false,
            names: None,
            temporary: Vec::new(),
            max_bytes: UNLIMITED,
            quota_bytes: UNLIMITED,
            quota_files: UNLIMITED,
            keep: self.keys.keep.map(Duration::get),
            keep_incomplete: LEFT_BEHIND,
            may_delete: self.keys.may_delete,
        };
        let granted = self.door.open(&listener, &place.channel, self.door.disk(place)?, rules, None);
        granted
            .map(|granted| Some(Box::new(granted) as Box<dyn Any + Send + Sync>))
            .map_err(|error| BuildError::Hosted(format!("the folder cannot be opened: {error}")))
    }

    async fn build(&self, place: &Place) -> Result<Box<dyn Destination>, BuildError> {
        Ok(Box::new(Folder { disk: self.door.disk(place)? }))
    }
}

struct Folder {
    disk: PathBuf,
}

#[async_trait]
impl Destination for Folder {
    async fn send(&mut self, outgoing: &Outgoing) -> Result<Delivered, SendError> {
        let Some(name) = outgoing.properties.get("file_name").cloned() else {
            let error = "this delivery was queued for a destination of another kind: reprocess its message";
            return Err(SendError::new(FaultClass::Content, error));
        };
        hosted::fits(&name)
            .map_err(|problem| SendError::new(FaultClass::Content, format!("`file_name`: {problem}")))?;
        let (disk, content) = (self.disk.clone(), outgoing.content.clone());
        let bytes = content.len();
        let placed = tokio::task::spawn_blocking(move || hosted::place(&disk, &name, &content)).await;
        let placed = placed.map_err(|_| SendError::new(FaultClass::Internal, "the file writer ended early"))?;
        let response = match placed.map_err(|error| fault(&error))? {
            Placed::New => format!("placed, {bytes} bytes"),
            Placed::Before => "it is there already, with the same content".to_owned(),
        };
        Ok(Delivered { response: Some(Bytes::from(response)) })
    }
}

/// The name may hold a patient's name: no error holds it.
fn fault(error: &io::Error) -> SendError {
    if error.kind() == io::ErrorKind::AlreadyExists {
        let message = "a file of this name is there already, with another content: it is left as it is; give the message another \
                       `file_name`, or wait until the partner has deleted that file";
        return SendError::new(FaultClass::Conflict, message);
    }
    SendError::new(FaultClass::of_file(error), format!("placing the file: {}", error.kind()))
}
