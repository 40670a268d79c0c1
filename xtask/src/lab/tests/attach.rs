// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A check of a disk whose image comes and goes while Linux works with it.

use super::beside::beside;
use super::{BOOT_LIMIT_S, Check, run_with_drivers};
use crate::lab::setup::Kernel;

/// The guest writes to its disk, finds it empty, then another of another size, whose bytes it reads,
/// and after a suspend a third. Each image has what was written to it and no more.
pub(super) fn images(guest: Kernel) -> Check {
    let kernel = guest.name();
    let vmm = run_with_drivers(guest, "--disk first.img", "disk-attach");
    let images = "truncate -s 4M first.img
         seq 1 2000000 | head -c 8388608 >second.img
         seq 3 300000 | head -c 1048576 >third.img
         second=$(md5sum <second.img)
         third=$(md5sum <third.img)";
    let steps = "told 'guest wrote to its disk of 8192 sectors'
         ./vmm ctl vm.sock events >events &
         wait_for [ -s events ]
         ./vmm ctl vm.sock detach disk0
         told 'guest disk has 0 sectors'
         told 'guest cannot write'
         ./vmm ctl vm.sock attach disk0 second.img
         told \"guest reads md5 ${second%% *}\" && echo 'the guest reads the second image'
         told 'guest wrote to its disk of 16384 sectors'
         ./vmm ctl vm.sock info disk0
         ./vmm ctl vm.sock suspend
         ./vmm ctl vm.sock attach disk0 third.img --replace
         ./vmm ctl vm.sock resume
         told \"guest reads md5 ${third%% *}\" && echo 'the guest reads the third image'";
    let afterwards =
        "[ \"$(head -c 5 first.img)\" = 'disk ' ] && echo 'what was written is in the first image'
         [ \"$(tail -c 512 second.img | head -c 5)\" = 'disk ' ] && echo 'and in the second'
         [ \"$(md5sum <third.img)\" = \"$third\" ] && echo 'and not in the third'
         sed 's/^/events: /' events";
    let script = format!("{images}\n{}", beside(&vmm, steps, afterwards));
    let says = [
        "disk0: nothing attached",
        "second.img, 16384 sectors",
        "second.img (16384 sectors, read-write)",
        "third.img, 2048 sectors",
        "vmm: guest disk has 0 sectors",
        "vmm: guest reads 0 bytes",
        "vmm: guest cannot write",
        "vmm: guest disk has 16384 sectors",
        "vmm: guest disk has 2048 sectors",
        "the guest reads the second image",
        "the guest reads the third image",
        "what was written is in the first image",
        "and in the second",
        "and not in the third",
        "events: disk0: nothing attached",
    ];
    Check {
        name: format!("a disk's image comes and goes while a guest with {kernel} works with it"),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 0,
        says: says.map(str::to_owned).to_vec(),
        lacks: vec!["Kernel panic", "Call Trace", "cannot load", "never: "],
        limit_s: 2 * BOOT_LIMIT_S,
        quick: false,
    }
}
