// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The lifecycle cases, one line each, and those that do not apply with the reason why.
//!
//! Times are not part of a case: what is quick is shown by counts and order, and measured by the
//! benches.

use super::ids::{Id, List};

/// A family of cases.
#[derive(Debug)]
pub(crate) struct Family {
    pub(crate) list: List,
    pub(crate) letter: char,
    pub(crate) title: &'static str,
    /// Id, and what is to hold.
    pub(crate) cases: &'static [&'static str],
}

impl Family {
    /// The cases with their ids.
    pub(crate) fn cases(&self) -> impl Iterator<Item = (Id, &'static str)> {
        self.cases.iter().filter_map(|case| split(self.list, case))
    }
}

/// A line of a table here: its id and its text.
pub(crate) fn split(list: List, line: &str) -> Option<(Id, &str)> {
    let (id, text) = line.split_once(' ')?;
    Some((Id::of(list, id)?, text))
}

/// Families that tests may name without being listed here: letter, and how many cases there are.
pub(crate) const OTHERS: [(List, char, u32); 3] = [
    (List::SavedState, 'C', 35),
    (List::SavedState, 'L', 19),
    (List::SavedState, 'S', 24),
];

/// The families of lifecycle cases, whose every case is shown or does not apply.
pub(crate) const FAMILIES: [Family; 7] = [
    Family {
        list: List::Lifecycle,
        letter: 'S',
        title: "states and operations",
        cases: &STATES,
    },
    Family {
        list: List::Lifecycle,
        letter: 'Q',
        title: "requests",
        cases: &REQUESTS,
    },
    Family {
        list: List::Lifecycle,
        letter: 'R',
        title: "rendezvous",
        cases: &RENDEZVOUS,
    },
    Family {
        list: List::Lifecycle,
        letter: 'E',
        title: "EMTs, from creation to destroy",
        cases: &EMTS,
    },
    Family {
        list: List::Lifecycle,
        letter: 'M',
        title: "the run loop",
        cases: &LOOP,
    },
    Family {
        list: List::Lifecycle,
        letter: 'C',
        title: "observers and errors",
        cases: &ERRORS,
    },
    Family {
        list: List::Lifecycle,
        letter: 'P',
        title: "vCPUs that come and go, resets, reasons, handles",
        cases: &REST,
    },
];

const STATES: [&str; 35] = [
    "S01 of all pairs of states exactly the documented ones are legal moves",
    "S02 a refused move leaves state, history, observers and log as they were",
    "S03 power on: every vCPU starts, and devices are powered on once before RUNNING shows",
    "S04 power on of a running VM is refused and no device hears of it",
    "S05 suspend keeps its reason, and devices are quiet before SUSPENDED shows",
    "S06 a suspend whose reason is none of the reasons is refused before any EMT notices",
    "S07 a teleported VM says so until its first resume has succeeded",
    "S08 of two resumes at once one succeeds, and devices resume once",
    "S09 power off is accepted in each of its source states; it cancels a save only where one is \
     live",
    "S10 power off is refused in every other state",
    "S11 power off tells each device once, on EMT 0, when no vCPU executes any more",
    "S12 a hard reset of a running VM counts once, as hard, and ends running",
    "S13 a reset of a suspended VM ends suspended; after resume vCPU 0 starts anew and the others \
     wait",
    "S14 a hard reset during a live save ends suspended, and the save completes",
    "S15 a soft reset during a live save: the VM runs on and the save is not disturbed",
    "S16 where a reset is to power off: the VM ends, says so once, and counts no reset",
    "S17 where a reset is to power off and that is refused, nobody is told of an ending",
    "S18 a suspend during a live save keeps its reason, and the save completes",
    "S19 a power off during a live save ends the save; the VM is off and can be destroyed",
    "S20 a save that cannot open leaves the VM running",
    "S21 a teleport while a save writes is refused and leaves nothing behind",
    "S22 a good load of a created VM ends suspended and powers no device on",
    "S23 a load that fails with a unit's own error ends in LOAD_FAILURE with that error alone",
    "S24 a load that fails without one ends in LOAD_FAILURE with one general error",
    "S25 in LOAD_FAILURE nothing but power off is accepted",
    "S26 destroy tells TERMINATED, and later calls are refused",
    "S27 destroy from an EMT is refused and the VM stays off",
    "S28 destroy of a running VM is refused and it runs on",
    "S29 a guru on one vCPU takes all others out of the guest, and their EMTs rest",
    "S30 the EMTs of a VM in FATAL_ERROR rest",
    "S31 a fatal cause raised while a suspend waits for a device wins over SUSPENDED",
    "S32 a device that cannot power on leaves the VM created, with the device's error",
    "S33 a suspend waits for a device that takes its time: told once, priority requests served, \
     others not",
    "S34 a device that asks to be told first is suspended before its drivers and resumed after \
     them",
    "S35 each move writes one record, before observers hear of it",
];

