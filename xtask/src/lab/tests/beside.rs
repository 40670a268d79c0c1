// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a check does in the lab while a guest runs there.

/// Waits until the output has `pattern` so many times; says so if it does not come, and why, as far as
/// the VM knows: twice, to see what moves.
const WAIT: &str = "
    told() {
        for step in $(seq 1 1200); do
            [ $(grep -c \"$1\" output) -ge ${2:-1} ] && return 0
            sleep 0.1
        done
        echo \"never: $1\"
        for page in '' cpu irq timers ioapic com1 '' cpu irq com1; do
            ./vmm ctl vm.sock info $page
        done
        ./vmm ctl vm.sock stats
        return 1
    }";

/// `steps` beside a guest that runs with a control socket, and `afterwards` when it has ended; the
/// status is the guest's. `told PATTERN [COUNT]` is a step that waits.
pub(super) fn beside(vmm: &str, steps: &str, afterwards: &str) -> String {
    format!(
        "{WAIT}
         touch output
         {vmm} --control vm.sock </dev/null >output 2>&1 &
         machine=$!
         {steps}
         wait $machine
         status=$?
         cat output
         {afterwards}
         exit $status"
    )
}
