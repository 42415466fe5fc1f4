use proptest::prelude::*;

use super::*;

fn point(at_ms: u64, rss_kib: u64) -> Point {
    Point { at_ms, rss_kib, pss_kib: rss_kib / 2, private_kib: rss_kib / 4 }
}

/// A check that tags nest, attributes are quoted and text is escaped: what makes XML well-formed.
fn assert_well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(at) = rest.find('<') {
        let text = &rest[..at];
        assert!(!text.contains('>'), "{text}");
        for (at, _) in text.match_indices('&') {
            let known = ["&amp;", "&lt;", "&gt;", "&quot;"];
            assert!(known.iter().any(|entity| text[at..].starts_with(entity)), "{text}");
        }
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap_or_default());
        }
        rest = &rest[end + 1..];
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
}

#[test]
fn any_number_of_points_makes_a_picture() {
    for points in [&[][..], &[point(0, 0)], &[point(50, 70_000)], &[point(0, 5), point(9, 3 << 20)]]
    {
        let svg = svg("pair", points);
        assert_well_formed(&svg);
        assert!(svg.starts_with("<svg ") && svg.contains("Memory of the lab pair"), "{svg}");
    }
}

#[test]
fn names_are_text_alone() {
    let svg = svg("<a href=\"x\">&\u{1}", &[point(0, 1)]);
    assert_well_formed(&svg);
    assert!(svg.contains("&lt;a href=&quot;x&quot;&gt;&amp;\u{fffd}"), "{svg}");
}

#[test]
fn what_is_held_is_drawn_to_scale() {
    let points = [point(0, 0), point(1000, 100 << 10)];
    let svg = svg("a", &points);
    // 100 MiB in steps of ten reach up to the top, half of that half the way.
    assert!(svg.contains(&format!("M{LEFT:.1} {BOTTOM:.1} {RIGHT:.1} {TOP:.1}\"")), "{svg}");
    let middle = (TOP + BOTTOM) / 2.0;
    assert!(svg.contains(&format!("{RIGHT:.1} {middle:.1} L{RIGHT:.1}")), "{svg}");
    assert!(svg.contains(">100 MiB<") && svg.contains(">1 s<"), "{svg}");
}

#[test]
fn axes_have_few_round_numbers() {
    for (most, expected) in [(9.5, 1.0), (14.0, 2.0), (33.0, 5.0), (100.0, 10.0), (0.0, 0.001)] {
        assert!((step(most) - expected).abs() < 1e-9, "{most}: {}", step(most));
    }
    assert_eq!(number(0.1 + 0.2), "0.3");
    assert_eq!(number(20.0), "20");
}

proptest! {
    #[test]
    fn no_figures_are_too_strange(
        figures in proptest::collection::vec((0..1u64 << 50, any::<u64>(), any::<u64>()), 0..20),
    ) {
        let mut points: Vec<Point> = figures
            .iter()
            .map(|(at_ms, rss, pss)| Point {
                at_ms: *at_ms,
                rss_kib: *rss,
                pss_kib: *pss,
                private_kib: *pss / 2,
            })
            .collect();
        points.sort_by_key(|point| point.at_ms);
        let svg = svg("a", &points);
        assert_well_formed(&svg);
        prop_assert!(svg.len() < 40_000, "{}", svg.len());
    }
}
