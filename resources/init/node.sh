#!/bin/sh
# /sbin/init of a node that shares a disk with others: does what it is told on the serial console,
# a numbered line at a time, and says between two lines with that number what came of it: first
# `<NUMBER>`, last `<STATUS was NUMBER>`.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for folder in /run /tmp /var; do
    mount -t tmpfs tmp "$folder"
done
mkdir /dev/shm /var/log /var/lib
mount -t tmpfs shm /dev/shm
ln -s /run /var/run
cd /run

# What the kernel has to say of refused writes is not to come between what programs say.
dmesg -n 1
stty -echo -onlcr
waited=0
until [ -b /dev/sda ]; do
    waited=$((waited + 1))
    [ "$waited" -le 200 ] || { echo "node: there is no /dev/sda"; dmesg | tail -n 20; guest-exit 1; }
    usleep 50000
done
echo "node: ready after $(cut -d' ' -f1 /proc/uptime) s"
while read -r number line; do
    echo "<$number>"
    (eval "$line") </dev/null 2>&1
    printf '\n<%s was %s>\n' "$?" "$number"
done
guest-exit 0
