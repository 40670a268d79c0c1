// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Checks of a guest's time, for a lab whose clock is driven by instructions.

use super::{BOOT_LIMIT_S, Check, run};
use crate::lab::setup::Kernel;

/// Starts the guest behind a control socket, and waits until it says `words`.
fn start(guest: &str, words: &str) -> String {
    let vmm = run("vmlinux-6.1", 1, "256M", "--control vm.sock", guest);
    format!(
        "{vmm} </dev/null >output 2>&1 &
         machine=$!
         for step in $(seq 1 500); do
             grep -q '{words}' output && break
             sleep 0.1
         done"
    )
}

/// A guest's clock stands still while its machine is suspended: what it reads before and after 10 s of
/// that is less than 50 ms apart.
pub(super) fn suspended() -> Check {
    let start = start("clock", "guest watches its clock");
    let script = format!(
        "{start}
         ./vmm ctl vm.sock suspend
         before=$(labx now)
         sleep 10
         after=$(labx now)
         ./vmm ctl vm.sock resume
         echo \"suspended for $(( ${{after%.*}} - ${{before%.*}} )) s\"
         wait $machine
         status=$?
         cat output
         step=$(sed -n 's/.*no step above \\([0-9]*\\) ms.*/\\1/p' output)
         [ ${{step:-50}} -lt 50 ] && echo 'its clock stood still'
         exit $status"
    );
    Check {
        name: "a guest's clock moves by less than 50 ms over 10 s of suspension".into(),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 0,
        says: ["SUSPENDED\n", "suspended for 10 s", "its clock stood still"]
            .map(str::to_owned)
            .to_vec(),
        lacks: vec!["Kernel panic", "Call Trace"],
        limit_s: BOOT_LIMIT_S,
        quick: false,
    }
}

/// A guest that does nothing is woken no more often than its kernel's tick (Debian: 250 Hz), asks the
/// VMM for nothing, and leaves the host's CPU to others.
pub(super) fn idle() -> Check {
    let start = start("idle", "userspace reached");
    let script = format!(
        "{start}
         look() {{
             ./vmm ctl vm.sock stats '/emt/0/exits/*|/engine/vcpu/0/*' >stats
             task=$(./vmm ctl vm.sock status | sed 's/.*threads .\\([0-9]*\\).*/\\1/')
             cpu=$(cut -d ' ' -f 1 /proc/$machine/task/$task/schedstat)
             asked=$(awk '$1 ~ \"/emt/0/exits/\" {{ n += $2 }} END {{ print n + 0 }}' stats)
             wakes=$(awk '$1 ~ \"/halt_wakeup$\" {{ print $2 }}' stats)
             exits=$(awk '$1 == \"/engine/vcpu/0/exits\" {{ print $2 }}' stats)
         }}
         sleep 3
         look
         cpu_before=$cpu asked_before=$asked wakes_before=$wakes exits_before=$exits
         sleep 10
         look
         cpu=$(((cpu - cpu_before) / 1000000)) asked=$((asked - asked_before))
         wakes=$((wakes - wakes_before)) exits=$((exits - exits_before))
         echo \"in 10 s: $wakes wakes, $exits exits, $asked to the VMM, $cpu ms of CPU time\"
         [ $wakes -gt 0 ] && [ $wakes -le 2500 ] && echo 'no more than its tick'
         [ $asked -le 10 ] && echo 'asks for nothing'
         [ $cpu -lt 1000 ] && echo 'leaves the CPU alone'
         ./vmm ctl vm.sock destroy
         wait $machine
         status=$?
         cat output stats
         exit $status"
    );
    Check {
        name: "an idle guest wakes no more than its tick".into(),
        lab: Kernel::V6_12,
        cpus: 1,
        script,
        status: 0,
        says: [
            "no more than its tick",
            "asks for nothing",
            "leaves the CPU alone",
        ]
        .map(str::to_owned)
        .to_vec(),
        lacks: vec!["Kernel panic", "Call Trace"],
        limit_s: BOOT_LIMIT_S,
        quick: false,
    }
}
