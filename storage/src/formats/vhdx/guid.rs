//! The identifiers of MS-VHDX.

use uuid::{Uuid, uuid};

/// Region: the block allocation table (2.2.3.2).
pub(super) const BAT: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
/// Region: metadata (2.2.3.2).
pub(super) const METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");

/// Item: file parameters (2.6.2.1).
pub(super) const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
/// Item: virtual disk size (2.6.2.2).
pub(super) const DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
/// Item: virtual disk id (2.6.2.3).
pub(super) const DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
/// Item: logical sector size (2.6.2.4).
pub(super) const LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
/// Item: physical sector size (2.6.2.5).
pub(super) const PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
/// Item: parent locator (2.6.2.6).
pub(super) const PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");

/// Locator type: the parent is a VHDX (2.6.2.6.3).
pub(super) const VHDX_PARENT: Uuid = uuid!("b04aefb7-d19e-4a81-b789-25b8e9445913");
/// Locator type of ours: the parent is of another format, which only cohort can follow.
pub(super) const OTHER_PARENT: Uuid = uuid!("7c1bd6f0-52f4-4b0a-8a7e-0d0f3f6a94c5");
