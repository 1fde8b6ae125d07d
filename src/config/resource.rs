//! What channels hold: a port, a path on a port, a folder.

use std::net::SocketAddr;

/// Something that only one channel can hold at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// A TCP port.
    Port(SocketAddr),
    /// A path on a TCP port that several channels may share.
    Path(SharedPath),
    /// A TCP port that several channels hold together, as long as they say the same of it.
    SharedPort {
        /// The address.
        address: SocketAddr,
        /// What is said of it.
        settings: String,
    },
    /// A folder of a user of the hosted SFTP server.
    Folder {
        /// The user.
        user: String,
        /// The names of its path.
        folder: Vec<String>,
        /// What is said of it, where several may hold it together as long as they say the same.
        shared: Option<String>,
    },
}

/// A path on an HTTP port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedPath {
    /// The port.
    pub address: SocketAddr,
    /// The method, as in `POST`.
    pub method: &'static str,
    /// The path, as in `/orders`.
    pub path: String,
    /// What the port's options are: those who share it must say the same.
    pub door: String,
}

impl Resource {
    fn address(&self) -> Option<SocketAddr> {
        match self {
            Resource::Port(address) | Resource::SharedPort { address, .. } => Some(*address),
            Resource::Path(shared) => Some(shared.address),
            Resource::Folder { .. } => None,
        }
    }

    /// Whether both cannot be held at once.
    pub fn conflicts_with(&self, other: &Resource) -> bool {
        self.conflict(other).is_some()
    }

    /// Why both cannot be held at once, and what to do. Port 0 picks a free one and never collides.
    pub fn conflict(&self, other: &Resource) -> Option<(String, &'static str)> {
        if let (Resource::Folder { user, folder, shared }, Resource::Folder { user: of, folder: there, .. }) =
            (self, other)
        {
            let is_twice = user == of && (folder.starts_with(there) || there.starts_with(folder));
            let together = shared.is_some() && self == other;
            let message = || format!("the folder `/{}` of user `{user}` is there twice", folder.join("/"));
            return (is_twice && !together).then(|| {
                (
                    message(),
                    "choose another folder, and none that lies in another channel's; destinations may have one together that say \
                     the same of it",
                )
            });
        }
        let (a, b) = (self.address()?, other.address()?);
        let same_port = a.port() != 0 && a.port() == b.port();
        if !same_port || !(a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified()) {
            return None;
        }
        let port = a.port();
        match (self, other) {
            (Resource::Path(one), Resource::Path(two)) if a == b => one.conflict(two),
            (Resource::SharedPort { settings: one, .. }, Resource::SharedPort { settings: two, .. }) if a == b => {
                let message = || format!("two channels listen on port {port}, and do not say the same of it");
                (one != two).then(|| {
                    (message(), "choose another port, or give both the same `listen`, `host_key` and `limits`")
                })
            }
            _ => Some((format!("two channels listen on port {port}"), "choose another port")),
        }
    }
}

impl SharedPath {
    fn conflict(&self, other: &SharedPath) -> Option<(String, &'static str)> {
        let port = self.address.port();
        if self.door != other.door {
            return Some((
                format!("two channels share port {port} and say different things of it"),
                "`tls`, `max_connections`, `header_timeout` and `allow` must be the same, or choose another port",
            ));
        }
        let same = self.method == other.method && self.path == other.path;
        same.then(|| {
            (format!("two channels take {} {} on port {port}", self.method, self.path), "choose another path or method")
        })
    }
}