const REQUESTS: [&str; 27] = [
    "Q01 a call runs on its EMT, answers, and counts once",
    "Q02 an op that fails answers its failure, and the EMT lives on",
    "Q03 a call from an EMT to itself runs inline",
    "Q04 a post from an EMT to anybody runs later, not inside",
    "Q05 what was queued while the EMT was busy runs in the order it came",
    "Q06 a priority request goes before all that has not begun",
    "Q07 a request that asks the loop for something ends processing, and the rest runs next time",
    "Q08 an answer that asks the loop for nothing does not end processing",
    "Q09 a failure is kept for its caller, and processing goes on",
    "Q10 a request that processes the queue loses nothing, repeats nothing, keeps the order",
    "Q11 many producers lose nothing, and each keeps its order",
    "Q12 each, ascending: on every EMT from 0 to the highest",
    "Q13 each, descending: from the highest to 0",
    "Q14 each goes on behind a vCPU that fails",
    "Q15 after a wait that reached its limit a further wait gets the answer",
    "Q16 a limit of zero only looks",
    "Q17 a request that is let go of while queued still runs",
    "Q18 request packets that are free are cached, up to a bound",
    "Q19 what is queued when the VM goes is killed, each exactly once",
    "Q20 a request takes a busy vCPU out of its guest",
    "Q21 a request reaches a halted vCPU, and its guest stays halted",
    "Q22 an EMT that waits for another takes part in that one's rendezvous",
    "Q23 two EMTs that call each other at once both get an answer",
    "Q24 an EMT does not sleep on what only it could run",
    "Q25 an ordinary request passed over by a priority wait runs when the wait is over",
    "Q26 a vCPU that does not exist is refused",
    "Q27 to another VM an EMT is a thread like any other",
];

const RENDEZVOUS: [&str; 23] = [
    "R01 descending: from the highest to 0, one at a time",
    "R02 ascending: from 0 to the highest",
    "R03 one by one: each once, never two together",
    "R04 together: all at the same time",
    "R05 once: exactly one callback",
    "R06 stop on error: the rest is skipped, and the initiator alone sees the failure",
    "R07 without it all run, and the first failure is the answer",
    "R08 every EMT leaves with the most urgent of what the callbacks asked for",
    "R09 a callback's answer outside the known codes is an error of the initiator",
    "R10 initiators at once have rounds of their own, one after the other",
    "R11 EMTs that initiate at once take part in each other's rounds",
    "R12 a nested round runs in the middle of its parent, which then goes on",
    "R13 rounds nest three deep; the next is refused and the parents complete",
    "R14 nothing nests where callbacks run together",
    "R15 a round nests inside once, on one EMT as on many",
    "R16 what a nested round asked for reaches the others' loops too",
    "R17 vCPUs that spin in the guest are fetched out of it",
    "R18 it works while vCPUs are halted, suspended or off",
    "R19 while a suspend waits for a device a priority rendezvous runs nested, and others wait",
    "R20 a callback that panics is the initiator's failure, and nobody hangs",
    "R21 one EMT goes the same way as many",
    "R22 many rounds of every kind beside running guests lose no wake-up",
    "R23 only EMTs that are still there are waited for",
];

const EMTS: [&str; 19] = [
    "E01 each EMT has its name and knows its vCPU; a foreign thread has none",
    "E02 the only EMT of a VM is called EMT",
    "E03 a create that fails at a later EMT leaves no thread and no memory",
    "E04 a create that fails in its constructor says why and joins every EMT",
    "E05 the EMTs of an idle VM rest",
    "E06 a suspended EMT wakes for a request and for a rendezvous",
    "E07 an interrupt does not wake a suspended EMT",
    "E08 no wake-up is lost between a ring and a wait",
    "E09 an interrupt ends a halt whose interrupts are on",
    "E10 an interrupt does not end a halt whose interrupts are off",
    "E11 destroy ends the EMTs from the highest to 0 and joins them",
    "E12 a handle that outlives the VM still answers",
    "E13 destroy goes on when taking a component down fails",
    "E14 a rendezvous during destroy runs on EMT 0 alone",
    "E15 a configuration that names no halt method gets the default",
    "E16 a halt method that does not exist fails the create",
    "E17 a vCPU executes nothing behind the access that asked to leave the guest",
    "E18 a reset asked for during a reset is done once more",
    "E19 an EMT whose wait fails is a guru, and the VM can be powered off and destroyed",
];

const LOOP: [&str; 16] = [
    "M01 what the loop is asked for merges to the most urgent, in any order",
    "M02 a guest that never exits by itself is suspended",
    "M03 no kick is lost between the last look and the entry, in a great many tries",
    "M04 requests that wait behind a suspend run all the same",
    "M05 of all that waits for an EMT the rendezvous is served first",
    "M06 a rendezvous raised in the pass that ends a halt is served in the next one",
    "M07 an access under way is neither lost nor doubled by suspend and save",
    "M08 a halted vCPU is halted still after suspend and resume",
    "M09 a vCPU that waits for its start-up waits still after suspend and resume",
    "M10 an INIT together with a reschedule ends in the wait for the start-up",
    "M11 a start-up sent to a vCPU that runs is ignored",
    "M12 a triple fault resets where the policy says so",
    "M13 a triple fault is a guru by default",
    "M14 an exit that the loop does not know is a guru with its code",
    "M15 a host without memory suspends the VM with a reason that says so",
    "M16 each source alone takes a spinning guest out",
];

