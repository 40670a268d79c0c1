// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A vCPU loop that is not ours answers requests: a call that borrows, a post, a limit, the end.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::{sync::mpsc, time::Duration};

use vm_emt::{Bell, Bells, Emt, Flow};
use vm_req::{CallError, Dest, Queues, Which};

/// Somebody's vCPU; requests get `&mut` of it, on its own thread.
struct MyVcpu {
    bell: Bell,
    rip: u64,
    next: Flow,
}

impl Emt for MyVcpu {
    fn bell(&self) -> &Bell {
        &self.bell
    }
    fn serve(&mut self) -> Flow {
        Flow::Continue // this vCPU never waits for another one
    }
    fn take_flow(&mut self) -> Flow {
        std::mem::take(&mut self.next)
    }
}

fn main() -> Result<(), CallError> {
    let bells = Bells::new(1);
    let queues = Queues::<MyVcpu>::new(bells.clone());
    let emt = std::thread::Builder::new().name("emt-0".into()).spawn({
        let (bells, queues) = (bells.clone(), queues.clone());
        move || {
            let bell = bells.enroll(0).expect("vCPU 0 is free");
            let mut me = MyVcpu {
                bell,
                rip: 0xfff0,
                next: Flow::Continue,
            };
            loop {
                me.bell.clear();
                if queues.process(&mut me, Which::All) == Flow::Stop {
                    break;
                }
                me.rip += 2; // stands for running the guest until something rings
                me.bell.park(None);
            }
        }
    });
    assert!(bells.wait_live(0, None), "no limit");

    let mut seen = Vec::new();
    queues.call(0, None, |me| seen.push(me.rip))?; // borrows, allocates nothing
    println!("call: rip {:#x}", seen[0]);

    let mut ticket = queues.post(Dest::Any, |me| me.bell.id());
    println!("post: ran on vCPU {}", ticket.wait(None)?);

    let (release, released) = mpsc::channel::<()>();
    let _busy = queues.post(Dest::Vcpu(0), move |_| released.recv().is_err());
    let late = queues.call(0, Some(Duration::from_millis(5)), |_| ());
    println!("limit: {}", late.expect_err("the vCPU is busy"));
    drop(release);

    queues.call(0, None, |me| me.next = Flow::Stop)?;
    emt.map(|thread| thread.join())
        .expect("it was started")
        .expect("it ended");
    println!(
        "end: {}",
        queues.call(0, None, |_| ()).expect_err("nobody is there")
    );
    println!("{:?}", queues.stats());
    Ok(())
}
