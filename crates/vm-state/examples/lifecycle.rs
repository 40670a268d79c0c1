// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A vCPU loop that is not ours, a plain thread, led through a life by the state alone.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::{sync::Arc, thread};
use vm_state::{Cause, State, StateCell, SuspendReason, operations, operations::Operation};

type Any = Box<dyn std::error::Error>;

/// Somebody else's vCPU: runs "guest code" while the VM runs, waits while it does not. The guest
/// switches itself off once its power button is pressed.
fn vcpu(cell: &Arc<StateCell>, button: &AtomicBool) -> Result<(), String> {
    while !button.load(Ordering::SeqCst) {
        cell.wait_until(State::is_running, None)
            .map_err(|error| error.to_string())?;
        while cell.read().is_running() && !button.load(Ordering::SeqCst) {
            std::hint::spin_loop(); // guest code
        }
    }
    perform(cell, operations::POWER_OFF, Cause::Guest, State::Off).map_err(|e| e.to_string())
}

/// One operation: begun, carried out, committed.
fn perform(cell: &Arc<StateCell>, what: Operation, why: Cause, to: State) -> Result<(), Any> {
    let transition = cell.begin(what.moves, why)?;
    // Here a VMM would tell its devices. If that failed, `?` would drop and so undo the transition.
    transition.commit(to)?;
    Ok(())
}

fn main() -> Result<(), Any> {
    let (cell, creation) = StateCell::create();
    let _watching = cell.observe(|change| {
        println!(
            "{:>2}  {} -> {}  ({})",
            change.sequence, change.old, change.new, change.cause
        );
    });
    creation.commit(State::Created)?;

    let (theirs, button) = (Arc::clone(&cell), Arc::new(AtomicBool::new(false)));
    let pressed = Arc::clone(&button);
    let emt = thread::Builder::new()
        .name("emt-0".into())
        .spawn(move || vcpu(&theirs, &pressed))?;

    perform(&cell, operations::POWER_ON, Cause::User, State::Running)?;
    let reason = Cause::Suspend(SuspendReason::User);
    perform(&cell, operations::SUSPEND, reason, State::Suspended)?;

    let again = cell.begin(operations::SUSPEND.moves, reason).map(|_| ());
    println!(
        "    suspend again: {}",
        again.err().ok_or("it was already suspended")?
    );

    drop(cell.begin(operations::RESUME.moves, Cause::User)?); // a device would not resume
    println!("    the failed resume left it {}", cell.read());

    perform(&cell, operations::RESUME, Cause::User, State::Running)?;
    button.store(true, Ordering::SeqCst);
    cell.wait_until(|state| state == State::Off, None)?;
    emt.join().map_err(|_| "the vCPU thread panicked")??;
    perform(
        &cell,
        operations::DESTROY,
        Cause::Destroy,
        State::Terminated,
    )
}
