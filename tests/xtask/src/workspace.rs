//! Where the sources and the built binaries are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::tool;

/// The folder of the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// `cargo`, in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = tool::tool(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.current_dir(root());
    command
}

/// Where cargo puts what it builds.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata = tool::output(cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let folder = metadata["target_directory"].as_str();
    folder.map(PathBuf::from).context("cargo metadata names no target directory")
}

/// Builds the release binary of cohort and returns its path.
pub(crate) fn release_binary() -> Result<PathBuf> {
    tool::shown(cargo().args(["build", "--release", "--package", "cohort"]))?;
    Ok(target()?.join("release/cohort"))
}
