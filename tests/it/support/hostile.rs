//! An SFTP server that says what it likes, whatever lies on its disk.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use russh::keys::key::safe_rng;
use russh::keys::{Algorithm, HashAlg, PrivateKey};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId};
use russh_sftp::protocol::{Attrs, Data, File, FileAttributes, Handle, Name, OpenFlags, Status, StatusCode, Version};
use russh_sftp::server::StatusReply;
use tokio::net::TcpListener;

/// What a file pretends to be.
#[derive(Debug, Clone)]
pub struct Pretence {
    pub name: String,
    /// Its size, as the listing has it.
    pub size: u64,
    /// What is read from it.
    pub content: Vec<u8>,
    /// Whether reading never comes to an end.
    pub is_endless: bool,
    /// It is listed, and gone when it is opened so many times.
    pub missing: usize,
    /// Its size after it was read grows by this so many times.
    pub growing: usize,
}

impl Pretence {
    pub fn new(name: &str, content: impl Into<Vec<u8>>) -> Pretence {
        let content = content.into();
        let size = content.len() as u64;
        Pretence { name: name.to_owned(), size, content, is_endless: false, missing: 0, growing: 0 }
    }
}

/// What the server pretends, and what was asked of it.
#[derive(Debug, Default)]
pub struct Play {
    pub files: Vec<Pretence>,
    /// The listing has these files again and again.
    pub is_endless: bool,
    /// Names in listings so far.
    pub listed: usize,
    /// Every path that was asked for.
    pub paths: Vec<String>,
    /// Bytes read so far.
    pub read: u64,
}

/// The server.
pub struct Hostile {
    pub address: SocketAddr,
    pub fingerprint: String,
    pub play: Arc<Mutex<Play>>,
}

impl Hostile {
    /// Starts it; it lets everybody in.
    pub async fn start(play: Play) -> Hostile {
        let key = PrivateKey::random(&mut safe_rng(), Algorithm::Ed25519).unwrap();
        let fingerprint = key.public_key().fingerprint(HashAlg::Sha256).to_string();
        let config = Arc::new(server::Config { keys: vec![key], ..server::Config::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let play = Arc::new(Mutex::new(play));
        let shared = play.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let connection = Connection { play: shared.clone(), channels: HashMap::new() };
                let session = server::run_stream(config.clone(), stream, connection);
                tokio::spawn(async move {
                    if let Ok(session) = session.await {
                        drop(session.await)
                    }
                });
            }
        });
        Hostile { address, fingerprint, play }
    }
}

struct Connection {
    play: Arc<Mutex<Play>>,
    channels: HashMap<ChannelId, Channel<Msg>>,
}

impl server::Handler for Connection {
    type Error = russh::Error;

    async fn auth_password(&mut self, _: &str, _: &str) -> Result<Auth, russh::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.channels.insert(channel.id(), channel);
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(&mut self, id: ChannelId, _: &str, session: &mut Session) -> Result<(), russh::Error> {
        let channel = self.channels.remove(&id).unwrap();
        session.channel_success(id)?;
        let sftp = Sftp { play: self.play.clone(), folders: HashMap::new(), opened: 0 };
        tokio::spawn(russh_sftp::server::run(channel.into_stream(), sftp));
        Ok(())
    }
}

struct Sftp {
    play: Arc<Mutex<Play>>,
    /// How many names of a folder were given.
    folders: HashMap<String, usize>,
    opened: usize,
}

fn attributes(size: u64) -> FileAttributes {
    FileAttributes {
        size: Some(size),
        permissions: Some(0o100_644),
        mtime: Some(1),
        atime: Some(1),
        ..FileAttributes::empty()
    }
}

fn done(id: u32) -> Status {
    Status { id, status_code: StatusCode::Ok, error_message: "Ok".into(), language_tag: "en".into() }
}

impl Sftp {
    /// The file under a path, if it is there.
    fn find(&self, path: &str) -> Result<usize, StatusReply> {
        let mut play = self.play.lock().unwrap();
        play.paths.push(path.to_owned());
        let found = play.files.iter().position(|file| path.ends_with(&format!("/{}", file.name)));
        found.ok_or(StatusCode::NoSuchFile.into())
    }

