// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Checks of a guest's time, most of them for a lab whose clock is driven by instructions.

use super::beside::beside;
use super::{BOOT_LIMIT_S, Check, run};
use crate::lab::qemu::COUNTED_CPU;
use crate::lab::setup::Kernel;

/// A guest's clock stands still while its machine is suspended, whatever it reads it from and with how
/// many vCPUs: what it says before and after 10 s of that is less than 50 ms apart.
pub(super) fn suspended() -> Vec<Check> {
    let cases = [("kvm-clock", 1), ("tsc", 1), ("kvm-clock", 2), ("tsc", 2)];
    let check = |(source, cpus)| {
        let vmm = counted(cpus, &watching(source));
        suspended_on(source, cpus, 1, &vmm, 50)
    };
    cases.map(check).into()
}

/// So does one that two vCPUs read on two processors of the host, in a lab whose clock is the host's: a
/// guest's steps are then as long as the load there makes them.
pub(super) fn suspended_smp() -> Check {
    let (source, cpus) = ("tsc", 2);
    let vmm = run("vmlinux-6.1", cpus, "256M", "", &watching(source));
    suspended_on(source, cpus, cpus, &vmm, 1000)
}

fn counted(cpus: u32, guest: &str) -> String {
    let options = format!("--cpu {COUNTED_CPU}");
    run("vmlinux-6.1", cpus, "256M", &options, guest)
}

fn watching(source: &str) -> String {
    format!("clock clocksource={source} tsc=reliable")
}

fn suspended_on(source: &str, cpus: u32, host_cpus: u32, vmm: &str, most_ms: u32) -> Check {
    let steps = "told 'guest watches its clock'
         ./vmm ctl vm.sock suspend
         before=$(labx now)
         sleep 10
         after=$(labx now)
         ./vmm ctl vm.sock resume
         echo \"suspended for $(( ${after%.*} - ${before%.*} )) s\"";
    let afterwards = format!(
        "step=$(sed -n 's/.*no step above \\([0-9]*\\) ms.*/\\1/p' output)
         [ ${{step:-{most_ms}}} -lt {most_ms} ] && echo 'its clock stood still'"
    );
    Check {
        name: format!(
            "a guest's clock, {source} of {cpus} vCPU, moves by less than {most_ms} ms over 10 s of suspension"
        ),
        lab: Kernel::V6_12,
        cpus: host_cpus,
        script: beside(vmm, steps, &afterwards),
        status: 0,
        says: vec![
            "SUSPENDED\n".into(),
            // 10 s, or some more where the host is busy.
            "suspended for 1".into(),
            format!("guest clock is {source}"),
            "its clock stood still".into(),
        ],
        lacks: vec!["Kernel panic", "Call Trace"],
        limit_s: 2 * host_cpus * BOOT_LIMIT_S,
        quick: false,
    }
}

/// A guest that does nothing is woken no more often than its kernel's tick (Debian: 250 Hz), asks the
/// VMM for nothing, and leaves the host's CPU to others.
pub(super) fn idle() -> Check {
    let steps = "told 'userspace reached'
         look() {
             ./vmm ctl vm.sock stats '/emt/0/exits/*|/engine/vcpu/0/*' >stats
             task=$(./vmm ctl vm.sock status | sed 's/.*threads .\\([0-9]*\\).*/\\1/')
             cpu=$(cut -d ' ' -f 1 /proc/$machine/task/$task/schedstat)
             asked=$(awk '$1 ~ \"/emt/0/exits/\" { n += $2 } END { print n + 0 }' stats)
             wakes=$(awk '$1 ~ \"/halt_wakeup$\" { print $2 }' stats)
             exits=$(awk '$1 == \"/engine/vcpu/0/exits\" { print $2 }' stats)
         }
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
         ./vmm ctl vm.sock destroy";
    let vmm = counted(1, "idle");
    Check {
        name: "an idle guest wakes no more than its tick".into(),
        lab: Kernel::V6_12,
        cpus: 1,
        script: beside(&vmm, steps, "cat stats"),
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
