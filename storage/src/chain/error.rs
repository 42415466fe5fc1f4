//! Why layers do not make up a chain.

use std::path::PathBuf;

use super::record;
use crate::identity::Identity;
use crate::link::Overridden;
use crate::lock::Holder;
use crate::quoted::Quoted;

/// A chain that does not hang together. [`ChainError::help`] says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainError {
    /// The parent is not what it was when the child was made.
    #[error(
        "the parent of {} has changed{}: {} had the identity {recorded} when the child was made, \
         and has {found} now",
        child.display(), since(recorded, found), parent.display()
    )]
    Mismatch {
        /// The layer that records a parent.
        child: PathBuf,
        /// The parent that was found.
        parent: PathBuf,
        /// The identity that the child records.
        recorded: Box<Identity>,
        /// The identity that the parent has.
        found: Box<Identity>,
        /// Whether the child records what its parent read as, which a copy of it does as well.
        digest: bool,
    },
    /// The child does not say what its parent was.
    #[error(
        "{} does not record the identity of its parent {}, which has {found} now",
        child.display(), parent.display()
    )]
    Unlinked {
        /// The layer that records a parent without its identity.
        child: PathBuf,
        /// The parent that was found.
        parent: PathBuf,
        /// The identity that the parent has.
        found: Box<Identity>,
    },
    /// Nothing says whether the parent has changed.
    #[error(
        "nothing tells whether the parent of {}, {}, has changed: {why}",
        child.display(), parent.display()
    )]
    Untold {
        /// The layer that records a parent.
        child: PathBuf,
        /// The parent that was found.
        parent: PathBuf,
        /// Why not.
        why: String,
        /// The identity that the child records, if it does.
        recorded: Option<Box<Identity>>,
        /// The identity that the parent has.
        found: Box<Identity>,
    },
    /// The parent is not where the child says it is.
    #[error("the parent of {} is missing: there is no {}", child.display(), list(tried))]
    ParentMissing {
        /// The layer that records the parent.
        child: PathBuf,
        /// Where it was looked for.
        tried: Vec<PathBuf>,
    },
    /// The file that is to become a parent is not there.
    #[error("there is no {} that could be the parent of {}", parent.display(), child.display())]
    NoSuchParent {
        /// What was named as the parent.
        parent: PathBuf,
        /// The layer whose parent it is to be.
        child: PathBuf,
    },
    /// The layer that is to become a parent rests on the child.
    #[error("{} would be its own ancestor with the parent {}", child.display(), parent.display())]
    WouldCycle {
        /// What was named as the parent.
        parent: PathBuf,
        /// The layer whose parent it is to be.
        child: PathBuf,
    },
    /// A layer is its own ancestor.
    #[error("{} is its own ancestor: {} names it as its parent", path.display(), child.display())]
    Cycle {
        /// The layer.
        path: PathBuf,
        /// The layer that names it as its parent.
        child: PathBuf,
    },
    /// There are more layers than a chain may have.
    #[error("the chain of {} has more than {max} layers", path.display())]
    TooDeep {
        /// The top layer.
        path: PathBuf,
        /// Most layers that a chain may have.
        max: usize,
    },
    /// Someone may be writing to the parent.
    #[error(
        "the parent {} of {} is locked by {}: it {conflict}",
        parent.display(), child.display(),
        Holder::describe(holder.as_ref())
    )]
    ParentInUse {
        /// The parent.
        parent: PathBuf,
        /// The layer that records it.
        child: PathBuf,
        /// What stands in the way.
        conflict: &'static str,
        /// Who it is, where the host tells.
        holder: Option<Holder>,
    },
    /// The parent is on a device that may be written to by other means than an image.
    #[error("the parent {} of {} is in use: {how}", parent.display(), child.display())]
    ParentClaimed {
        /// The parent.
        parent: PathBuf,
        /// The layer that records it.
        child: PathBuf,
        /// By whom.
        how: String,
    },
}

/// What has happened to a parent, as far as its identities tell.
fn since(recorded: &Identity, found: &Identity) -> String {
    found.since(recorded).map_or_else(String::new, |what| format!(" ({what})"))
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    if names.is_empty() { "path recorded".to_owned() } else { names.join(", and no ") }
}

