// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Lab checks of what is done to a running machine: its power button, vCPUs that come and go, the
//! execution cap, the ways in which a guest resets it. Each has a guest in the background and speaks to
//! its control socket.

use super::beside::beside;
use super::{Check, run, run_with_drivers};
use crate::lab::setup::Kernel;

const LIMIT_S: u32 = 240;

pub(super) fn checks() -> Vec<Check> {
    let mut checks = vec![cap(), dies_of_a_triple_fault()];
    for way in [Way::Acpi, Way::Keyboard, Way::TripleFault] {
        checks.push(reboot(way));
    }
    for guest in Kernel::ALL {
        checks.push(power_button(guest));
        checks.push(plug(guest));
    }
    checks
}

fn power_button(guest: Kernel) -> Check {
    let kernel = guest.name();
    let vmm = run_with_drivers(guest, "", "button");
    Check {
        name: format!("a pressed power button makes a guest with {kernel} shut itself down"),
        lab: Kernel::V6_12,
        cpus: 1,
        script: beside(
            &vmm,
            "told 'guest waits for its power button'
             ./vmm ctl vm.sock poweroff --graceful && echo 'the guest is off'",
            "",
        ),
        status: 0,
        says: vec![
            "vmm: guest's power button was pressed".into(),
            "the guest is off".into(),
        ],
        lacks: vec!["Kernel panic", "Call Trace", "cannot load", "never: "],
        limit_s: LIMIT_S,
        quick: guest == Kernel::V6_1,
    }
}

/// The guest counts its CPUs; what is plugged outlives a reset.
fn plug(guest: Kernel) -> Check {
    let kernel = guest.name();
    let vmm = run(
        &format!("vmlinux-{kernel}"),
        1,
        "256M",
        "--max-cpus 3",
        "cpus",
    );
    Check {
        name: format!("vCPUs come to a guest with {kernel}, go again, and outlive a reset"),
        lab: Kernel::V6_12,
        cpus: 2,
        script: beside(
            &vmm,
            "told 'guest has 1 CPU'
             ./vmm ctl vm.sock plug 2
             told 'guest has 2 CPU' && echo 'it came'
             ./vmm ctl vm.sock unplug 2
             told 'guest has 1 CPU' 2 && echo 'it went'
             ./vmm ctl vm.sock unplug 0 || echo 'the first one stays'
             ./vmm ctl vm.sock plug 1
             told 'guest has 2 CPU' 2 && echo 'another came'
             ./vmm ctl vm.sock reset
             told 'userspace reached.* 2 CPU' && echo 'it outlived a reset'
             ./vmm ctl vm.sock status
             ./vmm ctl vm.sock poweroff",
            "",
        ),
        status: 0,
        says: [
            "it came",
            "it went",
            "the first one stays",
            "another came",
            "it outlived a reset",
            "plugged [0,1]",
        ]
        .map(str::to_owned)
        .to_vec(),
        lacks: vec!["Kernel panic", "Call Trace", "never: "],
        limit_s: LIMIT_S,
        quick: guest == Kernel::V6_1,
    }
}

/// A guest that never rests uses no more CPU time than its cap allows, in slices of 100 ms.
fn cap() -> Check {
    let vmm = run("vmlinux-6.1", 1, "256M", "", "busy");
    Check {
        name: "a busy guest keeps to its execution cap".into(),
        lab: Kernel::V6_12,
        cpus: 2,
        script: beside(
            &vmm,
            "told 'guest is busy'
             ./vmm ctl vm.sock cap 25
             thread=$(./vmm ctl vm.sock --json status | sed 's/.*\"tids\":\\[\\([0-9]*\\).*/\\1/')
             used() { read -r line </proc/$machine/task/$thread/stat; set -- ${line##*) }; echo $((${12} + ${13})); }
             now() { read -r up idle </proc/uptime; echo ${up%.*}${up#*.}; }
             before=$(used) begun=$(now)
             sleep 10
             share=$(( ($(used) - before) * 100 / ($(now) - begun) ))
             echo \"the guest used $share percent of a CPU under a cap of 25\"
             [ $share -ge 1 ] && [ $share -le 30 ] && echo 'it keeps to its cap'
             ./vmm ctl vm.sock cap 0 || echo 'no cap of nothing'
             ./vmm ctl vm.sock poweroff",
            "",
        ),
        status: 0,
        says: ["it keeps to its cap", "no cap of nothing"]
            .map(str::to_owned)
            .to_vec(),
        lacks: vec!["Kernel panic", "Call Trace", "never: "],
        limit_s: LIMIT_S,
        quick: false,
    }
}

/// How Linux is told to reset the machine (`reboot=`).
#[derive(Clone, Copy)]
enum Way {
    Acpi,
    Keyboard,
    TripleFault,
}

impl Way {
    /// What is shown, the word for Linux, and what `vmm` is told.
    fn words(self) -> (&'static str, char, &'static str) {
        match self {
            Self::Acpi => ("the ACPI register", 'a', ""),
            Self::Keyboard => ("the keyboard controller", 'k', ""),
            Self::TripleFault => ("a triple fault", 't', "--set vm.on_triple_fault=reset"),
        }
    }
}

/// The guest reboots again and again, in one process and on the same threads.
fn reboot(way: Way) -> Check {
    let (name, word, options) = way.words();
    let vmm = run("vmlinux-6.1", 1, "256M", options, "reboot");
    let vmm = vmm.replace("panic=-1", &format!("panic=-1 reboot={word}"));
    Check {
        name: format!("a guest that resets the machine through {name} comes up again"),
        lab: Kernel::V6_12,
        cpus: 1,
        script: beside(
            &vmm,
            "tids() { ./vmm ctl vm.sock --json status | sed 's/.*\"tids\":\\([^]]*\\).*/\\1/'; }
             told 'userspace reached' && before=$(tids)
             told 'userspace reached' 3 && [ \"$(tids)\" = \"$before\" ] && echo 'on the same threads'
             ./vmm ctl vm.sock --json status
             ./vmm ctl vm.sock poweroff",
            "",
        ),
        status: 0,
        says: vec!["on the same threads".into()],
        lacks: vec!["Kernel panic", "Call Trace", "never: ", "\"hard_resets\":0"],
        limit_s: LIMIT_S,
        quick: false,
    }
}

/// Unless told otherwise the machine is kept, and shown.
fn dies_of_a_triple_fault() -> Check {
    let vmm = run("vmlinux-6.1", 1, "256M", "--bundle left", "reboot");
    let vmm = vmm.replace("panic=-1", "panic=-1 reboot=t");
    Check {
        name: "a guest that triple-faults is kept for inspection, and shown".into(),
        lab: Kernel::V6_12,
        cpus: 1,
        script: format!("{vmm}\nstatus=$?\nls left\nexit $status"),
        status: 4,
        says: ["the guest died", "triple fault", "report.txt"]
            .map(str::to_owned)
            .to_vec(),
        lacks: vec!["Kernel panic"],
        limit_s: LIMIT_S,
        quick: false,
    }
}
