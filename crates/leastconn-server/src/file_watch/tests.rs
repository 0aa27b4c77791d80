use std::{collections::BTreeSet, fs, path::PathBuf};

use leastconn_testkit::{DEADLINE, TempDir, within};

use super::{scanner::directories, stamp::Stamp, *};

fn watch_only(events: &mut Events, directories: &BTreeSet<PathBuf>) {
    let adder = events.adder();
    let all = directories.iter();
    let added = all.filter_map(|directory| Some((directory.clone(), adder.add(directory)?)));
    events.keep(added.collect());
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

async fn wait_changed(events: &Events) {
    within(DEADLINE, "an event", events.changed()).await;
    settle(events).await;
}

#[tokio::test]
async fn renames_writes_and_link_swaps_are_detected() {
    let dir = directory();
    let file = dir.path().join("ca.crl");
    fs::write(&file, "1").unwrap();
    let mut events = Events::new();
    watch_only(&mut events, &directories(std::slice::from_ref(&file)));
    let mut before = Stamp::of(file.clone());
    let mut changed = || {
        let now = Stamp::of(file.clone());
        assert_ne!(now, std::mem::replace(&mut before, now.clone()));
    };

    fs::write(&file, "2").unwrap();
    wait_changed(&events).await;
    changed();

    fs::write(dir.path().join("new"), "2").unwrap();
    fs::rename(dir.path().join("new"), &file).unwrap();
    wait_changed(&events).await;
    changed();

    for version in ["one", "two"] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("ca.crl"), "2").unwrap();
    }
    // Kubernetes mounts files behind the link `..data`, which is replaced as a whole.
    let link = |to: &str, name: &str| {
        let temporary = dir.path().join("temporary");
        std::os::unix::fs::symlink(to, &temporary).unwrap();
        fs::rename(temporary, dir.path().join(name)).unwrap();
    };
    link("one", "..data");
    link("..data/ca.crl", "ca.crl");
    wait_changed(&events).await;
    changed();
    link("two", "..data");
    wait_changed(&events).await;
    changed();

    fs::remove_file(&file).unwrap();
    wait_changed(&events).await;
    changed();
}

#[tokio::test]
async fn unwatched_directory_causes_no_events() {
    let (one, two) = (directory(), directory());
    let mut events = Events::new();
    watch_only(&mut events, &[one.path().to_owned()].into());
    watch_only(
        &mut events,
        &[two.path().to_owned(), "/nowhere/at/all".into()].into(),
    );
    // Removing the watch on the first directory is an event.
    settle(&events).await;
    fs::write(one.path().join("a"), "").unwrap();
    // No further event is reported.
    let changed = timeout(Duration::from_millis(300), events.changed()).await;
    assert!(changed.is_err());
    fs::write(two.path().join("a"), "").unwrap();
    wait_changed(&events).await;
}

#[test]
fn bare_file_name_is_in_the_working_directory() {
    let all = directories(&["a.crt".into(), "/nowhere/b.crt".into()]);
    assert_eq!(all, [".".into(), "/nowhere".into()].into());
}
