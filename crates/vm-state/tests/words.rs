// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What people read: the names of causes and reasons, and what errors say.

use vm_state::{Cause, ResumeReason, StateCell, SuspendReason};

#[test]
fn each_suspend_reason_is_named_in_words() {
    let names = [
        (SuspendReason::User, "user"),
        (SuspendReason::Reconfigure, "reconfigure"),
        (SuspendReason::Vm, "vm"),
        (SuspendReason::RuntimeError, "runtime error"),
        (SuspendReason::HostSuspend, "host suspend"),
        (SuspendReason::HostBatteryLow, "host battery low"),
    ];
    for (reason, name) in names {
        assert_eq!(reason.to_string(), name);
        let cause = Cause::Suspend(reason).to_string();
        assert_eq!(cause, format!("suspend ({name})"));
    }
}

#[test]
fn each_resume_reason_is_named_in_words() {
    let names = [
        (ResumeReason::User, "user"),
        (ResumeReason::Reconfigure, "reconfigure"),
        (ResumeReason::HostResume, "host resume"),
        (ResumeReason::StateRestored, "state restored"),
        (ResumeReason::StateSaved, "state saved"),
        (ResumeReason::Teleported, "teleported"),
        (ResumeReason::TeleportFailed, "teleport failed"),
    ];
    for (reason, name) in names {
        assert_eq!(reason.to_string(), name);
        let cause = Cause::Resume(reason).to_string();
        assert_eq!(cause, format!("resume ({name})"));
    }
}

#[test]
fn a_cause_names_the_device_or_vcpu_it_came_from() {
    let names = [
        (Cause::User, "user"),
        (Cause::Guest, "guest"),
        (Cause::Device("disk"), "device disk"),
        (Cause::Vcpu(3), "vCPU 3"),
        (Cause::RuntimeError, "runtime error"),
        (Cause::Host, "host"),
        (Cause::Save, "save"),
        (Cause::Load, "load"),
        (Cause::Destroy, "destroy"),
        (Cause::Abandoned, "abandoned"),
    ];
    for (cause, name) in names {
        assert_eq!(cause.to_string(), name);
    }
}

#[test]
fn a_cell_shows_its_state_when_it_is_debugged() {
    let (cell, _creation) = StateCell::create();
    assert_eq!(format!("{cell:?}"), "StateCell(Creating)");
}
