// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Checks of a disk whose image, and of a console whose other end, come and go while Linux works with
//! them.

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

/// The guest says a word to a file, answers what is typed at a terminal attached meanwhile, talks to
/// nobody, and after a suspend to the terminal again. What a terminal is made of here is telnet.
pub(super) fn ends(guest: Kernel) -> Check {
    let kernel = guest.name();
    let vmm = run_with_drivers(guest, "--console virtio:first.log", "console-echo");
    let terminal = "printf '#!/bin/sh\\nstty raw -echo\\ntty >terminal\\nexec sleep 1000\\n' >hold
         chmod +x hold
         mkfifo typed
         ip link set lo up
         telnetd -F -p 23 -l ./hold &
         telnet=$!
         trap 'kill $telnet' EXIT
         for step in $(seq 1 100); do
             [ -s terminal ] && break
             nc 127.0.0.1 23 <typed >screen &
             exec 4>typed
             sleep 0.5
         done
         terminal=$(cat terminal)
         shown() {
             wait_for grep -aq \"$1\" screen
         }";
    let steps = "told 'guest waits for lines'
         ./vmm ctl vm.sock attach console0 $terminal --replace
         echo one >&4
         shown 'guest heard one' && echo 'the terminal shows one'
         ./vmm ctl vm.sock info console0
         ./vmm ctl vm.sock attach console0 second.log --replace
         ./vmm ctl vm.sock suspend
         ./vmm ctl vm.sock attach console0 $terminal --replace
         echo two >&4
         ./vmm ctl vm.sock resume
         shown 'guest heard two' && echo 'the terminal shows two'
         ./vmm ctl vm.sock detach console0
         ./vmm ctl vm.sock attach console0 $terminal
         echo end >&4";
    let afterwards =
        "[ \"$(cat first.log)\" = 'guest is here' ] && echo 'the file has the first word'
         [ -e second.log ] && [ ! -s second.log ] && echo 'and another file none'";
    let script = format!("{terminal}\n{}", beside(&vmm, steps, afterwards));
    let says = [
        "console0: /dev/pts/",
        "attached: /dev/pts/",
        "the terminal shows one",
        "the terminal shows two",
        "console0: nothing attached",
        "vmm: guest read [one]",
        "vmm: guest read [two]",
        "vmm: guest read [end]",
        "the file has the first word",
        "and another file none",
    ];
    Check {
        name: format!(
            "a console's end comes and goes while a guest with {kernel} talks and listens"
        ),
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
