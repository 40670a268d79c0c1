#!/bin/busybox sh
# Copyright 2026 the authors
# SPDX-License-Identifier: Apache-2.0 OR MIT
#
# PID 1 of the guests that xtask boots. The kernel hands `guest=WORD` of its command line on as an
# environment variable: once, memory, echo, console, console-echo, disk, disk-full, disk-reboot, disk-sync,
# disk-attach, disk-bulk (with mib=N), disk-rate, ext4, clock, button, cpus, busy, reboot, idle, or (none) a shell.

bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb --install -s /bin
export PATH=/bin HOME=/root TERM=vt100

read -r uptime idle </proc/uptime
echo "vmm: guest userspace reached, uptime $uptime s, $(nproc) CPU(s)"

load_modules() {
    for name in $(cat /modules/order); do
        insmod "/modules/$name.ko" || echo "vmm: guest cannot load $name"
    done
}

case "$guest" in
once) ;;
memory)
    # Without privileges /proc/iomem shows zeroes; PID 1 sees the real ranges.
    bytes=0
    while read -r range colon name; do
        [ "$name" = "System RAM" ] || continue
        bytes=$((bytes + 0x${range#*-} - 0x${range%-*} + 1))
    done </proc/iomem
    echo "vmm: guest RAM $((bytes >> 20)) MiB"
    ;;
echo)
    echo "vmm: guest waits for a line"
    read -r line
    echo "vmm: guest read ${#line} characters: [$line]"
    ;;
console)
    load_modules
    exec </dev/hvc0 >/dev/hvc0 2>&1
    # After the last close the terminal forgets its mode.
    stty raw -echo
    echo "vmm: guest waits for a line"
    read -r line
    echo "vmm: guest read ${#line} characters: [$line]"
    seq 1 100000 >/tmp/lines
    cat /tmp/lines
    echo "vmm: guest said it all"
    ;;
console-echo)
    load_modules
    exec 3<>/dev/hvc0
    stty raw -echo <&3
    echo "guest is here" >&3
    echo "vmm: guest waits for lines"
    line=
    while [ "$line" != end ] && read -r line <&3; do
        echo "guest heard $line" >&3
        echo "vmm: guest read [$line]"
    done
    ;;
disk)
    load_modules
    echo "vmm: guest disk has $(cat /sys/block/vda/size) sectors, serial $(cat /sys/block/vda/serial)"
    seq 1 200000 | head -c 1048576 >/tmp/pattern
    dd if=/tmp/pattern of=/dev/vda bs=64k seek=1 conv=fsync 2>/dev/null && sync
    echo 3 >/proc/sys/vm/drop_caches
    if dd if=/dev/vda bs=64k skip=1 count=16 2>/dev/null | cmp - /tmp/pattern; then
        echo "vmm: guest reads what it wrote"
    fi
    echo "vmm: guest disks that are read-only: $(cat /sys/block/vda/ro) $(cat /sys/block/vdb/ro)"
    echo "vmm: guest read $(head -c 100 /dev/hwrng | wc -c) bytes of entropy"
    ;;
disk-full)
    load_modules
    seq 1 400000 | head -c 2097152 >/tmp/pattern
    echo "vmm: guest fills its disk"
    dd if=/tmp/pattern of=/dev/vda bs=64k conv=fsync 2>/dev/null && echo "vmm: guest wrote it all"
    echo 3 >/proc/sys/vm/drop_caches
    if dd if=/dev/vda bs=64k count=32 2>/dev/null | cmp - /tmp/pattern; then
        echo "vmm: guest reads what it wrote"
    fi
    ;;
disk-reboot)
    load_modules
    seq 1 200000 | head -c 524288 >/tmp/pattern
    reads_it() { dd if=/dev/vda bs=1M skip=3 2>/dev/null | head -c 524288 | cmp -s - /tmp/pattern; }
    if reads_it; then
        echo "vmm: guest reads what it wrote before the reboot"
        dd if=/tmp/pattern of=/dev/vda bs=64k conv=fsync 2>/dev/null
        echo 3 >/proc/sys/vm/drop_caches
        head -c 524288 /dev/vda | cmp - /tmp/pattern && echo "vmm: guest reads what it wrote after it"
    else
        # The reboot comes while the disk is busy.
        dd if=/tmp/pattern of=/dev/vda bs=1M seek=3 conv=fsync 2>/dev/null
        while :; do dd if=/dev/zero of=/dev/vda bs=64k count=32 conv=fsync; done 2>/dev/null &
        sleep 1
        echo "vmm: guest reboots now"
        reboot -f
    fi
    ;;
