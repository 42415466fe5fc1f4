use super::*;
use proptest::prelude::*;

fn path(text: &str) -> DiskSpec {
    DiskSpec::new(DiskSource::Path(text.into()))
}

#[test]
fn a_path_alone_is_a_disk() {
    assert_eq!("disk.img".parse(), Ok(path("disk.img")));
}

#[test]
fn every_option() {
    let disk = DiskSpec {
        read_only: true,
        direct: true,
        serial: Some("root".into()),
        queues: Some(4),
        format: Some(Format::Qcow2),
        allow_mismatch: true,
        map_memory: Some(8 << 20),
        engine: EngineChoice::Positional,
        ..path("/tmp/a b")
    };
    assert_eq!(
        "/tmp/a b,ro,direct=on,serial=root,queues=4,format=qcow2,allow-mismatch,map-memory=8M,\
         engine=positional"
            .parse(),
        Ok(disk)
    );
    assert_eq!("d,ro=off,direct=off,engine=auto".parse(), Ok(path("d")));
}

#[test]
fn a_parent_is_a_path_too() {
    let disk =
        DiskSpec { format: Some(Format::Vhdx), ..DiskSpec::new(DiskSource::Child("a,b=c".into())) };
    assert_eq!("parent=a,,b=c,format=vhdx".parse(), Ok(disk));
    assert_eq!("parent=".parse::<DiskSpec>(), Err(DiskOptionError::NoPath));
    assert_eq!("a=b".parse(), Ok(path("a=b")));
    let error = "a,format=qed".parse::<DiskSpec>().unwrap_err().to_string();
    assert_eq!(error, "disk option format=\"qed\": expected raw, layer, qcow2 or vhdx");
    let error = "scratch=1M,format=raw".parse::<DiskSpec>().unwrap_err();
    assert_eq!(error.to_string(), "a scratch disk takes no format");
}

#[test]
fn a_vhost_user_disk_has_a_kind_and_queues() {
    let disk = |kind| {
        let socket = "/run/a,b=c".into();
        DiskSpec::new(DiskSource::VhostUser { socket, kind })
    };
    assert_eq!("vhost-user=/run/a,,b=c,kind=blk".parse(), Ok(disk(VhostUserKind::Blk)));
    let queues = DiskSpec { queues: Some(3), ..disk(VhostUserKind::Scsi) };
    assert_eq!("vhost-user=/run/a,,b=c,queues=3,kind=scsi".parse(), Ok(queues));
    let error = |text: &str| text.parse::<DiskSpec>().unwrap_err().to_string();
    assert_eq!(error("vhost-user=s"), "a vhost-user disk takes its kind: kind=blk or kind=scsi");
    assert_eq!(error("vhost-user=s,kind=nvme"), "disk option kind=\"nvme\": expected blk or scsi");
    assert_eq!("vhost-user=,kind=blk".parse::<DiskSpec>(), Err(DiskOptionError::NoPath));
    assert_eq!(error("d.img,kind=blk"), "only a vhost-user disk takes a kind");
    assert_eq!(error("scratch=1M,kind=blk"), "only a vhost-user disk takes a kind");
    for option in [
        "ro",
        "ro=off",
        "format=raw",
        "allow-mismatch",
        "map-memory=1M",
        "direct",
        "serial=a",
        "engine=auto",
    ] {
        let text = format!("vhost-user=s,kind=blk,{option}");
        let name = option.split('=').next().unwrap();
        assert_eq!(text.parse::<DiskSpec>(), Err(DiskOptionError::NotVhostUser(known(name))));
    }
}

/// The same name, for ever.
fn known(name: &str) -> &'static str {
    ["ro", "format", "allow-mismatch", "map-memory", "direct", "serial", "engine"]
        .into_iter()
        .find(|known| *known == name)
        .unwrap()
}

#[test]
fn a_doubled_comma_is_part_of_the_path() {
    assert_eq!("a,,b,,,,c,ro".parse(), Ok(DiskSpec { read_only: true, ..path("a,b,,c") }));
    assert_eq!("a,,".parse(), Ok(path("a,")));
}

#[test]
fn scratch_disks_have_sizes_with_units() {
    assert_eq!("scratch=64M".parse(), Ok(DiskSpec::new(DiskSource::Scratch(64 << 20))));
    assert_eq!("./scratch=64M".parse(), Ok(path("./scratch=64M")));
    let error = "scratch=64".parse::<DiskSpec>().unwrap_err().to_string();
    assert_eq!(
        error,
        "scratch disk: the size 64 has no unit (write 64M for MiB, or use B, K, G or T)"
    );
    assert!("scratch=0M".parse::<DiskSpec>().is_err());
    assert!("scratch=100B".parse::<DiskSpec>().is_err());
}

#[test]
fn mistakes_name_the_option() {
    let said = |text: &str| text.parse::<DiskSpec>().unwrap_err().to_string();
    assert_eq!(
        said("d,rw"),
        "unknown disk option \"rw\" (known: ro, format, allow-mismatch, map-memory, direct, \
         queues, serial, engine, kind; write a comma inside a path twice)"
    );
    assert_eq!(said("d,direct=yes"), "disk option direct=\"yes\": expected on or off");
    assert_eq!(said("d,queues=0"), "disk option queues=\"0\": expected a number from 1 to 64");
    assert_eq!(
        said("d,engine=aio"),
        "disk option engine=\"aio\": expected auto, io_uring or positional"
    );
    assert_eq!(
        said("d,map-memory=8"),
        "disk option map-memory=\"8\": expected a size with a unit, as in 64M"
    );
    assert_eq!(said("scratch=1M,map-memory=8M"), "a scratch disk takes no map-memory");
    assert!(said("d,serial=").starts_with("disk option serial"));
    assert!(said("d,serial=123456789012345678901").contains("1 to 20 printable"));
    assert_eq!("".parse::<DiskSpec>(), Err(DiskOptionError::NoPath));
}

proptest! {
    #[test]
    fn any_path_can_be_written(text in "[^\u{0}]{1,40}") {
        prop_assume!(!text.starts_with("scratch="));
        prop_assert_eq!(text.replace(',', ",,").parse(), Ok(path(&text)));
    }

    #[test]
    fn any_text_is_answered(text in ".*") {
        let _ = text.parse::<DiskSpec>();
    }
}
