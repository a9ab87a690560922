//! Answers for people (tables) and for programs (one JSON object a line).

use ginnel_netipc::{
    AppCgroup, AppOutcome, AppsLookup, CgroupOutcome, CgroupsLookup, Labels, LookupResponse, Snapshot,
};
use serde_json::{Map, Value, json};

/// An answer in both forms; two that are equal need not be shown twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) json: Value,
    pub(crate) text: String,
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// For terminals: what is not printable is escaped, so that no name can drive the terminal.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .flat_map(|character| {
            let escape = character.is_control().then(|| character.escape_default());
            let plain = escape.is_none().then_some(character);
            escape.into_iter().flatten().chain(plain)
        })
        .collect()
}

fn labels_json(labels: Labels<'_>) -> Value {
    Value::Object(labels.iter().map(|(key, value)| (text(key), text(value).into())).collect::<Map<_, _>>())
}

fn labels_text(labels: Labels<'_>) -> String {
    let pairs = labels.iter().map(|(key, value)| format!("{}={}", printable(key), printable(value)));
    pairs.collect::<Vec<_>>().join(",")
}

/// Left-aligned columns, two blanks between them, nothing behind the last.
fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut out = String::new();
    let header: Vec<String> = header.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&header).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    out
}

pub(crate) fn snapshot(snapshot: &Snapshot<'_>) -> Shown {
    let items = snapshot.iter().map(|item| {
        json!({
            "name": text(item.name), "path": text(item.path), "hash": item.hash,
            "options": item.options, "enabled": item.enabled != 0,
        })
    });
    let json = json!({
        "generation": snapshot.generation(), "systemd": snapshot.systemd_enabled() != 0,
        "cgroups": items.collect::<Vec<_>>(),
    });
    let rows: Vec<Vec<String>> = snapshot
        .iter()
        .map(|item| {
            let enabled = if item.enabled != 0 { "yes" } else { "no" };
            vec![printable(item.name), enabled.into(), format!("{:08x}", item.hash), printable(item.path)]
        })
        .collect();
    Shown { json, text: table(&["NAME", "ENABLED", "HASH", "PATH"], &rows) }
}

pub(crate) fn cgroups(response: &LookupResponse<'_, CgroupsLookup>) -> Shown {
    let mut items = Vec::new();
    let mut rows = Vec::new();
    for answer in response.iter() {
        let status = match answer.outcome {
            CgroupOutcome::Known { .. } => "known",
            CgroupOutcome::UnknownRetryLater => "unknown-retry-later",
            CgroupOutcome::UnknownPermanent => "unknown",
            CgroupOutcome::PayloadExceeded => "payload-exceeded",
            CgroupOutcome::OversizedItem => "oversized",
        };
        let mut item = json!({ "path": text(answer.key), "status": status });
        let mut row = vec![printable(answer.key), status.to_owned(), String::new(), String::new(), String::new()];
        if let CgroupOutcome::Known { orchestrator, name, labels } = answer.outcome {
            item["orchestrator"] = orchestrator.to_string().into();
            item["name"] = text(name).into();
            item["labels"] = labels_json(labels);
            row[2..].clone_from_slice(&[orchestrator.to_string(), printable(name), labels_text(labels)]);
        }
        items.push(item);
        rows.push(row);
    }
    let json = json!({ "generation": response.generation(), "cgroups": items });
    Shown { json, text: table(&["PATH", "STATUS", "BY", "NAME", "LABELS"], &rows) }
}

pub(crate) fn apps(response: &LookupResponse<'_, AppsLookup>) -> Shown {
    let mut items = Vec::new();
    let mut rows = Vec::new();
    for answer in response.iter() {
        let status = match answer.outcome {
            AppOutcome::Known(_) => "known",
            AppOutcome::Unknown => "unknown",
            AppOutcome::PayloadExceeded => "payload-exceeded",
            AppOutcome::OversizedItem => "oversized",
        };
        let mut item = json!({ "pid": answer.key, "status": status });
        let mut row = vec![answer.key.to_string(), status.to_owned()];
        if let AppOutcome::Known(app) = answer.outcome {
            item["ppid"] = app.ppid.into();
            item["uid"] = app.uid.into();
            item["starttime"] = app.starttime.into();
            item["comm"] = text(app.comm).into();
            let (json, cells) = cgroup(&app.cgroup);
            item["cgroup"] = json;
            row.extend([app.ppid.to_string(), app.uid.to_string(), printable(app.comm)]);
            row.extend(cells);
        }
        row.resize(7, String::new());
        items.push(item);
        rows.push(row);
    }
    let json = json!({ "generation": response.generation(), "apps": items });
    Shown { json, text: table(&["PID", "STATUS", "PPID", "UID", "COMM", "CGROUP", "NAME"], &rows) }
}

/// The cgroup of a process: the object, and the cells of its path and name.
fn cgroup(cgroup: &AppCgroup<'_>) -> (Value, [String; 2]) {
    match cgroup {
        AppCgroup::Known { path, name, orchestrator, labels } => (
            json!({
                "status": "known", "path": text(path), "name": text(name),
                "orchestrator": orchestrator.to_string(), "labels": labels_json(*labels),
            }),
            [printable(path), printable(name)],
        ),
        AppCgroup::UnknownRetryLater { path } => {
            (json!({ "status": "unknown-retry-later", "path": text(path) }), [printable(path), String::new()])
        }
        AppCgroup::UnknownPermanent { path } => {
            (json!({ "status": "unknown", "path": text(path) }), [printable(path), String::new()])
        }
        AppCgroup::HostRoot => (json!({ "status": "host-root" }), ["/".to_owned(), String::new()]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\xff"), "a\\u{1b}[2Jb\u{fffd}");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["longer".to_owned(), "x".to_owned()], vec!["a".to_owned(), String::new()]];
        assert_eq!(table(&["K", "VALUE"], &rows), "K       VALUE\nlonger  x\na\n");
    }
}
