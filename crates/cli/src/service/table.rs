//! Endpoints as a table, as wide as there is room; and one as a page.

use super::row::{Row, side, state};
use crate::quantity::{show_age, show_count, show_size, show_time};
use ginnel_service::introspect::{Figures, Listed};
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// One column.
pub(crate) struct Column {
    head: &'static str,
    /// Its width; 0 for the one that takes what is left.
    width: usize,
    align: Align,
    /// Shown from this width of the table on.
    from: usize,
    cell: fn(&Row) -> String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

use Align::{Left, Right};

const fn column(head: &'static str, width: usize, align: Align, from: usize, cell: fn(&Row) -> String) -> Column {
    Column { head, width, align, from, cell }
}

const SERVICE: Column = column("SERVICE", 0, Left, 0, |row| row.service.clone());
const SIDE: Column = column("SIDE", 6, Left, 0, |row| row.side.to_owned());
const PID: Column = column("PID", 8, Right, 0, |row| row.pid.to_string());
const STATE: Column = column("STATE", 5, Left, 0, |row| row.state.to_owned());
const SESSIONS: Column = column("SESS", 5, Right, 0, |row| count(row.figures.active));
const BUSY: Column = column("BUSY", 5, Right, 0, |row| count(row.figures.in_flight));
const P50: Column = column("P50", 6, Right, 0, |row| time(row.p50));
const P99: Column = column("P99", 6, Right, 0, |row| time(row.p99));
const ENDPOINT: Column = column("ENDPOINT", 0, Left, 150, |row| row.endpoint.clone());

/// What endpoints do in a second.
pub(crate) const RATES: &[Column] = &[
    SERVICE,
    SIDE,
    PID,
    STATE,
    SESSIONS,
    BUSY,
    column("REQ/S", 6, Right, 0, |row| show_count(row.rate.requests)),
    column("FAIL/S", 6, Right, 0, |row| show_count(row.rate.failures)),
    P50,
    P99,
    column("IN/S", 6, Right, 110, |row| show_size(row.rate.bytes_in as u64)),
    column("OUT/S", 6, Right, 110, |row| show_size(row.rate.bytes_out as u64)),
    column("QUEUE", 5, Right, 110, |row| count(row.figures.queued)),
    column("PAUSED", 6, Right, 110, |row| count(row.figures.paused)),
    column("SLOW", 5, Right, 150, |row| count(row.figures.slow)),
    column("CARRIERS", 22, Left, 150, |row| carriers(&row.figures)),
    ENDPOINT,
];

/// What endpoints have done since they began.
pub(crate) const TOTALS: &[Column] = &[
    SERVICE,
    SIDE,
    PID,
    STATE,
    SESSIONS,
    BUSY,
    column("REQUESTS", 8, Right, 0, |row| count(row.figures.requests)),
    column("FAILED", 6, Right, 0, |row| count(row.figures.failures)),
    P50,
    P99,
    ENDPOINT,
];

fn count(count: u64) -> String {
    show_count(count as f64)
}

fn time(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), show_time)
}

/// The open sessions by how their messages travel.
fn carriers(figures: &Figures) -> String {
    let kinds = [
        ("ring", figures.ring),
        ("shm", figures.slots),
        ("packet", figures.seqpacket),
        ("stream", figures.stream),
        ("tcp", figures.tcp),
    ];
    let used = kinds.into_iter().filter(|(_, sessions)| *sessions > 0);
    let used: Vec<String> = used.map(|(kind, sessions)| format!("{kind} {}", count(sessions))).collect();
    if used.is_empty() { "-".to_owned() } else { used.join(" ") }
}

/// A text of at most `width` characters.
pub(crate) fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain((width > 0).then_some('…')).collect()
}

/// The heading and one line for each row, none longer than `width`; `None`: as long as they need.
pub(crate) fn lines(columns: &[Column], rows: &[Row], width: Option<usize>) -> Vec<String> {
    let shown: Vec<&Column> = columns.iter().filter(|column| width.is_none_or(|width| width >= column.from)).collect();
    let widths = widths(&shown, rows, width);
    let finish = |line: String| {
        let line = line.trim_end();
        width.map_or_else(|| line.to_owned(), |width| cut(line, width))
    };
    let line = |cell: &dyn Fn(&Column) -> String| {
        let mut line = String::new();
        for (column, &width) in shown.iter().zip(&widths) {
            let text = cut(&cell(column), width);
            let gap = if line.is_empty() { "" } else { " " };
            let _ = match column.align {
                Left => write!(line, "{gap}{text:<width$}"),
                Right => write!(line, "{gap}{text:>width$}"),
            };
        }
        finish(line)
    };
    let body = rows.iter().map(|row| match &row.trouble {
        // As far as is known; the rest of the line says why there is no more.
        Some(trouble) => finish(format!("{} {} {}: {trouble}", row.service, row.pid, row.state)),
        None => line(&|column| (column.cell)(row)),
    });
    std::iter::once(line(&|column| column.head.to_owned())).chain(body).collect()
}