    fn size(&self, at: usize) -> u64 {
        let mut play = self.play.lock().unwrap();
        let file = &mut play.files[at];
        let grows = file.growing > 0;
        file.growing = file.growing.saturating_sub(1);
        file.size + u64::from(grows)
    }
}

impl russh_sftp::server::Handler for Sftp {
    type Error = StatusReply;

    fn unimplemented(&self) -> StatusReply {
        StatusCode::OpUnsupported.into()
    }

    async fn init(&mut self, _: u32, _: HashMap<String, String>) -> Result<Version, StatusReply> {
        Ok(Version::new())
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs, StatusReply> {
        self.play.lock().unwrap().paths.push(path);
        let attrs = FileAttributes { permissions: Some(0o040_755), ..FileAttributes::empty() };
        Ok(Attrs { id, attrs })
    }

    async fn lstat(&mut self, id: u32, path: String) -> Result<Attrs, StatusReply> {
        let at = self.find(&path)?;
        Ok(Attrs { id, attrs: attributes(self.play.lock().unwrap().files[at].size) })
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Result<Attrs, StatusReply> {
        let at: usize = handle.parse().map_err(|_| StatusCode::Failure)?;
        Ok(Attrs { id, attrs: attributes(self.size(at)) })
    }

    async fn opendir(&mut self, id: u32, path: String) -> Result<Handle, StatusReply> {
        self.play.lock().unwrap().paths.push(path);
        self.opened += 1;
        let handle = format!("folder {}", self.opened);
        self.folders.insert(handle.clone(), 0);
        Ok(Handle { id, handle })
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Result<Name, StatusReply> {
        let mut play = self.play.lock().unwrap();
        let given = self.folders.get_mut(&handle).ok_or(StatusCode::Failure)?;
        if *given > 0 && !play.is_endless || play.files.is_empty() {
            return Err(StatusCode::Eof.into());
        }
        *given += play.files.len();
        play.listed += play.files.len();
        let file = |file: &Pretence| File {
            filename: file.name.clone(),
            longname: String::new(),
            attrs: attributes(file.size),
        };
        Ok(Name { id, files: play.files.iter().map(file).collect() })
    }

    async fn open(&mut self, id: u32, path: String, _: OpenFlags, _: FileAttributes) -> Result<Handle, StatusReply> {
        let at = self.find(&path)?;
        let file = &mut self.play.lock().unwrap().files[at];
        if file.missing > 0 {
            file.missing -= 1;
            return Err(StatusCode::NoSuchFile.into());
        }
        Ok(Handle { id, handle: at.to_string() })
    }

    async fn read(&mut self, id: u32, handle: String, offset: u64, length: u32) -> Result<Data, StatusReply> {
        let at: usize = handle.parse().map_err(|_| StatusCode::Failure)?;
        let mut play = self.play.lock().unwrap();
        let file = &play.files[at];
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(file.content.len());
        let end = start.saturating_add(length as usize).min(file.content.len());
        let mut data = file.content[start..end].to_vec();
        if file.is_endless {
            data.resize(length as usize, b'x');
        }
        play.read += data.len() as u64;
        if data.is_empty() { Err(StatusCode::Eof.into()) } else { Ok(Data { id, data }) }
    }

    async fn close(&mut self, id: u32, handle: String) -> Result<Status, StatusReply> {
        self.folders.remove(&handle);
        Ok(done(id))
    }

    async fn remove(&mut self, id: u32, path: String) -> Result<Status, StatusReply> {
        let at = self.find(&path)?;
        self.play.lock().unwrap().files.remove(at);
        Ok(done(id))
    }

    async fn mkdir(&mut self, id: u32, path: String, _: FileAttributes) -> Result<Status, StatusReply> {
        self.play.lock().unwrap().paths.push(path);
        Ok(done(id))
    }

    async fn rename(&mut self, id: u32, from: String, to: String) -> Result<Status, StatusReply> {
        let at = self.find(&from)?;
        let mut play = self.play.lock().unwrap();
        play.paths.push(to);
        play.files.remove(at);
        Ok(done(id))
    }
}
