#!/bin/busybox sh
# Copyright 2026 the authors
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# PID 1 of the lab: loads modules, runs /job/run.sh, reports its status through the debug-exit
# port. What to do stands in /lab.env, which comes with the job: LAB_MODULES (set names),
# LAB_OUTPUT=port|console, LAB_RETURN=1 when /out is to be sent back, COLUMNS and LINES.

bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t tmpfs -o mode=1777 tmp /tmp
$bb mkdir -p /dev/pts /dev/shm /dev/net
$bb mount -t devpts pts /dev/pts
$bb mount -t tmpfs shm /dev/shm
$bb --install -s /bin
export PATH=/bin:/sbin:/job HOME=/tmp
. /lab.env

# A module that is built into this kernel has no file and no line here.
for set in virtio $LAB_MODULES; do
    while read -r module; do
        [ -d "/sys/module/$module" ] || insmod "/modules/$module.ko"
    done <"/modules/$set.order"
done

# KVM patches its static keys when the first VM comes and the last one goes; emulated
# multiprocessors do not survive every such patch, so a few VMs are held for the lab's life.
[ -e /dev/kvm ] && labx hold
chmod 666 /dev/kvm /dev/net/tun 2>/dev/null

# Waits for the port or console of the given name to appear and prints its device; the limit is
# in steps of 20 ms.
find_port() {
    steps=0
    while [ $steps -lt 250 ]; do
        for port in /sys/class/virtio-ports/*; do
            [ "$(cat "$port/name" 2>/dev/null)" = "$1" ] && echo "/dev/${port##*/}" && return
        done
        sleep 0.02
        steps=$((steps + 1))
    done
    echo "lab: port $1 did not appear" >/dev/ttyS0
    labx exit 125
}

cd /job || labx exit 125
if [ "$LAB_OUTPUT" = console ]; then
    find_port lab.tty >/dev/null
    [ -n "$LINES" ] && stty -F /dev/hvc0 rows "$LINES" cols "$COLUMNS"
    echo "lab: command starts" >/dev/ttyS0
    setsid -c sh /job/run.sh </dev/hvc0 >/dev/hvc0 2>&1
    status=$?
else
    out=$(find_port lab.out)
    echo "lab: command starts" >/dev/ttyS0
    sh /job/run.sh </dev/null >"$out" 2>&1
    status=$?
fi
[ "$LAB_RETURN" = 1 ] && tar -C /out -cf "$(find_port lab.tar)" .
# The debug-exit port carries seven bits, the console the whole status.
echo "lab: command ended with status $status." >/dev/ttyS0
[ $status -gt 123 ] && status=123
labx exit $status
poweroff -f
