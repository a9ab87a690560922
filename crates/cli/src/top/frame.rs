//! What stands on the screen: text only, so that it can be compared with what it must be.

use crate::quantity::show_count;
use crate::service::row::Row;
use crate::service::table::{RATES, cut, lines};
use std::fmt::Write;

const REVERSED: &str = "\x1b[7m";
const FAINT: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[m";

/// The screen, `size` columns and lines: exactly as many lines, none too long.
pub(super) fn frame(rows: &[Row], size: (usize, usize), sort: &str, colour: bool) -> Vec<String> {
    let (width, height) = size;
    let mut screen =
        vec![cut(&headline(rows), width), cut(&format!("sorted by {sort}   s: next  r: reverse  q: quit"), width)];
    if rows.is_empty() {
        screen.push(String::new());
        screen.push(cut("No server or client of this user tells about itself.", width));
    } else {
        // Two lines stand above it, and its own heading.
        let room = height.saturating_sub(3);
        let more = rows.len().saturating_sub(room);
        let fits = if more > 0 { room.saturating_sub(1) } else { rows.len() };
        let mut table = lines(RATES, &rows[..fits], Some(width)).into_iter();
        screen.extend(table.next().map(|heading| paint(format!("{heading:<width$}"), REVERSED, colour)));
        for (row, line) in rows.iter().zip(table) {
            let style = if row.state == "dead" || row.trouble.is_some() { FAINT } else { "" };
            screen.push(paint(line, style, colour));
        }
        if more > 0 {
            screen.push(cut(&format!("... {} more", rows.len() - fits), width));
        }
    }
    screen.resize(height, String::new());
    screen
}

/// The same for what is no screen: as wide as it needs to be.
pub(super) fn plain(rows: &[Row]) -> String {
    let mut text = headline(rows);
    if !rows.is_empty() {
        let _ = write!(text, "\n{}", lines(RATES, rows, None).join("\n"));
    }
    text
}

fn headline(rows: &[Row]) -> String {
    let count = |state: &str| rows.iter().filter(|row| row.state == state).count();
    // Not `sum`, which begins at -0.
    let requests = rows.iter().fold(0.0, |sum, row| sum + row.rate.requests);
    let mut text = format!("ginnel top: {} endpoints, {} req/s", rows.len(), show_count(requests));
    for (state, name) in [("drain", "draining"), ("dead", "dead"), ("?", "unknown")] {
        if count(state) > 0 {
            let _ = write!(text, ", {} {name}", count(state));
        }
    }
    text
}

fn paint(line: String, style: &str, colour: bool) -> String {
    if colour && !style.is_empty() { format!("{style}{line}{PLAIN}") } else { line }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::row::Rate;
    use std::time::Duration;

    fn rows(count: usize) -> Vec<Row> {
        let row = |number: usize| {
            let mut row = Row {
                name: format!("ginnel.service.{}.0", 1000 + number),
                service: format!("service-{number}"),
                endpoint: format!("/run/user/1000/ginnel/service-{number}.sock"),
                side: if number % 3 == 2 { "client" } else { "server" },
                pid: 1000 + number as u32,
                state: ["alive", "alive", "drain", "dead", "?"][number % 5],
                rate: Rate { requests: 1234.5 * number as f64, failures: 0.2, bytes_in: 5e6, bytes_out: 7e8 },
                p50: Some(Duration::from_nanos(850)),
                p99: (number > 0).then(|| Duration::from_micros(33 * number as u64)),
                ..Row::default()
            };
            row.figures.active = 12;
            (row.figures.ring, row.figures.seqpacket) = (9, 3);
            (row.figures.in_flight, row.figures.queued, row.figures.paused, row.figures.slow) = (64, 17, 2, 1);
            row
        };
        let mut rows: Vec<Row> = (0..count).map(row).collect();
        if let Some(last) = rows.get_mut(4) {
            last.trouble = Some("its layout is version 2, and this program knows version 1".to_owned());
        }
        rows
    }

    #[track_caller]
    fn check(rows: &[Row], size: (usize, usize), expected: &str) {
        let screen = frame(rows, size, "requests", false);
        assert_eq!(screen.len(), size.1);
        assert!(screen.iter().all(|line| line.chars().count() <= size.0));
        let text: Vec<&str> = screen.iter().map(|line| line.trim_end()).collect();
        let text = text.join("\n");
        assert!(text.trim_end() == expected.trim_end(), "expected\n{expected}\nfound\n{text}");
    }

    #[test]
    fn an_empty_screen_says_so() {
        check(&[], (80, 24), include_str!("empty-80x24.txt"));
        check(&[], (200, 50), include_str!("empty-200x50.txt"));
    }

    #[test]
    fn a_full_screen_says_how_many_it_does_not_show() {
        check(&rows(60), (80, 24), include_str!("full-80x24.txt"));
        check(&rows(60), (200, 50), include_str!("full-200x50.txt"));
    }

    #[test]
    fn a_screen_of_any_size_is_filled_and_not_exceeded() {
        for width in 1..90 {
            for height in 1..30 {
                for count in [0, 1, 5, 26, 27, 40] {
                    let screen = frame(&rows(count), (width, height), "requests", false);
                    assert!(screen.len() == height && screen.iter().all(|line| line.chars().count() <= width));
                }
            }
        }
    }

    #[test]
    fn colour_only_where_it_is_asked_for() {
        let escapes = |colour| frame(&rows(6), (80, 24), "pid", colour).join("").contains('\x1b');
        assert_eq!((escapes(true), escapes(false)), (true, false));
        assert!(!plain(&rows(6)).contains('\x1b'));
    }
}