fn widths(shown: &[&Column], rows: &[Row], width: Option<usize>) -> Vec<usize> {
    let longest = |column: &Column| {
        let cells = rows.iter().filter(|row| row.trouble.is_none()).map(|row| (column.cell)(row).chars().count());
        cells.max().unwrap_or(0).max(column.head.len())
    };
    let fixed: usize = shown.iter().map(|column| column.width).sum::<usize>() + shown.len().saturating_sub(1);
    let mut left = width.map_or(usize::MAX, |width| width.saturating_sub(fixed));
    // The first flexible column takes what it needs and at most half, the last all the rest.
    let mut flexible = shown.iter().filter(|column| column.width == 0).count();
    let wide = |column: &&Column| {
        if column.width > 0 {
            return column.width;
        }
        flexible -= 1;
        let most = if flexible == 0 { left } else { left / 2 };
        let taken = if flexible == 0 && width.is_some() { most } else { longest(column).min(most) };
        left = left.saturating_sub(taken);
        taken
    };
    shown.iter().map(wide).collect()
}

/// All about one endpoint.
pub(crate) fn page(listed: &Listed, row: &Row) -> String {
    let Ok(told) = &listed.told else { return String::new() };
    let figures = &told.figures;
    let age = SystemTime::now().duration_since(told.began).unwrap_or_default();
    let mut text = format!(
        "service   {}, {}\nendpoint  {}\nprocess   {}, {}, began {} ago\nsessions  {} now ({}), {} in all",
        told.service,
        side(told.side),
        told.endpoint,
        listed.owner.pid,
        state(listed),
        show_age(age),
        figures.active,
        carriers(figures),
        figures.sessions,
    );
    let lost = [
        ("refused", figures.refused),
        ("silent", figures.silent),
        ("without a descriptor", figures.exhausted),
        ("made room", figures.made_room),
        ("slow", figures.slow),
        ("dismissed", figures.dismissed),
    ];
    let lost: Vec<String> =
        lost.into_iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{count} {what}")).collect();
    if !lost.is_empty() {
        let _ = write!(text, "\nlost      {}", lost.join(", "));
    }
    let _ = write!(
        text,
        "\nrequests  {} ({}/s), {} failed, {} under way of {} a session\nbytes     {} in ({}/s), {} out ({}/s)",
        figures.requests,
        show_count(row.rate.requests),
        figures.failures,
        figures.in_flight,
        figures.window,
        show_size(figures.bytes_in),
        show_size(row.rate.bytes_in as u64),
        show_size(figures.bytes_out),
        show_size(row.rate.bytes_out as u64),
    );
    if figures.budget > 0 {
        let _ = write!(
            text,
            "\nmemory    {} of {} held by requests, {} sessions paused now, {} in all\nqueue     {} jobs wait",
            show_size(figures.held),
            show_size(figures.budget),
            figures.paused,
            figures.pauses,
            figures.queued,
        );
    }
    let quantile = |quantile| time(told.latency.quantile(quantile));
    let _ = write!(
        text,
        "\nhandlers  {} runs: half within {}, 90% {}, 99% {}, all {}",
        told.latency.count(),
        quantile(0.5),
        quantile(0.9),
        quantile(0.99),
        quantile(1.0),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_never_longer_than_the_screen() {
        let long = Row { service: "s".repeat(300), endpoint: "e".repeat(300), side: "server", ..Row::default() };
        let odd = Row { service: "x".into(), trouble: Some("t".repeat(300)), ..Row::default() };
        let rows = [long, odd];
        for width in 1..300 {
            for line in lines(RATES, &rows, Some(width)).into_iter().chain(lines(TOTALS, &rows, Some(width))) {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
        }
        assert_eq!(
            (cut("abc", 3), cut("abcd", 3), cut("äöüß", 2), cut("a", 0)),
            ("abc".into(), "ab…".into(), "ä…".into(), String::new())
        );
    }
}