const ERRORS: [&str; 20] = [
    "C01 observers are told in the order of their registration, all the same",
    "C02 of two registrations of one observer each ends by itself",
    "C03 an observer that is no function is refused",
    "C04 an observer that registers another: the order is kept",
    "C05 an observer that ends its own registration is not called again, and the others are",
    "C06 an observer that suspends is refused, and the state is consistent",
    "C07 a whole life is told, each change from where the one before led",
    "C08 which thread tells of which change",
    "C09 an operation that fails answers its caller, counts once and is told",
    "C10 an error that nobody listens to is counted, and in the log",
    "C11 an error from inside a listener is told too, both count, and nothing hangs",
    "C12 an error is told while a suspend waits for a device",
    "C13 a runtime error that suspends: the reason is kept, and it is told when the VM is suspended",
    "C14 the same of a suspended VM is told, and is no error",
    "C15 eight of them at once: all are told, one suspend, no error",
    "C16 a fatal runtime error: no guest code runs, and only power off is left",
    "C17 the same during a live save ends the save",
    "C18 a worker reports while it holds what an EMT waits for: it is told later",
    "C19 a runtime error that informs lets the VM run, and counts as what it is",
    "C20 a destroy that is refused beside transitions never hangs",
];

const REST: [&str; 21] = [
    "P01 a vCPU that is unplugged executes nothing and still comes to every rendezvous",
    "P02 a vCPU that does not exist can neither be plugged nor unplugged",
    "P03 the first vCPU cannot be unplugged",
    "P04 a vCPU unplugged while the VM is suspended does not execute after resume",
    "P05 a start-up sent to an unplugged vCPU is void, and one after plugging counts",
    "P06 a capped guest that never exits gets no more than its part of the time",
    "P07 a cap outside 1 to 100 is refused, and the old one stays",
    "P08 a capped vCPU serves requests and suspends while it waits",
    "P09 a configuration with such a cap creates nothing",
    "P10 hard and soft resets are counted apart",
    "P11 a device that asks for a soft reset gets one, and devices hear which",
    "P12 a soft reset becomes hard while another vCPU is active",
    "P13 a reset that the paravirtual interface asks for is hard",
    "P14 where a reset is to halt, the vCPU that asks halts and nothing is reset",
    "P15 a teleported VM says so until it is resumed",
    "P16 a save leaves the last reason of a suspend alone",
    "P17 a suspend that fails leaves the last reason alone",
    "P18 a handle may go before or after the VM; all is freed once",
    "P19 a configuration whose number of vCPUs is another than the caller's creates nothing",
    "P20 a VM without a name or an id has those of none",
    "P21 a device has the VM suspended, saved and powered off; if the save fails it stays suspended",
];

/// Cases without a test, and why: what they speak of does not exist by design, or ("not yet") is left
/// out whole until the part of the product that brings it.
pub(crate) const EXEMPT: &[&str] = &[
    "S06 the reason is an enum: no caller can name one that does not exist",
    "S22 not yet: nothing loads a state; it comes with the saved-state format",
    "S23 not yet: nothing loads a state; it comes with the saved-state format",
    "S24 not yet: nothing loads a state; it comes with the saved-state format",
    "S34 a device has no drivers below it and no say in the order: up in order of construction, \
     down in reverse",
    "Q18 there are no packets: a call lives on its caller's stack, a post in one box that is freed",
    "R09 callbacks answer a `Result` of a `Flow`: there is no number that could lie outside",
    "E13 taking a component down returns nothing that could fail",
    "E14 all EMTs live until the last component is down, so there is no time with EMT 0 alone",
    "E15 there are no halt methods to choose from: an EMT has one way to wait",
    "E16 there are no halt methods to choose from; an unknown key is reported by name",
    "E19 the wait is a loop around a futex and has no failure: an answer that is no wake-up makes \
     it look again",
    "M06 there is no pass with an order of flags: an EMT attends to all that rang before each \
     entry, and the engine injects interrupts",
    "M10 INIT and start-up are the engine's local APIC's: they are no requests, and no code of \
     the loop can hide them",
    "M11 INIT and start-up are the engine's local APIC's; the loop never sees them",
    "C02 a registration is a value of its own: dropping it ends that one, and there is no search for \
     an equal one",
    "C03 an observer is a closure: there is none that is no function",
    "C08 by decision no thread is promised: whoever comes to it tells, in order",
    "P12 the device that asks says which reset it is; a soft reset resets every vCPU, active or not",
    "P13 there is no paravirtual interface that asks for resets",
    "P18 a handle is counted by the language: none can be used after it has gone",
    "P19 the number of vCPUs is given in one place",
    "P20 a name is always there, and a VM has no other id",
];
