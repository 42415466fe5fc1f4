//! `cohort shared-disk clear`.

use std::path::PathBuf;

use cohort::shared_disk::control::Request;

use super::{Done, ask, server};
use crate::cli::print;

/// Ends all registrations and reservations of a logical unit, when those who hold them cannot
///
/// Whoever relies on them to be alone on the disk is not alone any more. Initiators are told by a
/// unit attention, and the server logs it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The logical unit
    #[arg(long, value_name = "N")]
    lun: u64,
    /// The server's control socket [default: that of this user's only server]
    socket: Option<PathBuf>,
}

pub(super) fn main(args: &Args) -> Done {
    ask(&server(args.socket.as_deref())?, Request::Clear { lun: args.lun })?;
    print(&format!("LUN {}: no registrations and no reservation\n", args.lun))?;
    Ok(0)
}
