//! A source by itself: started from TOML text on a free port, before a journal that tests can hold and break.

use std::net::SocketAddr;
use std::sync::Arc;

use labwire::journal::Arrival;
use labwire::message::MessageIds;
use labwire::monitor::{Counters, CountersNow};
use labwire::source::Intake;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::eventually::eventually;
use super::mllp_client::MllpClient;
use super::options;
use super::test_journal::TestJournal;

pub struct Listener {
    pub address: SocketAddr,
    pub journal: Arc<TestJournal>,
    counters: Arc<Counters>,
    stop: CancellationToken,
    running: Option<JoinHandle<()>>,
    runtime: Runtime,
}

impl Listener {
    /// An `mllp` source with these options beside `listen`.
    pub fn start(text: &str) -> Listener {
        let config = options::source("mllp", &format!("listen = \"127.0.0.1:0\"\n{text}")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let source = runtime.block_on(config.build(&options::place("source"))).unwrap();
        let (journal, counters, stop) =
            (Arc::new(TestJournal::new()), Arc::new(Counters::default()), CancellationToken::new());
        let ids = Arc::new(MessageIds::default());
        let intake = Intake::new("test".into(), journal.clone(), ids, Arc::default(), counters.clone());
        let address = source.listens_on().unwrap();
        let running = Some(runtime.spawn(source.run(intake, stop.clone())));
        Listener { address, journal, counters, stop, running, runtime }
    }

    pub fn connect(&self) -> MllpClient {
        MllpClient::connect(self.address).unwrap()
    }

    pub fn counters(&self) -> CountersNow {
        self.counters.now()
    }

    /// Waits until so many messages have come to the journal.
    #[track_caller]
    pub fn arrivals(&self, count: usize) -> Vec<Arrival> {
        eventually(&format!("{count} arrivals"), || {
            Some(self.journal.arrivals()).filter(|arrivals| arrivals.len() >= count)
        })
    }

    /// Tells the source to stop, and does not wait.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Waits until the source has ended.
    pub fn wait_for_end(&mut self) {
        let running = self.running.take().unwrap();
        let ended =
            self.runtime.block_on(async { tokio::time::timeout(std::time::Duration::from_secs(20), running).await });
        ended.expect("it ends in time").expect("without a panic");
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stop.cancel();
        self.journal.release();
        if self.running.is_some() && !std::thread::panicking() {
            self.wait_for_end();
        }
    }
}
