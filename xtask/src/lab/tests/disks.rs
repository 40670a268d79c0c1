// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Checks of a disk: what is written to it is there, also for the host, when the host is full, when
//! the guest reboots and when its machine is killed.

use super::beside::start;
use super::{BOOT_LIMIT_S, Check, run_with_drivers};
use crate::lab::setup::Kernel;

/// What the guest wrote is read back by the guest, past its cache, and by the host.
pub(super) fn carries(guest: Kernel) -> Check {
    let kernel = guest.name();
    let options = "--disk disk.img --disk other.img,ro --rng";
    let vmm = run_with_drivers(guest, options, "disk");
    let script = format!(
        "truncate -s 4M disk.img
         truncate -s 1M other.img
         {vmm}
         status=$?
         seq 1 200000 | head -c 1048576 >pattern
         dd if=disk.img bs=64k skip=1 count=16 2>/dev/null | cmp - pattern && echo 'the host reads it too'
         exit $status"
    );
    let says = [
        "vmm: guest disk has 8192 sectors, serial disk0",
        "vmm: guest reads what it wrote",
        "vmm: guest disks that are read-only: 0 1",
        "vmm: guest read 100 bytes of entropy",
        "the host reads it too",
    ];
    Check {
        name: format!("a disk and entropy reach a guest with {kernel}"),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 0,
        says: says.map(str::to_owned).to_vec(),
        lacks: vec!["Kernel panic", "Call Trace", "cannot load", "I/O error"],
        limit_s: BOOT_LIMIT_S,
        quick: guest == Kernel::V6_1,
    }
}

/// A host without room suspends the machine; with room it goes on, and the guest has noticed nothing.
pub(super) fn full_host(guest: Kernel) -> Check {
    let kernel = guest.name();
    let options = "--disk full/disk.img --control vm.sock";
    let start = start(&run_with_drivers(guest, options, "disk-full"));
    let script = format!(
        "mkdir -p full
         mount -t tmpfs -o size=1m full full
         truncate -s 4M full/disk.img
         {start}
         wait_for [ -S vm.sock ]
         ./vmm ctl vm.sock events >events &
         is_suspended() {{
             ./vmm ctl vm.sock --json status 2>/dev/null >status
             grep -q SUSPENDED status
         }}
         wait_for is_suspended
         cat status
         ./vmm ctl vm.sock status
         echo 'before there is room:'
         cat output
         mount -o remount,size=8m full
         ./vmm ctl vm.sock resume && echo 'resumed'
         wait $machine
         status=$?
         cat output
         seq 1 400000 | head -c 2097152 >pattern
         head -c 2097152 full/disk.img | cmp - pattern && echo 'the host reads it too'
         umount full
         sed 's/^/events: /' events
         exit $status"
    );
    let says = [
        "SUSPENDED",
        "0 bytes are free on its file system: make space, then resume (DiskFull)",
        "vmm: guest wrote it all",
        "vmm: guest reads what it wrote",
        "the host reads it too",
        "events: error: disk0: full/disk.img",
    ];
    Check {
        name: format!(
            "a full host suspends a machine with {kernel}, which goes on when there is room"
        ),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 0,
        says: says.map(str::to_owned).to_vec(),
        lacks: vec!["Kernel panic", "Call Trace", "cannot load", "I/O error"],
        limit_s: BOOT_LIMIT_S,
        quick: true,
    }
}

/// What was synced before a reset is there after it, and the disk works again. A kernel that shuts down
/// may give up a write that is under way, and says so: that is its own doing.
pub(super) fn rebooted() -> Check {
    let vmm = run_with_drivers(Kernel::V6_1, "--disk disk.img", "disk-reboot");
    Check {
        name: "a guest that reboots while it writes to a disk has it back".into(),
        lab: Kernel::V6_12,
        cpus: 1,
        script: format!(
            "truncate -s 4M disk.img
             {vmm} </dev/null >output 2>&1
             status=$?
             cat output
             sed '/guest reboots now/,/userspace reached/d' output >up
             [ $(grep -c 'userspace reached' output) -eq 2 ] && echo 'it came up twice'
             grep -q 'I/O error' up || echo 'no disk failed while it was up'
             seq 1 200000 | head -c 524288 >pattern
             dd if=disk.img bs=1M skip=3 2>/dev/null | head -c 524288 | cmp - pattern &&
                 echo 'the host reads it too'
             exit $status"
        ),
        status: 0,
        says: [
            "vmm: guest reads what it wrote before the reboot",
            "vmm: guest reads what it wrote after it",
            "it came up twice",
            "no disk failed while it was up",
            "the host reads it too",
        ]
        .map(str::to_owned)
        .to_vec(),
        lacks: vec!["Kernel panic", "Call Trace", "cannot load"],
        limit_s: BOOT_LIMIT_S,
        quick: false,
    }
}

/// Every block that the guest had synced when its machine was killed is in the image.
pub(super) fn killed() -> Check {
    let start = start(&run_with_drivers(
        Kernel::V6_1,
        "--disk disk.img",
        "disk-sync",
    ));
    let script = format!(
        "truncate -s 4M disk.img
         {start}
         told 'guest synced 40'
         kill -KILL $machine
         wait $machine
         status=$?
         cat output
         last=$(sed -n 's/.*guest synced \\([0-9]*\\).*/\\1/p' output | tail -n 1)
         found=0
         for n in $(seq 1 $last); do
             block=$(dd if=disk.img bs=512 skip=$n count=1 2>/dev/null | head -c 13)
             [ \"$block\" = \"$(printf 'block %07d' $n)\" ] && found=$((found + 1))
         done
         [ ${{last:-0}} -ge 40 ] && [ $found -eq $last ] && echo 'every synced block is there'
         exit $status"
    );
    Check {
        name: "what a guest synced to a disk outlives a killed machine".into(),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 137,
        says: vec!["every synced block is there".into()],
        lacks: vec!["Kernel panic", "Call Trace", "cannot load", "I/O error"],
        limit_s: BOOT_LIMIT_S,
        quick: false,
    }
}
