use super::*;

fn sizes(rss_kib: u64, pss_kib: u64) -> Sizes {
    Sizes { rss_kib, pss_kib, private_kib: 1, shared_kib: rss_kib - 1, ..Sizes::default() }
}

#[test]
fn each_guest_has_a_line_for_each_sample() {
    let mut table = Vec::new();
    let mut series = Series::new(&mut table);
    let a = Sample { name: "a", pid: 7, sizes: sizes(10, 6) };
    let b = Sample { name: "odd, \"name\"", pid: 8, sizes: sizes(20, 12) };
    let point = series.add(50, &[a, b]);
    assert_eq!(point, Point { at_ms: 50, rss_kib: 30, pss_kib: 18, private_kib: 2 });
    series.add(100, &[a]);
    assert_eq!((series.count(), series.points().len()), (2, 2));
    assert!(series.failure().is_none());
    assert_eq!(
        String::from_utf8(table).unwrap(),
        "time_ms,guest,pid,rss_kib,pss_kib,private_kib,shared_kib,swap_kib\n\
         50,a,7,10,6,1,9,0\n50,\"odd, \"\"name\"\"\",8,20,12,1,19,0\n100,a,7,10,6,1,9,0\n"
    );
}

#[test]
fn a_long_series_keeps_its_length_and_its_highest_point() {
    let mut series = Series::new(io::sink());
    for second in 0..100_000 {
        let rss_kib = if second == 54_321 { 1 << 20 } else { 100 };
        series.add(second * 1000, &[Sample { name: "a", pid: 1, sizes: sizes(rss_kib, 50) }]);
    }
    let points = series.points();
    assert!(points.len() <= POINTS_MAX);
    assert!(points.is_sorted_by_key(|point| point.at_ms));
    assert!(points.iter().any(|point| point.rss_kib == 1 << 20 && point.at_ms == 54_321_000));
    assert_eq!(series.count(), 100_000);
}

#[test]
fn a_full_disk_ends_the_table_and_nothing_else() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut series = Series::new(Full);
    series.add(0, &[Sample { name: "a", pid: 1, sizes: sizes(10, 5) }]);
    assert_eq!(series.points().len(), 1);
    assert_eq!(series.failure().unwrap().kind(), io::ErrorKind::StorageFull);
}
