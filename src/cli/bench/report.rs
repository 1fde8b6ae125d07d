//! What the benchmark found: for people, for programs, and for the documentation.

use std::time::Duration;

use serde_json::{Value, json};

use super::Failure;
use super::engine::{Engine, States};
use super::measure::{Raw, Subject, Total};
use super::process::Usage;

/// One line of the table: an engine under one load.
pub(super) struct Row {
    label: String,
    connections: usize,
    message_bytes: usize,
    pub(super) total: Total,
    in_all: Total,
    states: States,
    usage: Usage,
    /// Before the first message.
    pub(super) idle_kib: Option<u64>,
    /// Messages a second, and what came of them.
    pub(super) steady: Option<(f64, Total)>,
    pub(super) null: Option<Total>,
    pub(super) raw: Option<Raw>,
    /// Of all messages in the journal, once the engine was stopped.
    disk_bytes: u64,
    journaled: u64,
}

/// One figure to another of the same run.
pub(super) struct Ratio {
    name: String,
    value: f64,
}

/// What came of a shape.
#[derive(Default)]
pub(super) struct Section {
    pub(super) shape: String,
    pub(super) rows: Vec<Row>,
    pub(super) starts: Vec<Start>,
    pub(super) ratios: Vec<Ratio>,
}

/// A start of the engine on a journal that is there.
pub(super) struct Start {
    /// What happened before, and what is in the journal.
    pub(super) label: String,
    /// Until it said that it is ready.
    pub(super) ready_after: Duration,
    pub(super) usage: Usage,
    /// Messages that are in the journal then, by their states.
    pub(super) states: States,
}

impl Start {
    fn to_json(&self) -> Value {
        json!({
            "label": self.label, "ready_after_ms": self.ready_after.as_millis() as u64,
            "peak_kib": self.usage.peak_kib, "states": self.states,
        })
    }

    fn cells(&self) -> Vec<String> {
        let states: Vec<String> = self.states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        let (seconds, mib) = (self.ready_after.as_secs_f64(), self.usage.peak_kib as f64 / 1024.0);
        vec![self.label.clone(), states.join(", "), format!("{seconds:.2}"), format!("{mib:.0}")]
    }
}

impl Ratio {
    pub(super) fn new(name: impl Into<String>, figure: f64, to: f64) -> Ratio {
        Ratio { name: name.into(), value: if to > 0.0 { figure / to } else { 0.0 } }
    }
}

impl Row {
    /// What came of it so far; the engine still runs.
    pub(super) fn of(
        label: &str,
        connections: usize,
        message_bytes: usize,
        subject: &Subject<'_>,
        engine: &Engine,
    ) -> Result<Row, Failure> {
        let states = engine.all_states()?;
        Ok(Row {
            label: label.to_owned(),
            connections,
            message_bytes,
            total: subject.total.clone(),
            in_all: subject.in_all.clone(),
            journaled: states.values().sum(),
            states,
            usage: engine.usage()?,
            idle_kib: None,
            steady: None,
            null: None,
            raw: None,
            disk_bytes: 0,
        })
    }

    /// Stops the engine, for what its messages came to on the disk.
    pub(super) fn stopped(&mut self, engine: Engine) -> Result<(), Failure> {
        let folder = engine.folder().to_owned();
        self.disk_bytes = engine.stop()?;
        Ok(std::fs::remove_dir_all(folder)?)
    }

    /// Whether every message was accepted, and arrived once wherever it should.
    pub(super) fn is_whole(&self) -> bool {
        let load = &self.in_all.load;
        let arrived =
            |arrivals: &super::receiver::Arrivals| arrivals.messages == load.accepted && arrivals.repeated == 0;
        load.all_accepted() && self.in_all.arrivals.iter().all(arrived) && self.journaled >= load.accepted
    }

    fn disk_per_message(&self) -> f64 {
        self.disk_bytes as f64 / self.journaled.max(1) as f64
    }

    /// Bytes on disk to those of the bodies: each message as it was received, and as it was sent to each destination.
    fn disk_to_bodies(&self) -> f64 {
        // Messages outside of this load (a backlog) are of the same size.
        let received = self.journaled * self.message_bytes as u64;
        let sent: u64 = self.in_all.arrivals.iter().map(|arrivals| arrivals.bytes).sum();
        self.disk_bytes as f64 / (received + sent).max(1) as f64
    }