impl ChainError {
    /// What a layer records when it is opened in spite of this; `None` where it cannot be.
    pub(crate) fn overridden(&self) -> Option<Overridden> {
        let (child, parent, recorded, found) = match self {
            ChainError::Mismatch { child, parent, recorded, found, .. } => {
                (child, parent, Some(recorded), found)
            }
            ChainError::Unlinked { child, parent, found } => (child, parent, None, found),
            ChainError::Untold { child, parent, recorded, found, .. } => {
                (child, parent, recorded.as_ref(), found)
            }
            _ => return None,
        };
        Some(Overridden {
            child: record::lasting(child),
            parent: record::lasting(parent),
            recorded: recorded.map(|identity| (**identity).clone()),
            found: (**found).clone(),
        })
    }

    /// The exit status by which scripts can tell what is wrong.
    pub fn status(&self) -> u8 {
        match self {
            ChainError::Mismatch { .. } | ChainError::Untold { .. } => 40,
            ChainError::Unlinked { .. } => 41,
            ChainError::ParentMissing { .. } | ChainError::NoSuchParent { .. } => 42,
            ChainError::Cycle { .. } | ChainError::WouldCycle { .. } => 43,
            ChainError::TooDeep { .. } => 44,
            ChainError::ParentInUse { .. } | ChainError::ParentClaimed { .. } => 45,
        }
    }

    /// What to do about it.
    pub fn help(&self) -> String {
        match self {
            ChainError::Mismatch { child, parent, found, digest, .. } => {
                let (child, parent) = (Quoted(child), Quoted(parent));
                let restart = match **found {
                    Identity::Device(_) => " or a restart of the host",
                    _ => "",
                };
                let digest = match digest {
                    true => format!(
                        "if it reads as it did, as after a copy{restart}, `cohort disk check --digest {child}` \
                         finds that out and records it; "
                    ),
                    false => String::new(),
                };
                format!(
                    "{digest}bring back the parent as it was (a backup of {parent}), or, if its \
                     contents are right for this child, `cohort disk relink {child} --parent \
                     {parent} --force`; --allow-mismatch (allow-mismatch in --disk) opens the chain \
                     as it is, and the guest may see its file systems corrupted"
                )
            }
            ChainError::Untold { child, parent, .. } => {
                let (child, parent) = (Quoted(child), Quoted(parent));
                format!(
                    "copy {parent} into a file, and name that as the parent: `cohort disk convert`, \
                     and `cohort disk relink {child} --parent FILE`; or mend the cause, and take the \
                     parent as it is then: `cohort disk relink {child} --parent {parent} --force`; \
                     --allow-mismatch opens the chain as it is"
                )
            }
            ChainError::Unlinked { child, parent, .. } => {
                let (child, parent) = (Quoted(child), Quoted(parent));
                format!(
                    "if {parent} is the right parent, `cohort disk relink {child} --parent {parent} \
                     --force` records its identity; --allow-mismatch opens the chain without"
                )
            }
            ChainError::ParentMissing { child, .. } => format!(
                "bring the parent back, or say where it is now: `cohort disk relink {} --parent \
                 PATH`",
                Quoted(child)
            ),
            ChainError::Cycle { child, .. } => format!(
                "name the parent that it had when it was made: `cohort disk relink {} --parent \
                 PATH --force`",
                Quoted(child)
            ),
            ChainError::NoSuchParent { .. } => "check the path of the parent".to_owned(),
            ChainError::WouldCycle { parent, .. } => format!(
                "name a parent that does not rest on it: `cohort disk info --chain {}` shows what \
                 that rests on",
                Quoted(parent)
            ),
            ChainError::TooDeep { .. } => "put a copy in place of a layer further down and all \
                 below that: `cohort disk convert LAYER COPY`, and `cohort disk relink CHILD \
                 --parent COPY` for the layer above it"
                .to_owned(),
            ChainError::ParentClaimed { .. } => "unmount it, or take it out of use, or mount it \
                                                 read-only: whoever writes to a parent damages \
                                                 all of its children"
                .to_owned(),
            ChainError::ParentInUse { holder, .. } => format!(
                "{}: whoever writes to a parent damages all of its children",
                Holder::help(holder.as_ref(), "its user")
            ),
        }
    }
}
