//! Device configuration of a block device (virtio 1.3, 5.2.4).

use storage::Medium;

/// Bytes of the structure, up to `write_zeroes_may_unmap` and its padding.
const LEN: usize = 0x3C;
/// Where `writeback` is.
pub(super) const WRITEBACK: usize = 0x20;
/// Most buffers in the data of one request. Chains can be longer than the queue is large, by an
/// indirect table.
const SEGMENTS_MAX: u32 = 254;

/// The structure as it reads at first: write-back.
pub(super) fn initial(disk: &impl Medium, queues: u16) -> [u8; LEN] {
    let limits = disk.limits();
    let block = disk.logical_block_size();
    let sectors = |bytes: storage::Bytes| u32::try_from(bytes.sectors()).unwrap_or(u32::MAX);
    // What the host allocates at a time, as physical block and as best granularity.
    let physical = limits.discard_alignment.get().max(block.into());
    let exponent = (physical / u64::from(block)).checked_ilog2().unwrap_or(0);
    let blocks = u16::try_from(physical / u64::from(block)).unwrap_or(1);

    let mut config = [0; LEN];
    let mut put = |at: usize, value: &[u8]| {
        if let Some(to) = config.get_mut(at..at + value.len()) {
            to.copy_from_slice(value);
        }
    };
    put(0x00, &disk.size().sectors().to_le_bytes());
    put(0x0C, &SEGMENTS_MAX.to_le_bytes());
    put(0x14, &block.to_le_bytes());
    put(0x18, &[u8::try_from(exponent).unwrap_or(0), 0]);
    put(0x1A, &blocks.to_le_bytes());
    put(WRITEBACK, &[1]);
    put(0x22, &queues.to_le_bytes());
    put(0x24, &sectors(limits.max_discard).to_le_bytes());
    put(0x28, &1u32.to_le_bytes());
    put(0x2C, &sectors(limits.discard_alignment).max(1).to_le_bytes());
    put(0x30, &sectors(limits.max_write_zeroes).to_le_bytes());
    put(0x34, &1u32.to_le_bytes());
    put(0x38, &[1]);
    config
}
