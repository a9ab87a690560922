//! The table on the terminal: a part for each mode, a line for each row.

use ginnel_bench::{Environment, Histogram, Latency, Mode, Relation, Report, Row, Summary};
use std::fmt::Write;

/// The whole report as text.
pub(super) fn render(report: &Report, percentiles: &[f64], verbose: bool) -> String {
    let mut text = machine(&report.environment);
    let mut modes: Vec<Mode> = Vec::new();
    for row in &report.rows {
        if !modes.contains(&row.mode) {
            modes.push(row.mode);
        }
    }
    for mode in modes {
        let rows: Vec<&Row> = report.rows.iter().filter(|row| row.mode == mode).collect();
        let mut lines = vec![header(percentiles)];
        for row in &rows {
            lines.push(line(row, percentiles));
            lines.extend(row.diagnosis.iter().map(|again| {
                let mut cells = line(again, percentiles);
                cells[0] = "  again, alone".to_owned();
                cells
            }));
        }
        let _ = write!(text, "\n{mode}: {}{}\n", meaning(mode), place(&rows));
        text.push_str(&aligned(&lines));
        for row in rows.iter().filter(|_| verbose) {
            text.push_str(&repetitions(row));
        }
    }
    text.truncate(text.trim_end().len());
    text
}

fn machine(environment: &Environment) -> String {
    let Environment { cpu, cpus, hypervisor, kernel, clock, governor, busy_percent, .. } = environment;
    let guest = if *hypervisor { ", virtual: its CPUs move under it" } else { "" };
    let governor = governor.as_ref().map_or(String::new(), |governor| format!(", governor {governor}"));
    format!(
        "{cpu}, {cpus} CPUs{guest}{governor}\nLinux {kernel}, clock {clock}, {busy_percent:.0} % busy before the run\n"
    )
}

fn meaning(mode: Mode) -> &'static str {
    match mode {
        Mode::Paced => "latency from the intended moment of each send",
        Mode::Throughput => "messages a second; latency is time in the queue",
        Mode::FanOut => "round trip until the last of several servers has answered",
        Mode::FanIn => "round trips of several clients with one server",
        _ => "round trip (one way is derived: half of p50)",
    }
}

fn place(rows: &[&Row]) -> String {
    let Some(row) = rows.first() else { return String::new() };
    let cpu = |cpu: Option<usize>| cpu.map_or("any".to_owned(), |cpu| cpu.to_string());
    let (client, server) = (cpu(row.placement.client), cpu(row.placement.server));
    let relation = match row.placement.relation {
        Relation::SameCpu => "one CPU",
        Relation::SmtSiblings => "two threads of one core",
        Relation::TwoCores => "two cores",
        _ => "not pinned",
    };
    format!("; client on CPU {client}, server on CPU {server} ({relation})")
}

fn header(percentiles: &[f64]) -> Vec<String> {
    let mut cells = vec!["mechanism".to_owned(), "form".to_owned(), "size".to_owned()];
    cells.extend(percentiles.iter().map(|percentile| format!("p{percentile}")));
    cells.extend(["max", "half p50", "spread", "x line", "msg/s", "CPU c+s"].map(str::to_owned));
    cells
}

fn line(row: &Row, percentiles: &[f64]) -> Vec<String> {
    let mut cells = vec![row.mechanism.clone(), row.form.to_string(), row.size.to_string()];
    let Some(summary) = &row.summary else {
        cells.push(format!("failed: {}", row.failure.as_deref().unwrap_or("no sample")));
        return cells;
    };
    let all = merged(row, summary.latency);
    cells.extend(percentiles.iter().map(|percentile| match percentile {
        // The published median is that of the stable core, not of everything.
        50.0 => time(summary.p50_ns),
        percentile => time(all.quantile(percentile / 100.0) as f64),
    }));
    cells.push(time(summary.max_ns));
    cells.push(if summary.latency == Latency::RoundTrip { time(summary.p50_ns / 2.0) } else { "-".to_owned() });
    let (low, high) = summary.spread_ns;
    let unstable = if summary.stable { "" } else { " unstable" };
    cells.push(format!("{:.0} %{unstable}", 100.0 * (high - low) / low.max(1.0)));
    cells.push(summary.line_ns.map_or("-".to_owned(), |line| format!("{:.1}", summary.p50_ns / line)));
    cells.push(rate(summary.messages_per_second));
    cells.push(cpu(row));
    cells.extend(remarks(row, summary));
    cells
}

