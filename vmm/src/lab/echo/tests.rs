use super::*;
use proptest::prelude::*;

fn shown(bytes: &[u8]) -> String {
    let mut out = Vec::new();
    let mut lines = Lines::new("n| ".into());
    lines.feed(bytes, &mut out);
    lines.finish(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn every_line_has_the_name_before_it() {
    assert_eq!(shown(b"one\ntwo\n"), "n| one\nn| two\n");
    assert_eq!(shown(b"one\n\ntwo"), "n| one\nn| \nn| two\n");
    assert_eq!(shown(b""), "");
}

#[test]
fn carriage_returns_belong_to_their_newline_or_start_the_line_over() {
    assert_eq!(shown(b"one\r\ntwo\r\r\n"), "n| one\nn| two\n");
    assert_eq!(shown(b"10%\r20%\rdone\n"), "n| 10%\nn| 20%\nn| done\n");
    assert_eq!(shown(b"\rone"), "n| one\n");
}

#[test]
fn a_terminal_finds_nothing_to_obey() {
    assert_eq!(shown(b"\x1b[31mred\x1b[0m"), "n| red\n");
    assert_eq!(shown(b"\x1b]0;title\x07x"), "n| ^[]0;title^Gx\n");
    assert_eq!(shown(b"\x1b\x1b[2Jx\x1b"), "n| ^[x\n");
    assert_eq!(shown("a\u{9b}b\u{202e}c".as_bytes()), "n| a\u{fffd}b\u{fffd}c\n");
    assert_eq!(shown(b"\x9b\xff\0\t\x7f"), "n| \u{fffd}\u{fffd}^@\t^?\n");
    let long = [b"\x1b[".as_slice(), &[b'1'; 100], b"m"].concat();
    assert!(shown(&long).len() > 60, "what is no sequence is shown");
}

#[test]
fn a_stream_without_newlines_needs_no_memory() {
    let mut lines = Lines::new("n| ".into());
    let mut out = io::sink();
    for _ in 0..200 {
        lines.feed(&[b'x'; 10_000], &mut out);
        assert!(lines.line.capacity() <= 4 * LINE_MAX);
    }
    let text = shown(&[b'x'; LINE_MAX * 2 + 1]);
    assert_eq!(text.lines().count(), 3);
    let text = shown("é".repeat(LINE_MAX).as_bytes());
    assert!(!text.contains('\u{fffd}'), "characters are not cut");
}

#[test]
fn a_follower_passes_on_what_is_appended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let mut file = File::create(&path).unwrap();
    let mut follower = Follower::open(&path, "n| ".into()).unwrap();
    let mut out = Vec::new();
    file.write_all(b"on").unwrap();
    assert!(!follower.advance(&mut out));
    assert!(out.is_empty());
    file.write_all(b"e\ntwo").unwrap();
    follower.finish(&mut out);
    assert_eq!(out, b"n| one\nn| two\n");
}

proptest! {
    #[test]
    fn only_harmless_characters_come_out(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        let text = shown(&bytes);
        for line in text.lines() {
            prop_assert!(line.starts_with("n| "));
            prop_assert!(!line.chars().any(|c| c.is_control() && c != '\t'), "{:?}", line);
        }
    }

    #[test]
    fn how_the_stream_is_cut_does_not_matter(
        bytes in prop::collection::vec(any::<u8>(), 0..500), at in 0usize..500
    ) {
        let (a, b) = bytes.split_at(at.min(bytes.len()));
        let mut out = Vec::new();
        let mut lines = Lines::new("n| ".into());
        lines.feed(a, &mut out);
        lines.feed(b, &mut out);
        lines.finish(&mut out);
        prop_assert_eq!(String::from_utf8(out).unwrap(), shown(&bytes));
    }
}
