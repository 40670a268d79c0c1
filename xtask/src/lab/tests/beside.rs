// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a check does in the lab while a guest runs there.

/// `wait_for COMMAND` waits until it succeeds, `told PATTERN [COUNT]` until the output has the pattern
/// so many times. What does not come is said, and why, as far as the VM knows: twice, to see what moves.
const WAIT: &str = "
    wait_for() {
        for step in $(seq 1 800); do
            \"$@\" && return 0
            sleep 0.1
        done
        echo \"never: $*\" >&2
        [ -S vm.sock ] || return 1
        for page in '' cpu irq timers ioapic com1 '' cpu irq com1; do
            ./vmm ctl vm.sock info $page >&2
        done
        ./vmm ctl vm.sock stats >&2
        return 1
    }
    says() {
        [ $(grep -c \"$2\" output) -ge $1 ]
    }
    told() {
        wait_for says ${2:-1} \"$1\"
    }
    touch output";

/// Starts a guest in the background: `$machine`, whose output is in `output`. The steps behind this may
/// wait with `told` and `wait_for`.
pub(super) fn start(vmm: &str) -> String {
    format!("{WAIT}\n{vmm} </dev/null >output 2>&1 &\nmachine=$!")
}

/// `steps` beside a guest that runs with a control socket, and `afterwards` when it has ended; the
/// status is the guest's.
pub(super) fn beside(vmm: &str, steps: &str, afterwards: &str) -> String {
    let start = start(&format!("{vmm} --control vm.sock"));
    format!(
        "{start}
         {steps}
         wait $machine
         status=$?
         cat output
         {afterwards}
         exit $status"
    )
}

/// Runs `vmm` and sends it `line` when its guest waits for one; its output is in `output`.
pub(super) fn type_a_line(vmm: &str, line: &str) -> String {
    format!(
        "{WAIT}
         mkfifo input
         (
             told 'guest waits for a line'
             echo '{line}'
         ) >input &
         {vmm} <input >output 2>&1
         status=$?"
    )
}
