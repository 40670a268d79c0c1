// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Names, bad handlers and what their callers get.

use super::*;
use std::sync::mpsc::channel;

const LONG: Duration = Duration::from_secs(60);

fn with(
    handler: impl Fn(&Asked, &mut Page) -> fmt::Result + Send + Sync + 'static,
) -> (Infos, InfoGuard) {
    let infos = Infos::new();
    let guard = infos.register("x", "about x", handler).unwrap();
    (infos, guard)
}

#[test]
fn a_handler_gets_its_arguments_and_its_page_comes_back() {
    let (infos, _guard) = with(|asked, page| write!(page, "<{}>", asked.args));
    assert_eq!(infos.run("x", "a b", LONG).unwrap(), "<a b>");
    assert_eq!(infos.run("x", "", Duration::MAX).unwrap(), "<>");
}

#[test]
fn sd_d01_a_second_handler_of_a_name_is_refused_and_the_first_stays() {
    let (infos, _guard) = with(|_, page| page.write_str("first"));
    let second = infos.register("x", "", |_, page| page.write_str("second"));
    assert!(matches!(second, Err(InfoError::Exists { name }) if name == "x"));
    assert_eq!(infos.run("x", "", LONG).unwrap(), "first");
}

#[test]
fn what_is_no_name_is_refused() {
    let infos = Infos::new();
    for name in ["", HELP, "A", "a b", "a/b", "\u{e9}", &"x".repeat(65)] {
        let refused = infos.register(name, "", |_, _| Ok(()));
        assert!(
            matches!(refused, Err(InfoError::InvalidName { .. })),
            "{name:?}"
        );
    }
}

#[test]
fn sd_d02_an_unknown_name_is_not_found_and_the_known_ones_are_named() {
    let (infos, _guard) = with(|_, _| Ok(()));
    let error = infos.run("y", "", LONG).unwrap_err();
    assert!(
        matches!(&error, InfoError::NotFound { known, .. } if known == "help, x"),
        "{error}"
    );
}

#[test]
fn sd_d02_a_handler_that_panics_is_an_error_of_its_caller_and_can_be_called_again() {
    let (infos, _guard) = with(|asked, page| {
        assert!(asked.args.is_empty(), "no {}", asked.args);
        page.write_str("fine")
    });
    let error = infos.run("x", "arguments", LONG).unwrap_err().to_string();
    assert!(error.contains("panicked: no arguments"), "{error}");
    assert_eq!(infos.run("x", "", LONG).unwrap(), "fine");
}

#[test]
fn sd_d02_a_handler_that_is_late_is_an_error_and_does_not_run_twice_at_once() {
    let (begin, began) = channel();
    let (go, gone) = channel::<()>();
    let gone = Mutex::new(gone);
    let (infos, _guard) = with(move |_, page| {
        begin.send(()).unwrap();
        lock(&gone).recv().unwrap();
        page.write_str("late")
    });
    let late = |error| matches!(error, InfoError::Late { .. });
    assert!(late(infos.run("x", "", Duration::ZERO).unwrap_err()));
    began.recv().unwrap();
    assert!(late(
        infos.run("x", "", Duration::from_millis(1)).unwrap_err()
    ));
    assert!(began.try_recv().is_err(), "it ran beside itself");
    go.send(()).unwrap();
    go.send(()).unwrap();
    assert_eq!(infos.run("x", "", LONG).unwrap(), "late");
}

#[test]
fn sd_d02_a_handler_that_writes_without_end_gets_a_page_that_ends() {
    let (infos, _guard) = with(|_, page| {
        loop {
            page.write_str("for ever and ever ")?;
        }
    });
    let text = infos.run("x", "", LONG).unwrap();
    assert!(text.ends_with("(the rest is left out)\n"));
}

#[test]
fn sd_d04_a_handler_whose_guard_is_dropped_is_gone_from_help() {
    let (infos, guard) = with(|_, _| Ok(()));
    let _other = infos.register("y", "about y", |_, _| Ok(())).unwrap();
    let help = infos.run(HELP, "", LONG).unwrap();
    assert_eq!(help, "x                about x\ny                about y\n");
    drop(guard);
    assert_eq!(infos.list(), [("y".to_owned(), "about y")]);
    assert!(
        infos.register("x", "", |_, _| Ok(())).is_ok(),
        "the name is free again"
    );
}

#[test]
fn a_guard_dropped_by_its_own_handler_leaves_its_page_whole() {
    let infos = Infos::new();
    let slot: Arc<Mutex<Option<InfoGuard>>> = Arc::default();
    let own = Arc::clone(&slot);
    let guard = infos.register("x", "", move |_, page| {
        drop(lock(&own).take());
        page.write_str("whole")
    });
    *lock(&slot) = Some(guard.unwrap());
    assert_eq!(infos.run("x", "", LONG).unwrap(), "whole");
    assert!(infos.list().is_empty());
}

#[test]
fn arguments_that_are_too_long_are_refused() {
    let (infos, _guard) = with(|_, _| Ok(()));
    let refused = infos.run("x", &"x".repeat(1025), LONG);
    assert!(matches!(refused, Err(InfoError::Args { bytes: 1025 })));
}
