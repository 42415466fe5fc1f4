#!/bin/busybox sh
# PID 1 of a Linux guest's initial RAM file system. Inserts the modules that /modules/order lists,
# in that order. Then, with `root=DEVICE` on the kernel's command line (`ro` or `rw` beside it),
# it mounts that device's ext4 and goes on with /sbin/init there; without, it runs the command
# that follows `--`, and the guest's exit status is the command's. With neither, it offers a
# shell on the console.
/bin/busybox --install -s /bin
export PATH=/bin:/sbin
mkdir -p /proc /sys /dev /root /tmp
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do
    insmod "/modules/$module" || echo "init: $module was not inserted"
done

# Ends the guest with this status, through the machine's exit register.
finish() {
    sync
    guest-exit "$1"
}

root= mode=ro
for word in $(cat /proc/cmdline); do
    case $word in
    root=*) root=${word#root=} ;;
    ro | rw) mode=$word ;;
    --) break ;;
    esac
done
if [ -n "$root" ]; then
    waited=0
    until [ -b "$root" ]; do
        waited=$((waited + 1))
        [ "$waited" -le 200 ] || { echo "init: there is no $root"; finish 1; }
        usleep 50000
    done
    mount -t ext4 -o "$mode" "$root" /root || finish 1
    exec switch_root /root /sbin/init
fi
if [ "$#" -gt 0 ]; then
    sh -c "$*"
    finish "$?"
fi
exec setsid cttyhack sh
