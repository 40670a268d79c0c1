// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A fan that counts, has a page and a timer on a clock that the example moves.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use vm_pdm::Timers;
use vm_pdm::info::{HELP, Infos};
use vm_pdm::stats::{Counter, Scope, Stats, Unit};

fn main() -> Result<(), Box<dyn Error>> {
    let source = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&source);
    let timers = Timers::driven(move || read.load(Ordering::SeqCst));
    let pass = |ms: u64| {
        source.fetch_add(ms * 1_000_000, Ordering::SeqCst);
        let fired = timers.fire_due();
        let ms = timers.clock().now_ns() / 1_000_000;
        println!("virtual clock at {ms} ms: {fired} callbacks");
    };

    // The fan turns every 10 ms of virtual time.
    let turns = Arc::new(Counter::new());
    let counted = Arc::clone(&turns);
    let timer = timers.timer("fan", move |firing| {
        counted.inc();
        firing.arm(firing.deadline_ns() + 10_000_000);
    })?;
    timer.arm_in(Duration::from_millis(10));

    let stats = Stats::new();
    let mut scope = Scope::new(&stats, "/device/fan");
    scope.part("turns", Unit::Occurrences, "of the fan", &turns, |t| t)?;

    let infos = Infos::new();
    let shown = Arc::clone(&turns);
    let guard = infos.register("fan", "a fan that turns", move |_, page| {
        writeln!(page, "turned {} times", shown.get())
    })?;

    pass(100);
    timers.run();
    pass(25);
    timers.hold();
    pass(1000);
    timers.run();
    pass(25);

    let limit = Duration::from_secs(5);
    print!("{}", infos.run(HELP, "", limit)?);
    print!("{}", infos.run("fan", "", limit)?);
    let snapshot = stats.snapshot(&"/device/*".parse()?);
    print!("{snapshot}{}", snapshot.openmetrics());
    drop(guard);
    match infos.run("fan", "", limit) {
        Ok(page) => print!("{page}"),
        Err(gone) => println!("{gone}"),
    }
    Ok(())
}
