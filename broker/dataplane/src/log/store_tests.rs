use super::super::entry::Entry;
use super::super::samples::received;
use super::*;

const BIG: u64 = 1 << 20;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("hopseal-log-{name}-{}", std::process::id()));
    drop(fs::remove_dir_all(&folder));
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn line(n: u64, exp: i64) -> Vec<u8> {
    written(&received(&format!("j{n}"), exp), n)
}

fn head(n: u64, latest_exp: i64) -> Vec<u8> {
    written(&Entry::Continue { node: "n".into(), latest_exp }, n)
}

fn written(entry: &Entry, n: u64) -> Vec<u8> {
    let mut lines = Vec::new();
    entry.write_line(n, 0, &mut lines).unwrap();
    lines
}

/// Files of two entries each, numbered from 0, all but the first with a head; the last is the current one.
fn rolled(name: &str, files: u64) -> PathBuf {
    let folder = folder(name);
    let (mut log, _) = LogFiles::open(&folder, 0, 1).unwrap();
    for number in 0..files {
        let n = number * 2;
        if number > 0 {
            assert!(log.is_full());
            log.roll(n).unwrap();
        }
        let first = if number > 0 { head(n, 10 * i64::try_from(number).unwrap()) } else { line(0, 1) };
        log.append(&[first, line(n + 1, 10 * i64::try_from(number + 1).unwrap())].concat()).unwrap();
    }
    folder
}

