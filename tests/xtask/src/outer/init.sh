#!/bin/busybox sh
# PID 1 of the outer machine: inserts the modules it was given, mounts the disk that carries the
# tree, runs /command there, and reports. Ports 1 and 2 are standard output and error of the
# command, port 3 takes its exit status; the serial console keeps the kernel's own messages.
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /dev /disk
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "init: $module was not inserted"
done
waited=0
# Ports carry the number of their device, which depends on the order of discovery.
until [ -c /dev/vport*p3 ] && [ -b /dev/vda ]; do
    waited=$((waited + 1))
    [ "$waited" -le 600 ] || { echo "init: no disk or no ports among:" /dev/v*; poweroff -f; }
    usleep 50000
done
mount -t ext4 -o noatime /dev/vda /disk || poweroff -f
cd /disk
mkdir -p proc sys dev tmp run root
mount --move /proc proc
mount --move /sys sys
mount --move /dev dev
mkdir -p dev/shm dev/pts
mount -t tmpfs shm dev/shm
mount -t devpts pts dev/pts
ip link set lo up 2>/dev/null
port=$(echo dev/vport*p3)
port=${port%3}
chroot /disk /bin/sh /command </dev/null >"${port}1" 2>"${port}2"
echo "$?" >"${port}3"
sync
poweroff -f
