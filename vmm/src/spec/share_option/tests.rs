use super::*;

fn read(text: &str) -> ShareSpec {
    text.parse().expect("a share")
}

fn refused(text: &str) -> String {
    text.parse::<ShareSpec>().expect_err("no share").to_string()
}

#[test]
fn a_folder_alone_is_read_only_and_called_by_its_name() {
    let wanted = ShareSpec::new("/srv/data".into(), "data".into());
    assert_eq!(read("/srv/data"), wanted);
    assert_eq!(read("/srv/data,ro"), wanted);
    assert!(!wanted.writable && wanted.dax == DaxSpec::Auto && wanted.ids == ShareIds::Same);
}

#[test]
fn the_tag_is_behind_the_last_colon() {
    for (text, folder, tag) in [
        ("dir:x", "dir", "x"),
        ("a:b:c", "a:b", "c"),
        ("a:b/c", "a:b/c", "c"),
        ("a,,b:c,,d", "a,b", "c,d"),
        ("/:root", "/", "root"),
    ] {
        let share = read(text);
        assert_eq!((share.folder.to_str(), share.tag.as_str()), (Some(folder), tag), "{text}");
    }
}

#[test]
fn options_say_what_the_guest_may_and_sees() {
    let share = read("a:b,rw,dax=1G,ids=0:100000:65536,cache=always,mounts=cross,xattrs=all");
    let wanted = ShareSpec {
        writable: true,
        dax: DaxSpec::Size(1 << 30),
        ids: ShareIds::Range { guest: 0, host: 100_000, count: 65536 },
        cache: ShareCache::Always,
        cross_mounts: true,
        xattrs: ShareXattrs::All,
        ..ShareSpec::new("a".into(), "b".into())
    };
    assert_eq!(share, wanted);
    let share = read("a,dax=off,ids=squash,cache=never,mounts=refuse,xattrs=none,rw,ro");
    assert_eq!((share.dax, share.ids, share.writable), (DaxSpec::Off, ShareIds::Squash, false));
    assert_eq!((share.cache, share.xattrs), (ShareCache::Never, ShareXattrs::None));
    assert_eq!(read("a,ids=same,cache=auto,xattrs=user"), read("a"));
}

#[test]
fn mistakes_are_named() {
    let long = format!("a:{}", "x".repeat(37));
    for (text, expected) in [
        ("", "no folder"),
        (":tag", "no folder"),
        (",rw", "no folder"),
        ("/", "cannot mount the share as \"\""),
        ("a:", "cannot mount the share as \"\""),
        (long.as_str(), "1 to 36 bytes"),
        ("a,readonly", "unknown share option \"readonly\" (known: ro, rw, dax"),
        ("a,ro=1", "unknown share option \"ro=1\""),
        ("a,dax", "dax=\"\": expected off, or a size"),
        ("a,dax=1", "dax=\"1\""),
        ("a,dax=0M", "dax=\"0M\""),
        ("a,dax=3M", "a multiple of 2M"),
        ("a,ids=root", "ids=\"root\": expected same, squash or"),
        ("a,ids=0:1", "ids=\"0:1\""),
        ("a,ids=0:1:0", "ids=\"0:1:0\""),
        ("a,ids=0:4294967295:2", "GUEST:HOST:COUNT"),
        ("a,cache=no", "expected never, auto or always"),
        ("a,mounts=yes", "expected refuse or cross"),
        ("a,xattrs=some", "expected none, user or all"),
    ] {
        let said = refused(text);
        assert!(said.contains(expected), "{text:?}: {said}");
    }
}
