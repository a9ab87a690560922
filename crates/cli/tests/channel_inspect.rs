//! `ginnel channel ls`, `stat`, `clean`: what they show is what is there.

mod common;

use common::{House, eventually, line};
use rustix::process::Signal;
use serde_json::json;

#[test]
fn looking_leaves_no_directory_behind() {
    let house = House::new();
    assert_eq!(house.json(&["channel", "ls", "--json"]), json!([]));
    assert_eq!(house.json(&["channel", "clean", "--json"]), json!({ "channels": [], "strays": [] }));
    let absent = house.run(&["channel", "stat", "nobody"]);
    assert_eq!(absent.code(), Some(1));
    assert_eq!(absent.complaint(), "there is no channel \"nobody\": see `ginnel channel ls`");
    assert!(!house.run.exists());
}

#[test]
fn ls_and_stat_tell_mode_capacity_writer_readers_positions_and_lag() {
    let house = House::new();
    let mut writer = house.start(&["channel", "pub", "log", "--mode", "lossless", "--capacity", "64K"]);
    let reader = house.start(&["channel", "sub", "log"]);
    eventually("it joined", || house.stat("log").is_some_and(|stat| stat["readers"][0]["asleep"] == true));
    reader.signal(Signal::STOP);
    writer.feed("one\ntwo\n");
    eventually("they are published", || house.stat("log").is_some_and(|stat| stat["published"] == 2));

    let stat = house.stat("log").unwrap();
    let start =
        |pid: u32| ginnel::channel::list(Some(&house.run)).unwrap()[0].writer.start * u64::from(pid == writer.pid());
    assert_eq!(stat["name"], "log");
    assert_eq!(stat["mode"], "lossless");
    assert_eq!(stat["capacity"], 65536);
    assert_eq!(stat["record"], json!(null));
    let max_record = stat["max_record"].as_u64().unwrap();
    assert!(
        (15_000..16_384).contains(&max_record),
        "a quarter of the capacity, less what a record's header takes: {max_record}"
    );
    assert_eq!(stat["writer"], json!({ "pid": writer.pid(), "start": start(writer.pid()) }));
    assert_eq!((&stat["alive"], &stat["closed"]), (&json!(true), &json!(false)));
    let position = stat["position"].as_u64().unwrap();
    assert!((8..1024).contains(&position), "two short records: {position}");
    assert_eq!(stat["rate"], json!({ "records": 0.0, "bytes": 0.0 }));
    let readers = stat["readers"].as_array().unwrap();
    assert_eq!(readers.len(), 1);
    assert_eq!(readers[0]["process"]["pid"], reader.pid());
    assert_eq!(
        (&readers[0]["sequence"], &readers[0]["lag"], &readers[0]["missed"]),
        (&json!(0), &json!(position), &json!(0))
    );

    let listed = house.json(&["channel", "ls", "--json"]);
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!((&listed[0]["name"], &listed[0]["published"]), (&json!("log"), &json!(2)));
    let table = house.run(&["channel", "ls"]).stdout;
    let row: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(row, ["log", "lossless", "64", "KiB", &writer.pid().to_string(), "alive", "1", "2"], "{table}");
    let page = house.run(&["channel", "stat", "log"]).stdout;
    assert!(
        page.contains(&format!("process {}, ", reader.pid())) && page.contains(&format!("{position} B behind")),
        "{page}"
    );

    reader.signal(Signal::CONT);
    assert_eq!(writer.end().code(), Some(0));
    let ended = reader.end();
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(0), "one\ntwo\n"));
}

