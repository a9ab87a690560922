//! What the documentation says is shown by tests is shown by tests that exist.

use std::fs;
use std::path::Path;

/// All test programs in a directory, as text.
fn tests(dir: &Path) -> String {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let sources = files.filter(|path| path.extension().is_some_and(|extension| extension == "rs"));
    sources.map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn every_row_is_shown_by_a_test_that_exists() {
    rows_are_shown("What happens when");
    rows_are_shown("Which call for which task");
}

fn rows_are_shown(heading: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let sources = tests(&root.join("crates/process/tests")) + &tests(&root.join("crates/cli/tests"));
    let text = fs::read_to_string(root.join("docs/process.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with(heading)).unwrap();
    let rows: Vec<&str> = section.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    assert!(rows.len() > 10, "{} rows were found", rows.len());
    for row in rows {
        let shown_by = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap();
        // Between backticks: every second piece.
        let names: Vec<&str> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "nothing shows this: {row}");
        for name in names {
            let shown = ["#[test]\nfn", "#[tokio::test]\nasync fn", "#[cfg(feature = \"serde\")]\n#[test]\nfn"];
            let shown = shown.iter().any(|before| sources.contains(&format!("{before} {name}()")));
            assert!(shown, "there is no test {name}: {row}");
        }
    }
}
