//! Receivers at the end of a message's way, in the process that sends, so that one clock tells how long the way took.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::cli::load::{Latency, Load};
use crate::hl7::Header;
use crate::mllp::{self, Decoder, Event};

const MAX_FRAME_BYTES: usize = 64 << 20;

/// When each message of a load was sent; those beyond its end are counted, not timed.
pub(super) struct Ledger {
    load: Arc<Load>,
    epoch: Instant,
    /// The same moment on the wall's clock, to compare with times of files.
    wall: SystemTime,
    sent: Box<[AtomicU64]>,
}

impl Ledger {
    pub(super) fn new(load: Arc<Load>, messages: usize) -> Arc<Ledger> {
        let sent = (0..messages).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Ledger { load, epoch: Instant::now(), wall: SystemTime::now(), sent })
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

    /// Reads them off the files in a folder, which are named after control ids, and removes these. A file arrives when it gets
    /// its name, which the kernel notes as its status change, to about 4 ms.
    pub(super) fn in_folder(folder: &std::path::Path, ledger: &Ledger) -> io::Result<Arrivals> {
        use std::os::unix::fs::MetadataExt as _;
        let mut arrivals = Arrivals::default();
        let wall = ledger.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        for entry in std::fs::read_dir(folder)? {
            let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            let number = name.to_str().and_then(|name| ledger.load.number(name.split('.').next()?.as_bytes()));
            let Some(number) = number else { continue };
            let metadata = std::fs::metadata(&entry)?;
            let changed = Duration::new(metadata.ctime() as u64, metadata.ctime_nsec() as u32).saturating_sub(wall);
            if let Some(sent) = ledger.sent(number) {
                arrivals.latency.record(changed.saturating_sub(sent));
            }
            arrivals.messages += 1;
            arrivals.bytes += metadata.len();
            arrivals.last = arrivals.last.max(Some(ledger.epoch + changed));
            std::fs::remove_file(entry)?;
        }
        Ok(arrivals)
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
        let seen = (0..ledger.sent.len()).map(|_| AtomicBool::new(false)).collect();
        let shared = Arc::new(Shared { ledger: ledger.clone(), seen, arrivals: Mutex::default() });
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
        std::mem::take(&mut *self.shared.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Shared {
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
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
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