#[test]
fn a_watched_channel_is_measured_until_it_is_gone() {
    let house = House::new();
    let mut writer = house.start(&["channel", "pub", "busy"]);
    eventually("it is there", || !house.json(&["channel", "ls", "--json"]).as_array().unwrap().is_empty());
    let mut watch = house.start(&["channel", "stat", "busy", "--watch", "0.05", "--json"]);
    let mut seen = watch.take_stdout();
    // Feeds as long as the watcher has not told of a rate.
    eventually("a rate is seen", || {
        writer.feed("line\n");
        let stat: serde_json::Value = serde_json::from_str(&line(&mut seen)).unwrap();
        stat["rate"]["records"].as_f64().unwrap() > 0.0 && stat["rate"]["bytes"].as_f64().unwrap() > 0.0
    });
    drop(writer.end());
    drop(seen);
    let ended = watch.end();
    assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_killed_writer_is_shown_as_dead_and_only_it_is_cleaned() {
    let house = House::new();
    let alive = house.start(&["channel", "pub", "alive"]);
    let mut killed = house.start(&["channel", "pub", "killed"]);
    let mut reader = house.start(&["channel", "sub", "killed"]);
    let mut heard = reader.take_stdout();
    killed.feed("last words\n");
    assert_eq!(line(&mut heard), "last words");
    eventually("both are there", || house.json(&["channel", "ls", "--json"]).as_array().unwrap().len() == 2);
    killed.signal(Signal::KILL);
    drop(killed);
    let ended = reader.end();
    assert_eq!(ended.code(), Some(1));
    assert_eq!(ended.complaint(), "the channel is closed (its writer died); 1 records were received before");

    let listed = house.json(&["channel", "ls", "--json"]);
    let states: Vec<_> = listed.as_array().unwrap().iter().map(|one| (&one["name"], &one["alive"])).collect();
    assert_eq!(states, [(&json!("alive"), &json!(true)), (&json!("killed"), &json!(false))]);
    assert!(house.run(&["channel", "stat", "killed"]).stdout.contains(", dead (uid"));

    let strays = house.run.join(format!("{:016x}.sock", 1));
    std::fs::write(&strays, "").unwrap();
    let cleaned = house.json(&["channel", "clean", "--json"]);
    assert_eq!(cleaned, json!({ "channels": ["killed"], "strays": ["0000000000000001.sock"] }));
    assert_eq!(house.run(&["channel", "clean"]).stdout, "nothing to remove\n");
    assert_eq!(house.json(&["channel", "ls", "--json"]).as_array().unwrap().len(), 1);
    assert_eq!(alive.end().code(), Some(0), "the living was left alone");
    assert_eq!(house.files(), [""; 0]);
}

#[test]
fn clean_says_what_it_removed() {
    let house = House::new();
    let killed =
        house.start(&["channel", "pub", "killed", "--run-dir", house.temp.path().join("other").to_str().unwrap()]);
    let other = house.temp.path().join("other");
    let dir = other.to_str().unwrap();
    let list = || house.json(&["channel", "ls", "--json", "--run-dir", dir]);
    eventually("it is there", || list()[0]["alive"] == true);
    killed.signal(Signal::KILL);
    drop(killed);
    let cleaned = house.run(&["channel", "clean", "--run-dir", dir]);
    assert_eq!(cleaned.stdout, "removed channel killed: its writer is dead\n");
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0);
    assert!(!house.run.exists(), "--run-dir was heard everywhere");
}

#[test]
fn the_name_of_a_dead_writer_is_taken_over_and_its_reader_waits_for_that() {
    let house = House::new();
    let first = house.start(&["channel", "pub", "again"]);
    eventually("it is there", || house.stat("again").is_some());
    first.signal(Signal::KILL);
    drop(first);
    let reader = house.start(&["channel", "sub", "again"]);
    let mut second = house.start(&["channel", "pub", "again", "--mode", "lossless"]);
    second.feed("new\n");
    assert_eq!(second.end().code(), Some(0));
    let ended = reader.end();
    assert_eq!((ended.code(), ended.stdout.as_str()), (Some(0), "new\n"));
}

#[test]
fn a_list_whose_reader_went_away_is_no_error() {
    let house = House::new();
    let mut list = house.start(&["channel", "ls"]);
    drop(list.take_stdout());
    let ended = list.end();
    assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""));
}
