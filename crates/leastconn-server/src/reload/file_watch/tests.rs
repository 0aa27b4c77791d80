use std::fs;

use leastconn_testkit::{DEADLINE, TempDir, within};

use super::{look::directories, stamp::Stamp, *};

fn follow(events: &mut Events, directories: &BTreeSet<PathBuf>) {
    let adder = events.adder();
    let all = directories.iter();
    let added = all.filter_map(|directory| Some((directory.clone(), adder.add(directory)?)));
    events.keep(added.collect());
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

async fn is_told(events: &Events) {
    within(DEADLINE, "an event", events.changed()).await;
    settle(events).await;
}

#[tokio::test]
async fn renames_writes_and_link_swaps_are_told_of() {
    let dir = directory();
    let file = dir.path().join("ca.crl");
    fs::write(&file, "1").unwrap();
    let mut events = Events::new();
    follow(&mut events, &directories(std::slice::from_ref(&file)));
    let mut before = Stamp::of(file.clone());
    let mut changed = || {
        let now = Stamp::of(file.clone());
        assert_ne!(now, std::mem::replace(&mut before, now.clone()));
    };

    fs::write(&file, "2").unwrap();
    is_told(&events).await;
    changed();

    fs::write(dir.path().join("new"), "2").unwrap();
    fs::rename(dir.path().join("new"), &file).unwrap();
    is_told(&events).await;
    changed();

    for version in ["one", "two"] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("ca.crl"), "2").unwrap();
    }
    // As Kubernetes does it: the file leads through `..data`, which is replaced.
    let link = |to: &str, name: &str| {
        let temporary = dir.path().join("temporary");
        std::os::unix::fs::symlink(to, &temporary).unwrap();
        fs::rename(temporary, dir.path().join(name)).unwrap();
    };
    link("one", "..data");
    link("..data/ca.crl", "ca.crl");
    is_told(&events).await;
    changed();
    link("two", "..data");
    is_told(&events).await;
    changed();

    fs::remove_file(&file).unwrap();
    is_told(&events).await;
    changed();
}

#[tokio::test]
async fn a_directory_that_is_followed_no_more_is_not_told_of() {
    let (one, two) = (directory(), directory());
    let mut events = Events::new();
    follow(&mut events, &[one.path().to_owned()].into());
    follow(
        &mut events,
        &[two.path().to_owned(), "/nowhere/at/all".into()].into(),
    );
    // That the first is given up is an event of its own.
    settle(&events).await;
    fs::write(one.path().join("a"), "").unwrap();
    let told = timeout(Duration::from_millis(300), events.changed()).await;
    assert!(told.is_err());
    fs::write(two.path().join("a"), "").unwrap();
    is_told(&events).await;
}

#[test]
fn a_file_of_no_directory_is_in_the_working_one() {
    let all = directories(&["a.crt".into(), "/nowhere/b.crt".into()]);
    assert_eq!(all, [".".into(), "/nowhere".into()].into());
}