fn remarks(row: &Row, summary: &Summary) -> Option<String> {
    let mut remarks = Vec::new();
    if !summary.counts.is_clean() {
        let counts = summary.counts;
        remarks.push(format!(
            "LOST {}, duplicated {}, reordered {}, CORRUPT {}",
            counts.lost, counts.duplicated, counts.reordered, counts.corrupt
        ));
    }
    if row.repetitions.iter().any(|one| one.drifted) {
        remarks.push("the machine drifted".to_owned());
    }
    if let Some(buffer) = row.repetitions.iter().find_map(|one| one.buffer) {
        remarks.push(format!("buffer {buffer}"));
    }
    (!remarks.is_empty()).then(|| remarks.join("; "))
}

/// All samples of a row that its latency figures are made of.
fn merged(row: &Row, latency: Latency) -> Histogram {
    let mut all = Histogram::default();
    for one in &row.repetitions {
        all.merge(match latency {
            Latency::RoundTrip => &one.round_trip,
            Latency::Corrected => &one.corrected,
            _ => &one.one_way,
        });
    }
    all
}

/// CPU time a message, of client and server.
fn cpu(row: &Row) -> String {
    let messages: u64 = row.repetitions.iter().map(|one| one.counts.received).sum();
    let of = |pick: fn(&ginnel_bench::Repetition) -> u64| {
        time(row.repetitions.iter().map(pick).sum::<u64>() as f64 / messages.max(1) as f64)
    };
    let client = of(|one| one.client.user_ns + one.client.system_ns);
    format!("{client}+{}", of(|one| one.server.user_ns + one.server.system_ns))
}

fn repetitions(row: &Row) -> String {
    let mut text = format!("  {}, {}, {} bytes; {} thrown away\n", row.mechanism, row.form, row.size, row.drifted);
    for one in &row.repetitions {
        let [before, after] = one.calibration;
        let line = |line: Option<f64>| line.map_or("-".to_owned(), |line| format!("{line:.0}"));
        let mut latencies = Vec::new();
        for (name, histogram) in
            [("round trip", &one.round_trip), ("one way", &one.one_way), ("corrected", &one.corrected)]
        {
            if !histogram.is_empty() {
                latencies.push(format!("{name} p50 {}", time(histogram.quantile(0.5) as f64)));
            }
        }
        let _ = writeln!(
            text,
            "    {}; {} sent, {} received; line {} / {} ns, clock {:.0} ns, memcpy {:.0} / {:.0} GB/s; switches {} / {}",
            latencies.join(", "),
            one.counts.sent,
            one.counts.received,
            line(before.line_ns),
            line(after.line_ns),
            before.clock_ns,
            before.memcpy_gb_s,
            after.memcpy_gb_s,
            one.client.voluntary_switches + one.client.involuntary_switches,
            one.server.voluntary_switches + one.server.involuntary_switches,
        );
    }
    text
}

/// Columns as wide as their widest cell; text to the left, numbers to the right. Remarks at the end stay as they are.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines[0].len();
    let width = |column: usize| {
        let cells = lines.iter().filter(|line| line.len() >= columns).filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            let gap = if column == 0 { "  " } else { "   " };
            let _ = match (widths.get(column), column) {
                (Some(width), 0 | 1) => write!(text, "{gap}{cell:<width$}"),
                (Some(width), _) if line.len() >= columns => write!(text, "{gap}{cell:>width$}"),
                _ => write!(text, "{gap}{cell}"),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn time(ns: f64) -> String {
    match ns {
        0.0..1e4 => format!("{ns:.0} ns"),
        1e4..1e6 => format!("{:.1} µs", ns / 1e3),
        1e6..1e9 => format!("{:.2} ms", ns / 1e6),
        _ => format!("{:.2} s", ns / 1e9),
    }
}

fn rate(messages: f64) -> String {
    match messages {
        1e6.. => format!("{:.2} M", messages / 1e6),
        1e4.. => format!("{:.0} k", messages / 1e3),
        _ => format!("{messages:.0}"),
    }
}