disk-sync)
    load_modules
    n=0
    while :; do
        n=$((n + 1))
        printf 'block %07d' $n | dd of=/dev/vda bs=512 seek=$n conv=fsync 2>/dev/null
        echo "vmm: guest synced $n"
    done
    ;;
disk-attach)
    load_modules
    size() {
        cat /sys/block/vda/size
    }
    # Waits until the disk has another size than $1.
    another_size() {
        for step in $(seq 1 800); do
            [ "$(size)" != "$1" ] && break
            sleep 0.1
        done
        echo "vmm: guest disk has $(size) sectors"
    }
    # To the sector $1.
    write() {
        printf 'disk %d' "$1" | dd of=/dev/vda bs=512 seek="$1" conv=fsync 2>/dev/null
    }
    read_all() {
        echo 3 >/proc/sys/vm/drop_caches
        sum=$(md5sum </dev/vda)
        echo "vmm: guest reads md5 ${sum%% *}"
    }
    write 0 && echo "vmm: guest wrote to its disk of $(size) sectors"
    another_size 8192
    echo "vmm: guest reads $(wc -c </dev/vda) bytes"
    write 0 || echo "vmm: guest cannot write"
    another_size 0
    read_all
    write 16383 && echo "vmm: guest wrote to its disk of $(size) sectors"
    another_size 16384
    read_all
    ;;
button)
    load_modules
    for step in $(seq 1 100); do
        [ -e /dev/input/event0 ] && break
        sleep 0.1
    done
    echo "vmm: guest waits for its power button"
    # struct input_event: 16 bytes of time, then type EV_KEY and code KEY_POWER.
    set -- $(head -c 24 /dev/input/event0 | od -An -v -t u2)
    [ "$9 ${10}" = "1 116" ] && echo "vmm: guest's power button was pressed"
    ;;
cpus)
    seen=0
    while :; do
        for cpu in /sys/devices/system/cpu/cpu[0-9]*/online; do
            [ "$(cat $cpu)" = 0 ] && echo 1 >$cpu
        done 2>/dev/null
        count=$(nproc)
        [ $count = $seen ] || echo "vmm: guest has $count CPU(s)"
        seen=$count
        sleep 0.2
    done
    ;;
busy)
    echo "vmm: guest is busy"
    while :; do :; done
    ;;
disk-bulk)
    load_modules
    # With its number, a MiB: no two of the disk's are alike.
    head -c $((1048576 - 13)) /dev/urandom >/tmp/piece
    pieces() {
        n=0
        while [ $n -lt "$mib" ]; do
            n=$((n + 1))
            printf 'piece %07d' $n
            cat /tmp/piece
        done
    }
    written=$(pieces | md5sum)
    # Whole pages: a part of one would be read first.
    pieces | dd of=/dev/vda bs=1M iflag=fullblock conv=fsync 2>/dev/null
    echo 3 >/proc/sys/vm/drop_caches
    read=$(dd if=/dev/vda bs=1M count="$mib" 2>/dev/null | md5sum)
    echo "vmm: guest wrote $mib MiB, md5 ${written%% *}"
    [ "$written" = "$read" ] && echo "vmm: guest reads what it wrote"
    ;;
disk-rate)
    # labx comes in an initrd of its own.
    load_modules
    echo "vmm: guest $(labx io /dev/vda "$mib" "$pages")"
    ;;
ext4)
    load_modules
    mount -t ext4 /dev/vda /root && grep /root /proc/mounts
    n=0
    while :; do
        n=$((n + 1))
        mkdir -p /root/$((n / 8))
        # Its directory entry is synced with it.
        seq $n $((n + 2000)) | dd of=/root/$((n / 8))/$n conv=fsync 2>/dev/null &&
            echo "vmm: guest synced $n"
    done
    ;;
clock)
    echo "vmm: guest clock is $(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
    # In hundredths of a second; a guest that is up for a second has no leading zero.
    sleep 1
    read -r now rest </proc/uptime
    last=${now%.*}${now#*.} ends=$((last + 1000)) largest=0
    echo "vmm: guest watches its clock"
    while [ "$last" -lt "$ends" ]; do
        read -r now rest </proc/uptime
        now=${now%.*}${now#*.}
        [ $((now - last)) -gt "$largest" ] && largest=$((now - last))
        last=$now
    done
    echo "vmm: guest clock made no step above $((largest * 10)) ms"
    ;;
reboot)
    reboot -f
    ;;
idle)
    while :; do sleep 3600; done
    ;;
*)
    echo "A busybox shell; leave it (exit, Ctrl-D) to power off, or Ctrl-A x to end the machine."
    setsid -c sh -l </dev/ttyS0 >/dev/ttyS0 2>&1
    ;;
esac
poweroff -f
