#!/bin/sh
# /sbin/init of the root file system with which tests show that a disk keeps what Linux writes:
# fio writes, syncs, reads back and compares, in files of the root file system. Ends the guest with
# fio's status.
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run

fio --output=/run/report --directory=/data --size=12M --verify=crc32c --verify_fatal=1 \
    --fsync=64 --randseed=7 --end_fsync=1 \
    --name=blocks --rw=randwrite --bs=4k --ioengine=psync \
    --name=odd --rw=randwrite --bsrange=512-64k --ioengine=psync
status=$?
[ "$status" = 0 ] || cat /run/report
# What was written is compared once more, from the disk.
if [ "$status" = 0 ]; then
    sync
    echo 3 >/proc/sys/vm/drop_caches
    fio --output=/run/again --directory=/data --size=12M --verify=crc32c --verify_fatal=1 \
        --verify_only --randseed=7 --name=blocks --rw=randwrite --bs=4k --ioengine=psync
    status=$?
    [ "$status" = 0 ] || cat /run/again
fi
rm -r /data/*
sync
fstrim /
mount -o remount,ro /
echo "fio ended with $status"
# Setting a terminal waits until it has sent everything.
stty sane </dev/console
guest-exit "$status"
