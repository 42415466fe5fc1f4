#!/bin/sh
# /sbin/init of the root file system of resources/labs/debian.toml: checks that the machine is
# what the lab asked for, says so line by line, and switches the machine off. The first check
# that fails ends the guest with status 1 instead.
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev

check() {
    what=$1
    shift
    if "$@" >/tmp/said 2>&1; then
        echo "check: $what: ok"
    else
        echo "check: $what: FAILED"
        cat /tmp/said
        guest-exit 1
    fi
}

root_is_writable_virtio_disk() {
    grep -q '^/dev/vda / ext4 rw' /proc/mounts && [ -e /sys/bus/virtio/drivers/virtio_blk/virtio* ]
}

# Writes through to the disk, forgets the cached pages, and reads back from the disk.
data_survives() {
    dd if=/dev/urandom of=/data bs=64k count=64 conv=fsync || return 1
    written=$(md5sum </data)
    sync
    echo 3 >/proc/sys/vm/drop_caches
    [ "$(md5sum </data)" = "$written" ]
}

drops_deleted_blocks() {
    rm /data && sync && fstrim -v /
}

echo "guest: $(uname -sr), $(nproc) cpus, started $(cut -d' ' -f1 /proc/uptime) s ago"
mount -t tmpfs tmp /tmp
check "two processors are online" test "$(nproc)" = 2
check "the clock is kvm-clock" grep -q kvm-clock /sys/devices/system/clocksource/clocksource0/available_clocksource
check "/ is ext4 on virtio-blk, writable" root_is_writable_virtio_disk
check "4 MiB written, synced and read back" data_survives
check "deleted blocks are discarded" drops_deleted_blocks
check "virtio-rng gives random bytes" dd if=/dev/hwrng of=/dev/null bs=16 count=1
echo "guest: every check passed"
mount -o remount,ro /
# Setting a terminal waits until it has sent everything.
stty sane </dev/console
poweroff -f
