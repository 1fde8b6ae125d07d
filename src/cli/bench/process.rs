//! Processes of the benchmark: started, measured through `/proc`, and ended whatever happens.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Failure;

/// `utime` and `stime` of `/proc/PID/stat` come in hundredths of a second, whatever the kernel's own tick is.
const TICK: Duration = Duration::from_millis(10);
/// The engine gives itself nine seconds.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Every process that runs, so that all can be ended at a signal; none once they were.
#[derive(Debug, Clone)]
pub(super) struct Processes(Arc<Mutex<Option<Vec<SharedChild>>>>);

type SharedChild = Arc<Mutex<Child>>;

impl Processes {
    pub(super) fn new() -> Processes {
        Processes(Arc::new(Mutex::new(Some(Vec::new()))))
    }

    /// Starts one, and reads its lines until the one that `is_ready` says yes to.
    pub(super) fn start(
        &self,
        command: &mut Command,
        mut is_ready: impl FnMut(&str) -> bool,
    ) -> Result<Process, Failure> {
        let (process, lines) = {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let all = all.as_mut().ok_or("the benchmark was told to end")?;
            let mut child = command.stdout(Stdio::piped()).spawn()?;
            let lines = child.stdout.take().map(BufReader::new);
            let child = Arc::new(Mutex::new(child));
            all.push(child.clone());
            (Process { child }, lines)
        };
        for line in lines.into_iter().flat_map(|lines| lines.lines()) {
            if is_ready(&line?) {
                return Ok(process);
            }
        }
        Err("a process of the benchmark ended before it was ready".into())
    }

    /// Ends them all at once.
    pub(super) fn kill(&self) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        for child in all.into_iter().flatten() {
            let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// One of them; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: SharedChild,
}

/// What a process has used so far.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Usage {
    /// CPU time, its own and the kernel's for it.
    pub(super) cpu: Duration,
    /// Resident memory, in KiB.
    pub(super) resident_kib: u64,
    /// The most that it ever was.
    pub(super) peak_kib: u64,
}

impl Process {
    fn child(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn usage(&self) -> Result<Usage, Failure> {
        usage(self.child().id())
    }

    /// SIGTERM; waits for the end.
    pub(super) fn stop(self) -> Result<ExitStatus, Failure> {
        kill_process(Pid::from_child(&self.child()), Signal::TERM)?;
        let began = Instant::now();
        while began.elapsed() < ENDS_WITHIN {
            if let Some(status) = self.child().try_wait()? {
                return Ok(status);
            }
            std::thread::park_timeout(LOOK_EVERY);
        }
        Err("the engine did not end in time".into())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn usage(pid: u32) -> Result<Usage, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(read_usage(&stat, &status))
}

/// `stat` has the program's name in parentheses, which may hold anything: fields are counted behind the last one.
fn read_usage(stat: &str, status: &str) -> Usage {
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u32 = fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok()).sum();
    let kib = |key: &str| {
        let rest = status.lines().find_map(|line| line.strip_prefix(key));
        rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
    };
    Usage { cpu: TICK * ticks, resident_kib: kib("VmRSS:"), peak_kib: kib("VmHWM:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194560 999 0 1 0 150 50 7 7 20 0 9 0 100 1 2";
        let usage = read_usage(stat, "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n");
        assert_eq!((usage.cpu, usage.peak_kib, usage.resident_kib), (Duration::from_secs(2), 2048, 1024));
        assert!(super::usage(std::process::id()).unwrap().resident_kib > 0);
    }
}