    fn to_json(&self) -> Value {
        let load = &self.in_all.load;
        let of_arrivals = |total: &Total| -> Vec<Value> {
            let each = total.arrivals.iter().map(|arrivals| {
                json!({ "messages": arrivals.messages, "repeated": arrivals.repeated, "latency_ms": arrivals.latency.to_json() })
            });
            each.collect()
        };
        json!({
            "label": self.label, "connections": self.connections, "message_bytes": self.message_bytes,
            "whole": self.is_whole(),
            "in_all": {
                "sent": load.sent, "accepted": load.accepted, "rejected": load.rejected, "errors": load.errors,
                "first_error": load.first_error, "arrived": of_arrivals(&self.in_all), "states": self.states,
            },
            "messages": self.total.load.accepted,
            "received_per_second": self.total.load.per_second(),
            "whole_way_per_second": self.total.way_per_second(),
            "ack_ms": self.total.load.latency.to_json(),
            "end_to_end": of_arrivals(&self.total),
            "end_to_end_at_half": self.steady.as_ref().map(|(rate, total)| json!({ "rate": rate, "at": of_arrivals(total) })),
            "engine": {
                "cpu_us_per_message": self.total.cpu_micros(), "peak_kib": self.usage.peak_kib,
                "resident_kib": self.usage.resident_kib, "idle_kib": self.idle_kib,
            },
            "disk": { "bytes_per_message": self.disk_per_message(), "to_bodies": self.disk_to_bodies() },
            "null_server": self.null.as_ref().map(|server| {
                json!({ "messages_per_second": server.load.per_second(), "ack_ms": server.load.latency.to_json() })
            }),
            "raw": self.raw.as_ref().map(|raw| json!({
                "group": raw.group, "groups_per_second": raw.grouped.per_second(),
                "single_per_second": raw.single.per_second(), "single_ms": raw.single.latency.to_json(),
                "four_kib_per_second": raw.four_kib.per_second(), "four_kib_ms": raw.four_kib.latency.to_json(),
                "files_per_second": raw.files.as_ref().map(super::raw::Limit::per_second),
            })),
        })
    }
}

/// Everything, for programs.
pub(super) fn json_of(sections: &[Section], seconds: f64) -> Value {
    let of_section = |section: &Section| {
        let ratios = section.ratios.iter().map(|ratio| json!({ "name": ratio.name, "value": ratio.value }));
        json!({
            "shape": section.shape, "rows": section.rows.iter().map(Row::to_json).collect::<Vec<_>>(),
            "starts": section.starts.iter().map(Start::to_json).collect::<Vec<_>>(),
            "ratios": ratios.collect::<Vec<_>>(),
        })
    };
    json!({
        "version": env!("CARGO_PKG_VERSION"), "optimized": !cfg!(debug_assertions), "cpus": cpus(),
        "at": jiff::Timestamp::now().to_string(), "seconds": seconds,
        "whole": sections.iter().flat_map(|section| &section.rows).all(Row::is_whole),
        "shapes": sections.iter().map(of_section).collect::<Vec<_>>(),
    })
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}

/// How cells are put together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Columns of a terminal.
    Text,
    /// A table of Markdown.
    Markdown,
}

/// Everything, for people.
pub(super) fn tables_of(sections: &[Section], seconds: f64, look: Look) -> String {
    let optimized = if cfg!(debug_assertions) { ", NOT OPTIMIZED" } else { "" };
    let mut text = format!(
        "labwire {}{optimized}, {}, {} CPUs, {seconds} s for each figure\n",
        env!("CARGO_PKG_VERSION"),
        jiff::Timestamp::now().strftime("%Y-%m-%d"),
        cpus()
    );
    let rows = || sections.iter().flat_map(|section| section.rows.iter().map(|row| (section.shape.as_str(), row)));
    let tables = [
        table("The engine", &ENGINE_HEAD, rows().map(|(shape, row)| engine_cells(shape, row)), look),
        table(
            "The limits: a server that only acknowledges; append + fdatasync",
            &LIMITS_HEAD,
            rows().filter_map(|(shape, row)| limit_cells(shape, row)),
            look,
        ),
        table(
            "Starts",
            &["after", "messages", "ready after s", "MiB peak"],
            sections.iter().flat_map(|section| &section.starts).map(Start::cells),
            look,
        ),
        table("Ratios", &["figure", "ratio"], sections.iter().flat_map(ratio_cells), look),
    ];
    text += &tables.concat();
    for (_, row) in rows().filter(|(_, row)| !row.is_whole()) {
        let load = &row.in_all.load;
        let arrived: Vec<u64> = row.in_all.arrivals.iter().map(|arrivals| arrivals.messages).collect();
        text += &format!(
            "\n{}: NOT WHOLE: sent {}, accepted {}, arrived {arrived:?}; first: {}\n",
            row.label,
            load.sent,
            load.accepted,
            load.first_error.as_deref().unwrap_or("nothing")
        );
    }
    text
}

