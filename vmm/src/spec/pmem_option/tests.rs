use super::*;

fn read(text: &str) -> PmemSpec {
    text.parse().expect("a pmem device")
}

fn refused(text: &str) -> String {
    text.parse::<PmemSpec>().expect_err("no pmem device").to_string()
}

#[test]
fn a_file_alone_is_shared_and_watched() {
    let pmem = read("dir/a.erofs");
    assert_eq!(pmem, PmemSpec::new("dir/a.erofs".into()));
    assert_eq!((pmem.mode, pmem.seal, pmem.on_change), (PmemMode::Shared, false, OnChange::Warn));
    assert_eq!(read("a,,b").path, PathBuf::from("a,b"));
}

#[test]
fn options_say_what_guests_may_and_what_changes_do() {
    let pmem = read("a,mode=private,seal=on,on-change=stop");
    let wanted = PmemSpec {
        mode: PmemMode::Private,
        seal: true,
        on_change: OnChange::Stop,
        ..PmemSpec::new("a".into())
    };
    assert_eq!(pmem, wanted);
    assert!(read("a,seal").seal && !read("a,seal,seal=off").seal);
    assert_eq!(read("a,on-change=ignore,mode=shared").on_change, OnChange::Ignore);
}

#[test]
fn mistakes_are_named() {
    let cases = [
        ("", "no file"),
        (",mode=shared", "no file"),
        ("a,ro", "unknown pmem option \"ro\" (known: mode, seal, on-change"),
        ("a,sealed=on", "unknown pmem option \"sealed=on\""),
        ("a,mode", "mode=\"\": expected shared or private"),
        ("a,mode=rw", "mode=\"rw\": expected shared or private"),
        ("a,seal=yes", "seal=\"yes\": expected on or off"),
        ("a,on-change=die", "on-change=\"die\": expected ignore, warn or stop"),
    ];
    for (text, expected) in cases {
        let said = refused(text);
        assert!(said.contains(expected), "{text:?}: {said}");
    }
}
