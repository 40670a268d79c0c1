// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Vcpu loops that are not ours meet: in order, all at once, with a failure, and for the last time.

#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Mutex;
use vm_emt::{Bell, Bells, Emt, Flow};
use vm_rendezvous::{How, MeetError, Rendezvous};

struct MyVcpu {
    bell: Bell,
}

impl Emt for MyVcpu {
    fn bell(&self) -> &Bell {
        &self.bell
    }
    fn serve(&mut self) -> Flow {
        Flow::Continue // this vCPU never waits for another one
    }
}

fn main() -> Result<(), MeetError<String>> {
    const VCPUS: u32 = 4;
    let bells = Bells::new(VCPUS);
    let rendezvous = Rendezvous::<MyVcpu>::new(bells.clone());
    std::thread::scope(|scope| {
        for v in 0..VCPUS {
            let (bells, rendezvous) = (&bells, &rendezvous);
            scope.spawn(move || {
                let mut me = MyVcpu {
                    bell: bells.enroll(v).expect("it is free"),
                };
                loop {
                    me.bell.clear();
                    if rendezvous.attend(&mut me) == Flow::Stop {
                        break;
                    }
                    me.bell.park(None); // a real loop runs its guest here
                }
            });
            assert!(bells.wait_live(v, None), "no limit");
        }

        let order = Mutex::new(Vec::new()); // callbacks may borrow
        let met = rendezvous.meet(How::descending(), |me| {
            order.lock().expect("no panic").push(me.bell.id());
            Ok::<_, String>(Flow::Continue)
        })?;
        println!(
            "descending: {:?}, {} held",
            order.lock().expect("no panic"),
            met.held
        );

        let met = rendezvous.meet(How::once(), |_| Ok::<_, String>(Flow::Look))?;
        println!(
            "once: {} of {} ran, all leave with {:?}",
            met.ran, met.held, met.flow
        );

        let failed = rendezvous.meet(How::ascending().stop_on_error(), |me| match me.bell.id() {
            2 => Err("not today".to_owned()),
            _ => Ok(Flow::Continue),
        });
        println!("stop on error: {failed:?}");

        let met = rendezvous.meet(How::together(), |_| Ok::<_, String>(Flow::Stop))?;
        println!("together: {} ran and left the VM", met.ran);
        Ok(())
    })?;
    let nobody = rendezvous.meet(How::once(), |_| Ok::<_, String>(Flow::Continue));
    println!(
        "afterwards: {}",
        nobody.map_or_else(|error| error.to_string(), |_| "met".into())
    );
    Ok(())
}