fn jtis(found: &Scan) -> Vec<&str> {
    found.accepted.iter().map(|accepted| accepted.jti.as_str()).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|found| found.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_second_writer_is_refused_while_the_first_lives() {
    let folder = folder("lock");
    let (mut first, _) = LogFiles::open(&folder, 0, 1).unwrap();
    first.append(b"x").unwrap();
    assert_eq!(LogFiles::open(&folder, 0, 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    first.roll(1).unwrap();
    assert_eq!(LogFiles::open(&folder, 0, 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(first);
    LogFiles::open(&folder, 0, 1).unwrap();
}

#[test]
fn a_log_that_shrinks_under_us_takes_no_more_entries() {
    let folder = folder("shrink");
    let (mut log, _) = LogFiles::open(&folder, 0, BIG).unwrap();
    log.append(b"0123456789").unwrap();
    File::options().write(true).open(folder.join(CURRENT)).unwrap().set_len(3).unwrap();
    assert!(log.append(b"x").is_err());
    assert!(log.probe().is_err());
    assert!(log.roll(1).is_err());
}

#[test]
fn a_log_that_is_renamed_removed_or_replaced_takes_no_more_entries() {
    for hand in ["rename", "remove", "replace"] {
        let folder = folder(hand);
        let (mut log, _) = LogFiles::open(&folder, 0, BIG).unwrap();
        log.append(b"0123456789").unwrap();
        let path = folder.join(CURRENT);
        match hand {
            "rename" => fs::rename(&path, folder.join("custody.log.1")).unwrap(),
            "remove" => fs::remove_file(&path).unwrap(),
            _ => {
                fs::copy(&path, folder.join("copy")).unwrap();
                fs::rename(folder.join("copy"), &path).unwrap();
            }
        }
        assert!(log.append(b"x").is_err(), "{hand}");
        assert!(log.roll(1).is_err(), "{hand}");
    }
}

#[test]
fn a_probe_leaves_no_trace() {
    let folder = folder("probe");
    let (mut log, _) = LogFiles::open(&folder, 0, BIG).unwrap();
    log.append(b"0123456789").unwrap();
    log.probe().unwrap();
    assert_eq!(fs::read(folder.join(CURRENT)).unwrap(), b"0123456789");
}

#[test]
fn full_files_are_named_by_their_first_entry_and_the_numbering_goes_on() {
    let folder = rolled("names", 3);
    assert_eq!(names(&folder), ["custody-00000000000000000000.log", "custody-00000000000000000002.log", "custody.log"]);
    let (mut log, found) = LogFiles::open(&folder, 0, 1).unwrap();
    assert_eq!((found.next_n, found.damaged), (6, 0));
    log.roll(found.next_n).unwrap();
    assert_eq!(names(&folder)[2], "custody-00000000000000000004.log");
}

#[test]
fn only_files_that_can_still_hold_a_replayable_record_are_read() {
    let folder = rolled("window", 4);
    fs::write(folder.join("custody-00000000000000000000.log"), "not even a log").unwrap();
    let (log, found) = LogFiles::open(&folder, 25, BIG).unwrap();
    assert_eq!((jtis(&found), found.next_n, found.damaged), (vec!["j5", "j7"], 8, 0));
    assert_eq!(found.latest_exp, 40);
    drop(log);
    // The first file would be needed, and cannot tell what it held.
    let (_log, found) = LogFiles::open(&folder, 10, BIG).unwrap();
    assert_eq!(jtis(&found), ["j3", "j5", "j7"]);
    assert!(found.damaged > 0);
}

#[test]
fn a_file_that_is_gone_leaves_doubt_only_about_its_own_time() {
    let folder = rolled("gone", 3);
    fs::remove_file(folder.join("custody-00000000000000000000.log")).unwrap();
    assert_eq!(LogFiles::open(&folder, 11, BIG).unwrap().1.damaged, 0);
    assert_eq!(LogFiles::open(&folder, 10, BIG).unwrap().1.damaged, 1);
    fs::remove_file(folder.join("custody-00000000000000000002.log")).unwrap();
    assert_eq!(LogFiles::open(&folder, 21, BIG).unwrap().1.damaged, 0);
    assert_eq!(LogFiles::open(&folder, 20, BIG).unwrap().1.damaged, 1);
}

#[test]
fn a_gap_between_files_that_matter_leaves_doubt() {
    let folder = rolled("gap", 3);
    fs::remove_file(folder.join("custody-00000000000000000002.log")).unwrap();
    assert_eq!(LogFiles::open(&folder, 0, BIG).unwrap().1.damaged, 1);
}

#[test]
fn a_crash_at_any_point_of_rolling_loses_no_entry_and_no_number() {
    let full = "custody-00000000000000000002.log";
    for crash in ["next made", "current renamed", "rolled", "torn head"] {
        let folder = rolled("crash", 2);
        let current = folder.join(CURRENT);
        match crash {
            "next made" => fs::write(folder.join("custody.log.next"), "").unwrap(),
            "current renamed" => {
                fs::write(folder.join("custody.log.next"), "").unwrap();
                fs::rename(&current, folder.join(full)).unwrap();
            }
            _ => {
                fs::rename(&current, folder.join(full)).unwrap();
                let torn = if crash == "rolled" { Vec::new() } else { head(4, 9)[..20].to_vec() };
                fs::write(&current, torn).unwrap();
            }
        }
        let (mut log, found) = LogFiles::open(&folder, 0, BIG).unwrap();
        assert_eq!((jtis(&found), found.next_n, found.damaged), (vec!["j0", "j1", "j3"], 4, 0), "{crash}");
        assert!(!names(&folder).contains(&"custody.log.next".to_owned()), "{crash}");
        log.append(&line(4, 50)).unwrap();
        drop(log);
        assert_eq!(LogFiles::open(&folder, 0, BIG).unwrap().1.next_n, 5, "{crash}");
    }
}

#[test]
fn a_tail_torn_at_any_byte_of_the_last_full_file_is_cut_off() {
    let folder = rolled("boundary", 2);
    let full = folder.join("custody-00000000000000000002.log");
    fs::rename(folder.join(CURRENT), &full).unwrap();
    let whole = fs::read(&full).unwrap();
    let first = head(2, 10).len();
    for cut in first..whole.len() {
        fs::write(&full, &whole[..cut]).unwrap();
        let (_log, found) = LogFiles::open(&folder, 0, BIG).unwrap();
        assert_eq!((found.next_n, found.damaged), (3, 0), "cut at {cut}");
        assert_eq!(fs::read(&full).unwrap(), whole[..first]);
    }
    fs::write(&full, "").unwrap();
    assert_eq!(LogFiles::open(&folder, 100, BIG).unwrap().1.next_n, 2);
}

#[test]
fn a_name_that_is_taken_is_not_rolled_over() {
    let folder = rolled("taken", 2);
    let full = folder.join("custody-00000000000000000002.log");
    fs::write(&full, "somebody's").unwrap();
    let (mut log, _) = LogFiles::open(&folder, 100, 1).unwrap();
    assert!(log.roll(4).is_err());
    log.append(&line(4, 1)).unwrap();
    assert_eq!(fs::read(&full).unwrap(), b"somebody's");
    assert!(fs::read(folder.join(CURRENT)).unwrap().ends_with(&line(4, 1)));
}

#[test]
fn a_clock_that_went_back_hides_no_record_that_is_still_to_be_refused() {
    let folder = folder("clock");
    let (mut log, _) = LogFiles::open(&folder, 0, 1).unwrap();
    // Written while the clock was an hour fast, and far back in the log when it is right again.
    log.append(&line(0, 3600)).unwrap();
    for n in [1, 3, 5] {
        log.roll(n).unwrap();
        log.append(&[head(n, 3600), line(n + 1, 10)].concat()).unwrap();
    }
    drop(log);
    let (_log, found) = LogFiles::open(&folder, 20, BIG).unwrap();
    assert_eq!((jtis(&found), found.latest_exp, found.next_n, found.damaged), (vec!["j0"], 3600, 7, 0));
}

#[test]
fn a_log_that_was_cut_and_grew_again_takes_no_more_entries() {
    let folder = folder("hole");
    let (mut log, _) = LogFiles::open(&folder, 0, BIG).unwrap();
    log.append(b"a line\n").unwrap();
    log.append(b"another\n").unwrap();
    let hand = File::options().write(true).open(folder.join(CURRENT)).unwrap();
    hand.set_len(3).unwrap();
    hand.set_len(15).unwrap();
    assert!(log.append(b"x\n").is_err());
    assert!(log.append(b"y\n").is_err());
}

/// The file as it is on disk.
fn on_disk(folder: &Path) -> Vec<u8> {
    fs::read(folder.join(CURRENT)).unwrap()
}

#[test]
fn lines_go_into_space_that_is_written_ahead_and_given_back() {
    let folder = folder("ahead");
    let (mut log, _) = LogFiles::open(&folder, 0, 8 * BIG).unwrap();
    log.append(&line(0, 1)).unwrap();
    let length = on_disk(&folder).len();
    for n in 1..9 {
        log.append(&line(n, 1)).unwrap();
    }
    let lines: Vec<u8> = (0..9).flat_map(|n| line(n, 1)).collect();
    let found = on_disk(&folder);
    assert_eq!(found.len(), length, "nothing made the file longer");
    assert!(found.starts_with(&lines) && found[lines.len()..].iter().all(|byte| *byte == 0));
    drop(log);
    assert_eq!(on_disk(&folder), lines);
}

#[test]
fn no_space_is_written_ahead_of_what_a_file_may_hold() {
    let folder = folder("limit");
    let limit = line(0, 1).len() as u64 + 100;
    let (mut log, _) = LogFiles::open(&folder, 0, limit).unwrap();
    log.append(&line(0, 1)).unwrap();
    assert_eq!(on_disk(&folder).len() as u64, limit);
    log.append(&line(1, 1)).unwrap();
    assert_eq!(on_disk(&folder), [line(0, 1), line(1, 1)].concat());
    log.roll(2).unwrap();
    assert_eq!(fs::read(folder.join("custody-00000000000000000000.log")).unwrap(), [line(0, 1), line(1, 1)].concat());
}

#[test]
fn a_full_file_has_no_space_ahead_of_its_end() {
    let folder = folder("full");
    let (mut log, _) = LogFiles::open(&folder, 0, BIG).unwrap();
    log.append(&line(0, 1)).unwrap();
    log.roll(1).unwrap();
    assert_eq!(fs::read(folder.join("custody-00000000000000000000.log")).unwrap(), line(0, 1));
}

#[test]
fn a_start_after_a_crash_cuts_the_space_off() {
    let folder = folder("crashed");
    fs::write(folder.join(CURRENT), [line(0, 1), vec![0; 10_000]].concat()).unwrap();
    let (log, found) = LogFiles::open(&folder, 0, BIG).unwrap();
    assert_eq!((found.next_n, found.damaged), (1, 0));
    assert_eq!(on_disk(&folder), line(0, 1));
    drop(log);
}
