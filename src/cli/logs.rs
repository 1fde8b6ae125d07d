//! Logs: readable on a terminal, JSON elsewhere; on standard error. Never message content.
//!
//! Design constraints:
//! - Nothing waits for whoever reads the log. Lines go into a queue, and a thread of its own writes them; what finds the queue full
//!   is dropped and counted, and the log says so as soon as it is read again.
//! - The last lines before the end get out, if they are read at all: [`Logs`] waits for them, for a moment.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing::warn;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

/// So many lines may wait to be written.
const WAITING_LINES: usize = 4096;
/// At the end, those that wait may take so long.
const LAST_LINES_WITHIN: Duration = Duration::from_millis(500);

/// Logging; when dropped, the lines that wait are written, if somebody reads them.
pub(super) struct Logs(Queue);

/// Starts logging. `LABWIRE_LOG` takes tracing's filter directives; `default` holds where it is not set.
pub(super) fn start(default: LevelFilter) -> Logs {
    let filter =
        EnvFilter::builder().with_env_var("LABWIRE_LOG").with_default_directive(default.into()).from_env_lossy();
    let queue = Queue::start(io::stderr);
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(queue.clone());
    // Only one subscriber can be set; a second call would come from a test in the same process.
    let _ = if super::stderr_is_terminal() {
        logs.compact().with_target(false).with_ansi(super::colour_of(&io::stderr())).try_init()
    } else {
        logs.json().flatten_event(true).with_target(false).try_init()
    };
    Logs(queue)
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.0.flush(LAST_LINES_WITHIN);
    }
}

/// The way to the thread that writes.
#[derive(Clone)]
struct Queue {
    /// None where there is no such thread: then lines are written at once.
    lines: Option<SyncSender<Item>>,
    dropped: Arc<AtomicU64>,
}

enum Item {
    Line(Vec<u8>),
    /// Everything before this is to be written.
    Flush(SyncSender<()>),
}

impl Queue {
    /// Starts the thread that writes to what `open` gives.
    fn start<W: Write>(open: impl FnOnce() -> W + Send + 'static) -> Queue {
        let (lines, waiting) = sync_channel(WAITING_LINES);
        let dropped: Arc<AtomicU64> = Arc::default();
        let count = dropped.clone();
        let write = move || write_lines(open(), &waiting, &count);
        let started = std::thread::Builder::new().name("labwire-log".to_owned()).spawn(write);
        Queue { lines: started.is_ok().then_some(lines), dropped }
    }

    /// Waits until what waits is written, but no longer than that.
    fn flush(&self, within: Duration) {
        let Some(lines) = &self.lines else { return };
        let deadline = Instant::now() + within;
        let (done, written) = sync_channel(1);
        while let Err(TrySendError::Full(_)) = lines.try_send(Item::Flush(done.clone())) {
            if Instant::now() >= deadline {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

/// Writes lines as they come. One that cannot be written is gone: there is nowhere to say so.
fn write_lines(mut out: impl Write, waiting: &Receiver<Item>, dropped: &AtomicU64) {
    while let Ok(item) = waiting.recv() {
        match item {
            Item::Line(line) => drop(out.write_all(&line)),
            Item::Flush(done) => {
                let _ = out.flush();
                let _ = done.send(());
            }
        }
        let dropped = dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            // There is room in the queue now: one was taken out of it.
            warn!(dropped, "{dropped} log lines were dropped: nobody read the log");
        }
    }
}

impl<'q> MakeWriter<'q> for Queue {
    type Writer = Entry<'q>;

    fn make_writer(&'q self) -> Entry<'q> {
        Entry { queue: self, line: Vec::new() }
    }
}

/// One entry of the log in the making; it is queued whole.
struct Entry<'q> {
    queue: &'q Queue,
    line: Vec<u8>,
}

impl Write for Entry<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let line = std::mem::take(&mut self.line);
        match &self.queue.lines {
            None => drop(io::stderr().write_all(&line)),
            Some(lines) => {
                if lines.try_send(Item::Line(line)).is_err() {
                    self.queue.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Takes a while for each line; takes none while somebody holds the lock.
    struct Slow(Arc<Mutex<Vec<u8>>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            std::thread::park_timeout(Duration::from_millis(1));
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(queue: &Queue, lines: usize) {
        for number in 0..lines {
            writeln!(queue.make_writer(), "line {number}").unwrap();
        }
    }

    #[test]
    fn the_last_lines_get_out_in_order() {
        let out: Arc<Mutex<Vec<u8>>> = Arc::default();
        let slow = Slow(out.clone());
        let queue = Queue::start(move || slow);
        log(&queue, 50);
        queue.flush(Duration::from_secs(20));
        let expected: String = (0..50).map(|number| format!("line {number}\n")).collect();
        assert_eq!(String::from_utf8(out.lock().unwrap().clone()).unwrap(), expected);
    }

    #[test]
    fn nobody_waits_for_a_log_that_is_not_read() {
        let out: Arc<Mutex<Vec<u8>>> = Arc::default();
        let slow = Slow(out.clone());
        let queue = Queue::start(move || slow);
        let nobody_reads = out.lock().unwrap();
        // One is in the writer's hands, the rest of what is kept in the queue.
        log(&queue, WAITING_LINES + 101);
        let dropped = queue.dropped.load(Ordering::Relaxed);
        assert!((100..=101).contains(&dropped), "{dropped}");
        let start = Instant::now();
        queue.flush(Duration::from_millis(20));
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        drop(nobody_reads);
    }
}
