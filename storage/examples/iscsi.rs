//! Serves disks by iSCSI on the loopback interface until its standard input ends:
//! `cargo run -p storage --example iscsi -- MIB-OR-PATH…`. Prints `ready` and a URL for each.
//! `COHORT_CHAP=FILE` asks initiators for secrets.

use std::io::Read;
use std::path::Path;

use storage::iscsi::{ChapSecrets, IscsiName, Server, ServerOptions};
use storage::reservation::{Reservations, Store};
use storage::scsi::{Target, UnitOptions};
use storage::{Bytes, Disk, DiskOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut units = Vec::new();
    for (lun, argument) in std::env::args().skip(1).enumerate() {
        let options = DiskOptions::default();
        let disk = match argument.parse::<u64>() {
            Ok(mib) => Disk::scratch(Bytes::new(mib << 20), &options)?,
            Err(_) => Disk::open(Path::new(&argument), &options)?,
        };
        let identity = format!("example disk {lun}");
        units.push(UnitOptions { disk, identity, reservations: Reservations::default() });
    }
    let count = units.len();
    let store: Option<Store> = None;
    let target = Target::new(units, store)?;
    let mut options = ServerOptions::on_loopback(IscsiName::new("iqn.2026-01.org.cohort:example")?);
    if let Ok(path) = std::env::var("COHORT_CHAP") {
        options.chap = Some(ChapSecrets::read(Path::new(&path), &options.iqn)?);
    }
    let server = Server::bind(target, options)?;
    println!("ready");
    for address in server.addresses() {
        (0..count).for_each(|lun| println!("iscsi://{address}/{}/{lun}", server.iqn()));
    }
    let _ = std::io::stdin().read_to_end(&mut Vec::new())?;
    for session in server.sessions() {
        eprintln!("{}", serde_json::to_string(&session)?);
    }
    server.stop();
    Ok(())
}
