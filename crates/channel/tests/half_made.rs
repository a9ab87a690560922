//! A reader that looks for a channel while it is being made finds nothing, or all of it.

use ginnel_channel::{CloseCause, Mode, OpenError, Reader, RecvError, Writer};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

#[test]
fn a_channel_is_found_whole_or_not_at_all() {
    let temp = tempfile::tempdir().unwrap();
    let run = temp.path().join("run");
    let (done, found) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                match Reader::<[u8]>::builder().run_dir(&run).open("fresh") {
                    Ok(mut reader) => match reader.recv() {
                        Ok(record) => {
                            assert_eq!(record, b"whole");
                            found.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(RecvError::Closed { cause: CloseCause::Closed }) => {}
                        Err(error) => panic!("{error}"),
                    },
                    Err(OpenError::Absent { .. } | OpenError::Dead { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        let (mut rounds, started) = (0, Instant::now());
        // The looking thread ends early only if it has failed.
        while (rounds < 50 || found.load(Ordering::Relaxed) == 0) && !looking.is_finished() {
            assert!(started.elapsed() < Duration::from_secs(50), "the reader never met a writer");
            let settings = Writer::<[u8]>::builder().run_dir(&run).mode(Mode::Latest).capacity(1 << 20);
            let mut writer = settings.create("fresh").unwrap();
            writer.publish(b"whole").unwrap();
            rounds += 1;
        }
        done.store(true, Ordering::Relaxed);
        looking.join().unwrap();
    });
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 0);
}
