// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Checks of what a guest keeps on a disk: its file system after its machine was killed, and bytes
//! in bulk. Each is judged from outside too, by programs that are not ours.

use super::beside::start;
use super::{BOOT_LIMIT_S, Check, run_with_drivers};
use crate::lab::e2fs;
use crate::lab::setup::Kernel;

/// How many files must be synced before the machine is killed.
const FILES: u32 = 40;

/// Every file that the guest had synced when its machine was killed is there, whole, in a file system
/// that needs no more than its journal replayed.
pub(super) fn ext4_killed() -> Check {
    let start = start(&run_with_drivers(Kernel::V6_1, "--disk disk.img", "ext4"));
    let [mke2fs, e2fsck, debugfs] = ["mke2fs", "e2fsck", "debugfs"].map(e2fs::call);
    let script = format!(
        "cpio -id <e2fs.cpio 2>/dev/null
         truncate -s 32M disk.img
         {mke2fs} -q -t ext4 -J size=4 disk.img || exit 1
         {start}
         told 'guest synced {FILES}'
         kill -KILL $machine
         wait $machine
         status=$?
         cat output
         {e2fsck} -y -E journal_only disk.img
         {e2fsck} -fn disk.img && echo 'nothing to repair'
         last=$(sed -n 's/.*guest synced \\([0-9]*\\).*/\\1/p' output | tail -n 1)
         for n in $(seq 1 ${{last:-0}}); do
             echo \"dump /$((n / 8))/$n out-$n\"
         done >commands
         {debugfs} -f commands disk.img >/dev/null
         whole=0
         for n in $(seq 1 ${{last:-0}}); do
             seq $n $((n + 2000)) | cmp -s - out-$n && whole=$((whole + 1))
         done
         echo \"$whole of $last synced files are whole\"
         [ ${{last:-0}} -ge {FILES} ] && [ $whole -eq $last ] && echo 'every synced file is there'
         exit $status"
    );
    Check {
        name: "an ext4 file system outlives a killed machine with every synced file".into(),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 137,
        says: vec![
            "nothing to repair".into(),
            "every synced file is there".into(),
        ],
        lacks: vec!["Kernel panic", "Call Trace", "cannot load", "I/O error"],
        limit_s: BOOT_LIMIT_S,
        quick: false,
    }
}

/// The guest's checksum of what it wrote, of what it read back past its cache, and the lab's of the
/// image are the same.
pub(super) fn checksums(mib: u32) -> Check {
    let vmm = run_with_drivers(Kernel::V6_1, "--disk disk.img", "disk-bulk");
    let vmm = vmm.replace("guest=", &format!("mib={mib} guest="));
    let script = format!(
        "truncate -s {mib}M disk.img
         {vmm} </dev/null >output 2>&1
         status=$?
         cat output
         sum=$(md5sum <disk.img)
         echo \"the image has md5 ${{sum%% *}}\"
         grep -q \"guest wrote {mib} MiB, md5 ${{sum%% *}}\" output && echo 'all three are the same'
         rm disk.img
         exit $status"
    );
    Check {
        name: format!("checksums of {mib} MiB written and read are the same inside and outside"),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 0,
        says: vec![
            "vmm: guest reads what it wrote".into(),
            "all three are the same".into(),
        ],
        lacks: vec!["Kernel panic", "Call Trace", "cannot load", "I/O error"],
        // A crowded host carries half a MiB a second.
        limit_s: BOOT_LIMIT_S + 2 * mib,
        quick: false,
    }
}
