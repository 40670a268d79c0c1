// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The cases of saved states and devices that are settled one by one: pipelines, devices, the
//! configuration tree, accesses, time, statistics and pages, and those that do not apply with the reason why.

use super::cases::Family;
use super::ids::List;

/// The families.
pub(crate) const FAMILIES: [Family; 7] = [
    Family {
        list: List::SavedState,
        letter: 'V',
        title: "pipelines",
        cases: &PIPELINES,
    },
    Family {
        list: List::SavedState,
        letter: 'P',
        title: "devices",
        cases: &DEVICES,
    },
    Family {
        list: List::SavedState,
        letter: 'F',
        title: "the configuration tree",
        cases: &TREE,
    },
    Family {
        list: List::SavedState,
        letter: 'I',
        title: "port and memory accesses",
        cases: &ACCESSES,
    },
    Family {
        list: List::SavedState,
        letter: 'M',
        title: "time",
        cases: &TIME,
    },
    Family {
        list: List::SavedState,
        letter: 'T',
        title: "statistics",
        cases: &STATISTICS,
    },
    Family {
        list: List::SavedState,
        letter: 'D',
        title: "info pages",
        cases: &PAGES,
    },
];

/// V: pipelines.
const PIPELINES: [&str; 10] = [
    "V01 wherever a creation fails, exactly what was up goes down in reverse, and no thread, \
     descriptor or mapping stays",
    "V02 destroy is the exact reverse of create",
    "V03 the rounds of completion come when all is up, in order; the first failure ends them",
    "V04 hard and soft resets reach the parts in their orders",
    "V05 a reset of a suspended VM ends suspended",
    "V06 where a reset is to power off: the VM is off and its end is told; a soft reset is still one",
    "V07 destroy is accepted in OFF alone",
    "V08 a destroy that an EMT does not come to is bounded and names it, and frees nothing under it",
    "V09 requests that wait when the VM goes each end once, and nobody hangs",
    "V10 a vCPU that was given up and is plugged again waits for its start-up",
];

/// P: devices.
const DEVICES: [&str; 17] = [
    "P01 devices come up in their order, and go down in reverse",
    "P02 a device that cannot be made takes those before it down in reverse, and its text is kept",
    "P03 a device that is unknown, has no number or is one too many is refused",
    "P04 a driver that is missing, there already, or cannot come or go at run time is refused",
    "P05 a device with drivers below it: the order of suspend, resume, reset and power off",
    "P06 a device that takes its time holds up no other, and the VM is suspended when it is done",
    "P07 a driver that takes its time: those below it and its device wait, others go on",
    "P08 a device that never finishes is named, and the VM is in a defined state",
    "P09 taking time where that is not possible is refused",
    "P10 power off of a suspended VM tells each device once, and suspends none again",
    "P11 a VM whose state was loaded starts by resume, never by power on",
    "P12 a driver that came while the VM ran is suspended with it",
    "P13 a device's thread that ignores a suspend is named within a limit",
    "P14 a queue keeps its order when it is flushed twice, and says when it is full",
    "P15 a device that asks for a reset gets the kind it asks for, and none where resets halt",
    "P16 what is pending of interrupts comes through save and load for each vCPU",
    "P17 a state with one device more or fewer is refused by its name",
];

/// F: the configuration tree.
const TREE: [&str; 9] = [
    "F01 a section or key that is there twice is refused",
    "F02 a value that is absent, of the wrong type or out of range: the default, or an error that \
     says which",
    "F03 a path that is none is refused; case counts",
    "F04 a reader has no way to its parent",
    "F05 an unknown key is named with its path, its place and the nearest one",
    "F06 a number of vCPUs other than the caller's creates nothing",
    "F07 a secret is never shown",
    "F08 numbered sections come in the order of their numbers",
    "F09 a cap outside 1 to 100 is refused",
];

/// I: port and memory accesses.
const ACCESSES: [&str; 7] = [
    "I01 what nobody owns reads as all ones and swallows writes; so does a size no bus carries",
    "I02 of two ranges that overlap the second is refused, and both owners are named",
    "I03 an access across two ranges, or the end of one, is split into bytes; unclaimed ones are ones",
    "I04 a range registered after the tables are frozen is refused, and not before all devices are up",
    "I05 an access of another size than a device takes is served as the range's mode says",
    "I06 accesses of four vCPUs at once are neither lost, torn nor misdirected, and no table is locked",
    "I07 a read that a vCPU left unfinished is completed once, over suspend and resume",
];

/// M: time.
const TIME: [&str; 6] = [
    "M01 while the VM is suspended virtual time stays and real time goes on",
    "M02 a timer that is saved and loaded fires after what was left of virtual time",
    "M03 a synchronous clock that lags catches up by the table, gives up, and never goes back",
    "M04 time warped by a factor goes on without a jump on every vCPU",
    "M05 a load with another frequency, or a timer in no state there is, is refused",
    "M06 the differences of the vCPUs' time stamps are the same after save and load",
];

/// T: statistics.
const STATISTICS: [&str; 5] = [
    "T01 what is no path, too long or taken is refused, and says which",
    "T02 a reset by pattern clears what can be reset; a listing is sorted",
    "T03 a sample whose guard is dropped during a snapshot is whole in it or absent",
    "T04 names and units with markup come through every format whole",
    "T05 a reset of the VM leaves the counters as they are",
];

/// D: info pages.
const PAGES: [&str; 4] = [
    "D01 a second handler of a name is refused",
    "D02 an unknown name, a panic or lateness is an error of the caller's, and the VM is as it was",
    "D03 a power off logs registers and timers once, and nothing after a guru",
    "D04 the handlers of a device that is gone are gone from the list",
];

/// Those that do not apply, or not yet.
pub(crate) const EXEMPT: &[&str] = &[
    "P03 devices are made by the board, which is code: no name or number is read from anywhere",
    "P05 a device has no drivers below it: up in order of construction, down in reverse",
    "P07 a device has no drivers below it: a device waits for its own work alone",
    "P09 a device takes time by what its own hook leaves pending: there is no call to make elsewhere",
    "P11 not yet: nothing loads a state; it comes with the saved-state format",
    "P13 a device's threads are its own: it is pending until they rest, which P08 bounds and names",
    "P14 there is no queue beside a device's own: what an access asks for, its EMT does in order",
    "P16 not yet: nothing loads a state; it comes with the saved-state format",
    "P17 not yet: nothing loads a state; it comes with the saved-state format",
    "F04 a reader gets its section by value, and a section has no call that leads up",
    "F06 the number of vCPUs is given in one place",
    "F07 there is no secret in a configuration; the type for one comes with what needs it",
    "I04 the tables are built once, from a builder that is used up: by its type nothing can be \
     registered afterwards",
    "I05 a range has no mode: what lies in one range reaches its handler as it is, and the \
     handler knows its own sizes",
    "M03 there is one clock, which stops with the VM and catches up with nothing",
    "M04 time is not warped: no guest could be told on every clock it has",
    "M05 not yet: nothing loads a state; it comes with the saved-state format",
    "M06 not yet: nothing loads a state; it comes with the saved-state format",
];
