//! Receivers at the end of a message's way, in the process that sends, so that one clock tells how long the way took.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::inotify;

use crate::cli::load::{Latency, Load};
use crate::hl7::Header;
use crate::mllp::{self, Decoder, Event};

const MAX_FRAME_BYTES: usize = 64 << 20;
/// Files that came are heard of at once; longer, and the kernel has lost count.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// When each message of a load was sent; those beyond its end are counted, not timed.
pub(super) struct Ledger {
    load: Arc<Load>,
    epoch: Instant,
    sent: Box<[AtomicU64]>,
}

impl Ledger {
    pub(super) fn new(load: Arc<Load>, messages: usize) -> Arc<Ledger> {
        let sent = (0..messages).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Ledger { load, epoch: Instant::now(), sent })
    }

    pub(super) fn load(&self) -> &Arc<Load> {
        &self.load
    }

    pub(super) fn note(&self, number: u64, at: Instant) {
        if let Some(sent) = self.sent.get(number as usize) {
            sent.store(self.nanos(at).max(1), Relaxed);
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_nanos() as u64
    }

    fn sent(&self, number: u64) -> Option<Duration> {
        let nanos = self.sent.get(number as usize)?.load(Relaxed);
        (nanos > 0).then(|| Duration::from_nanos(nanos))
    }
}

/// What arrived at one place since it was asked last.
#[derive(Debug, Default, Clone)]
pub(super) struct Arrivals {
    /// Messages, each once.
    pub(super) messages: u64,
    /// Messages that had arrived before.
    pub(super) repeated: u64,
    /// Of the messages.
    pub(super) bytes: u64,
    /// From when a message was sent until it arrived.
    pub(super) latency: Latency,
    /// When the last one arrived.
    pub(super) last: Option<Instant>,
}

impl Arrivals {
    pub(super) fn add(&mut self, other: &Arrivals) {
        self.messages += other.messages;
        self.repeated += other.repeated;
        self.bytes += other.bytes;
        self.latency.add(&other.latency);
        self.last = self.last.max(other.last);
    }
}

/// An MLLP receiver that accepts everything at once.
pub(super) struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    ledger: Arc<Ledger>,
    seen: Box<[AtomicBool]>,
    arrivals: Mutex<Arrivals>,
}

impl Receiver {
    pub(super) fn start(ledger: &Arc<Ledger>) -> io::Result<Receiver> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Shared::new(ledger);
        let serving = shared.clone();
        std::thread::Builder::new().name("receiver".to_owned()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = serving.clone();
                let _ = std::thread::Builder::new().spawn(move || shared.serve(stream));
            }
        })?;
        Ok(Receiver { address, shared })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What arrived since it was asked last.
    pub(super) fn take(&self) -> Arrivals {
        self.shared.take()
    }
}

/// A folder in which each message becomes a file that is named after its control id. A file arrives when it gets its name.
pub(super) struct Folder {
    path: PathBuf,
    shared: Arc<Shared>,
    /// The files that were asked for already.
    taken: Mutex<HashSet<OsString>>,
}

impl Folder {
    pub(super) fn watch(path: PathBuf, ledger: &Arc<Ledger>) -> io::Result<Folder> {
        std::fs::create_dir_all(&path)?;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, &path, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
        let shared = Shared::new(ledger);
        let watching = shared.clone();
        std::thread::Builder::new().name("folder".to_owned()).spawn(move || {
            let mut buffer = [MaybeUninit::uninit(); 16 << 10];
            let mut events = inotify::Reader::new(&watch, &mut buffer);
            while let Ok(event) = events.next() {
                if let Some(name) = event.file_name() {
                    watching.arrived(control_id_of(name.to_bytes()), 0);
                }
            }
        })?;
        Ok(Folder { path, shared, taken: Mutex::default() })
    }

    /// What arrived since it was asked last, by the files themselves: what was seen of their coming gives the times only. They
    /// stay until the end: some file systems make new files more slowly for some seconds after others were removed.
    pub(super) fn take(&self) -> io::Result<Arrivals> {
        let (mut messages, mut bytes) = (0, 0);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_ours = self.shared.ledger.load.number(control_id_of(name.as_encoded_bytes())).is_some();
            if is_ours && taken.insert(name) {
                messages += 1;
                bytes += entry.metadata()?.len();
            }
        }
        let asked = Instant::now();
        while self.shared.count() < messages && asked.elapsed() < SEEN_WITHIN {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        Ok(Arrivals { messages, bytes, ..self.shared.take() })
    }
}

fn control_id_of(file_name: &[u8]) -> &[u8] {
    file_name.strip_suffix(b".hl7").unwrap_or_default()
}

impl Shared {
    fn new(ledger: &Arc<Ledger>) -> Arc<Shared> {
        let seen = (0..ledger.sent.len()).map(|_| AtomicBool::new(false)).collect();
        Arc::new(Shared { ledger: ledger.clone(), seen, arrivals: Mutex::default() })
    }

    fn arrivals(&self) -> MutexGuard<'_, Arrivals> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> u64 {
        self.arrivals().messages
    }

    fn take(&self) -> Arrivals {
        std::mem::take(&mut *self.arrivals())
    }

    /// Until the connection ends.
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut decoder = Decoder::new(MAX_FRAME_BYTES);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = stream.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            decoder.push(&buffer[..count]);
            while let Some(event) = decoder.next_event() {
                let Event::Frame(content) = event else { continue };
                let Some(header) = Header::scan(&content) else { continue };
                self.arrived(header.control_id(), content.len());
                let mut answer = b"\x0bMSH|^~\\&|PEER|PEER|LAB|ACME|20260115103000||ACK|1|P|2.5.1\rMSA|AA|".to_vec();
                answer.extend_from_slice(header.control_id());
                answer.extend_from_slice(&[b'\r', mllp::END, b'\r']);
                stream.write_all(&answer)?;
            }
        }
    }

    fn arrived(&self, control_id: &[u8], bytes: usize) {
        let now = Instant::now();
        let Some(number) = self.ledger.load.number(control_id) else { return };
        let again = self.seen.get(number as usize).is_some_and(|seen| seen.swap(true, Relaxed));
        let mut arrivals = self.arrivals();
        if again {
            arrivals.repeated += 1;
            return;
        }
        arrivals.messages += 1;
        arrivals.bytes += bytes as u64;
        arrivals.last = Some(now);
        if let Some(sent) = self.ledger.sent(number) {
            arrivals.latency.record(Duration::from_nanos(self.ledger.nanos(now)).saturating_sub(sent));
        }
    }
}
