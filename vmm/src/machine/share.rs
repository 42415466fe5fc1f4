//! Folders that a guest shares with the host (virtio-fs), from what the description says of them.

use std::fs::File;
use std::sync::Arc;

use devices::virtio::SharedMemory;
use devices::virtio::fs::fuse::{
    Caching, DaxWindow, FsOptions, IdRange, Ids, Mounts, Server, Xattrs,
};
use devices::virtio::fs::{Dax, Fs};
use memshare::{Claim, Domain, Window};

use super::MachineError;
use super::domain;
use super::windows::Windows;
use crate::spec::{DAX_GRANULE, ShareCache, ShareIds, ShareSpec, ShareXattrs, VmSpec};

/// Request queues of a share, if there are as many processors.
const QUEUES_MAX: u8 = 8;

/// A share that was opened.
pub(super) struct Opened {
    pub(super) device: Fs,
    /// Where files are mapped.
    pub(super) window: Option<Arc<Window>>,
    /// That the folder is used within the guest's share domain; it is, for as long as this is kept.
    pub(super) claim: Option<Claim>,
}

/// Opens the shares of a guest.
pub(super) fn open_all(spec: &VmSpec, windows: &Arc<Windows>) -> Result<Vec<Opened>, MachineError> {
    if spec.shares.is_empty() {
        return Ok(Vec::new());
    }
    let domain = domain::of(spec)?;
    let shares = spec.shares.iter().enumerate();
    shares.map(|(number, share)| open(number, share, spec, domain, windows)).collect()
}

fn open(
    number: usize,
    share: &ShareSpec,
    spec: &VmSpec,
    domain: Domain,
    windows: &Arc<Windows>,
) -> Result<Opened, MachineError> {
    let tag = share.tag.parse().map_err(|_| MachineError::ShareTag(share.tag.clone()))?;
    let claim = claim(share, domain);
    let len = share.dax.len(spec.memory).filter(|_| claim.as_ref().is_some_and(|c| c.alone));
    let window = match len {
        Some(len) => {
            let name = format!("share {}", share.tag);
            let window = Window::reserve(&name, len, DAX_GRANULE);
            Some(window.map_err(|source| MachineError::ShareWindow { number, source })?)
        }
        None => None,
    };
    let server = Server::new(options(share, window.as_ref()))
        .map_err(|source| MachineError::Share { number, source })?;
    let memory = window.clone().map(|window| SharedMemory {
        id: 0,
        window,
        // What a driver may only read is private to the guest wherever files are mapped.
        writable: share.writable,
        placer: windows.clone(),
    });
    let queues = u16::from(spec.cpus.min(QUEUES_MAX));
    tracing::info!(
        share = number,
        folder = %share.folder.display(),
        tag = share.tag,
        writable = share.writable,
        window = len.unwrap_or(0),
        "folder shared with the guest"
    );
    let device = Fs::new(tag, server, queues, memory);
    Ok(Opened { device, window, claim: claim.map(|claimed| claimed.claim) })
}

struct Claimed {
    claim: Claim,
    alone: bool,
}

/// Says that the folder is used within the guest's domain. Guests of others do not get at its
/// files' pages, but at copies.
fn claim(share: &ShareSpec, domain: Domain) -> Option<Claimed> {
    let folder = share.folder.display();
    let claimed = File::open(&share.folder).and_then(|file| domain.claim(file)).and_then(|claim| {
        let alone = claim.is_alone()?;
        Ok(Claimed { claim, alone })
    });
    match &claimed {
        Ok(Claimed { alone: true, .. }) => {}
        Ok(_) => tracing::info!(
            %folder,
            "guests of another share domain use the folder: this one reads copies (no DAX)"
        ),
        // What is wrong with the folder itself is told when it is opened.
        Err(error) => tracing::info!(
            %folder,
            %error,
            "it cannot be told who else uses the folder: the guest reads copies (no DAX)"
        ),
    }
    claimed.ok()
}

/// What the server of a share is to do.
fn options(share: &ShareSpec, window: Option<&Arc<Window>>) -> FsOptions {
    FsOptions {
        writable: share.writable,
        ids: match share.ids {
            ShareIds::Same => Ids::Same,
            ShareIds::Squash => Ids::Squash,
            ShareIds::Range { guest, host, count } => Ids::Range(IdRange { guest, host, count }),
        },
        caching: match share.cache {
            ShareCache::Never => Caching::Never,
            ShareCache::Auto => Caching::Auto,
            ShareCache::Always => Caching::Always,
        },
        mounts: if share.cross_mounts { Mounts::Cross } else { Mounts::Refuse },
        xattrs: match share.xattrs {
            ShareXattrs::None => Xattrs::None,
            ShareXattrs::User => Xattrs::User,
            ShareXattrs::All => Xattrs::All,
        },
        window: window.map(|window| Arc::new(Dax::new(Arc::clone(window))) as Arc<dyn DaxWindow>),
        ..FsOptions::new(&share.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_of_another_domain_are_not_alone() {
        let folder = tempfile::tempdir().unwrap();
        let share = ShareSpec::new(folder.path().into(), "tag".into());
        let alone = |domain| claim(&share, domain).map(|claimed| (claimed.alone, claimed.claim));
        let lab = Domain::named("lab");
        let (first, _claim) = alone(lab).unwrap();
        let (second, _other) = alone(lab).unwrap();
        assert!(first && second);
        let (stranger, theirs) = alone(Domain::own().unwrap()).unwrap();
        assert!(!stranger);
        drop(theirs);
        assert!(alone(lab).unwrap().0);
        let gone = ShareSpec::new(folder.path().join("gone"), "tag".into());
        assert!(claim(&gone, lab).is_none());
    }
}