const ENGINE_HEAD: [&str; 10] = [
    "shape",
    "load",
    "received/s",
    "whole way/s",
    "ack ms p50/p99/p99.9",
    "end to end ms p50/p99",
    "at half load",
    "CPU µs",
    "MiB peak/now",
    "disk B (÷ bodies)",
];

fn engine_cells(shape: &str, row: &Row) -> Vec<String> {
    let end_to_end = |total: &Total| {
        let slowest = total.arrivals.iter().max_by(|a, b| a.latency.millis(50.0).total_cmp(&b.latency.millis(50.0)));
        slowest.map(|slowest| format!("{:.1}/{:.1}", slowest.latency.millis(50.0), slowest.latency.millis(99.0)))
    };
    let or_dash = |cell: Option<String>| cell.unwrap_or_else(|| "-".to_owned());
    let latency = &row.total.load.latency;
    let label = if row.label == shape { shape.to_owned() } else { format!("{shape}: {}", row.label) };
    let mib = |kib: u64| kib as f64 / 1024.0;
    vec![
        label,
        format!("{} × {} B", row.connections, row.message_bytes),
        format!("{:.0}", row.total.load.per_second()),
        or_dash(row.total.way_per_second().map(|rate| format!("{rate:.0}"))),
        format!("{:.2}/{:.2}/{:.2}", latency.millis(50.0), latency.millis(99.0), latency.millis(99.9)),
        or_dash(end_to_end(&row.total)),
        or_dash(row.steady.as_ref().and_then(|(_, total)| end_to_end(total))),
        format!("{:.0}", row.total.cpu_micros()),
        format!("{:.0}/{:.0}", mib(row.usage.peak_kib), mib(row.usage.resident_kib))
            + &row.idle_kib.map_or_else(String::new, |kib| format!(" (idle {:.0})", mib(kib))),
        format!("{:.0} ({:.2})", row.disk_per_message(), row.disk_to_bodies()),
    ]
}

const LIMITS_HEAD: [&str; 7] = [
    "beside",
    "null server/s (ack ms p50/p99)",
    "group",
    "in groups, messages/s",
    "one by one/s (p50 ms)",
    "4 KiB/s (p50 ms)",
    "files/s",
];

fn limit_cells(shape: &str, row: &Row) -> Option<Vec<String>> {
    let raw = row.raw.as_ref()?;
    let null = row.null.as_ref().map_or_else(String::new, |null| {
        let latency = &null.load.latency;
        format!("{:.0} ({:.2}/{:.2})", null.load.per_second(), latency.millis(50.0), latency.millis(99.0))
    });
    let each = |limit: &super::raw::Limit| format!("{:.0} ({:.2})", limit.per_second(), limit.latency.millis(50.0));
    Some(vec![
        if row.label == shape { shape.to_owned() } else { format!("{shape}: {}", row.label) },
        null,
        raw.group.to_string(),
        format!("{:.0}", raw.grouped.per_second() * raw.group as f64),
        each(&raw.single),
        each(&raw.four_kib),
        raw.files.as_ref().map_or_else(|| "-".to_owned(), |files| format!("{:.0}", files.per_second())),
    ])
}

fn ratio_cells(section: &Section) -> impl Iterator<Item = Vec<String>> {
    section.ratios.iter().map(|ratio| vec![ratio.name.clone(), format!("{:.2}", ratio.value)])
}

fn table(title: &str, head: &[&str], rows: impl Iterator<Item = Vec<String>>, look: Look) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    if look == Look::Markdown {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule = format!("|{}\n", "---|".repeat(head.len()));
        let lines: String = rows.iter().map(|cells| line(cells)).collect();
        return format!("\n**{title}**\n\n{}{rule}{lines}", line(&head));
    }
    let all: Vec<&Vec<String>> = std::iter::once(&head).chain(&rows).collect();
    let width = |column: usize| all.iter().map(|cells| cells[column].chars().count()).max().unwrap_or_default();
    let line = |cells: &&Vec<String>| {
        let cells = cells.iter().enumerate().map(|(column, cell)| format!("{cell:<width$}", width = width(column)));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    format!("\n{title}\n{}", all.iter().map(line).collect::<String>())
}
