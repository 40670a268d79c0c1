// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Host's ends of a console that come and go while a driver works with it.

use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::OwnedFd;

use vm_devices::Ends;
use vm_pdm::info::Page;
use vm_pdm::{Change, Device, PlaceError};

use crate::console::{Guest, LIMIT, noise};

/// Ends of two pipes, and what is at their other ends.
fn pipes() -> (Ends, PipeWriter, PipeReader) {
    let ((input, typed), (screen, output)) = (pipe().unwrap(), pipe().unwrap());
    let output = File::from(OwnedFd::from(output));
    let ends = Ends::new("others", Some(Box::new(input)), Box::new(output));
    (ends, typed, screen)
}

fn change(guest: &Guest, change: Change<Ends>) -> Result<(), PlaceError> {
    let begun = guest.console.ends().begin(change)?;
    guest.console.ends().settle(begun, LIMIT)
}

fn page(guest: &Guest) -> String {
    let mut page = Page::new();
    guest.console.info(&mut page).unwrap();
    page.into_text()
}

#[test]
fn a_replaced_consoles_bytes_go_to_the_new_ends_and_come_from_them() {
    let mut guest = Guest::new();
    assert!(guest.try_send(b"before"));
    let (ends, mut typed, mut screen) = pipes();
    change(&guest, Change::Replace(ends)).unwrap();
    assert!(guest.try_send(b"after\n"));
    let mut seen = Vec::new();
    guest.screen.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"before", "and it is closed");
    let mut seen = [0; 6];
    screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"after\n");
    guest.typed.write_all(b"x").unwrap_err();
    guest.listen(64);
    typed.write_all(b"y").unwrap();
    assert_eq!(guest.received(), b"y");
}

#[test]
fn a_detached_console_gives_every_buffer_of_output_back() {
    let mut guest = Guest::new();
    change(&guest, Change::Detach).unwrap();
    // More than outbox and queue hold.
    for piece in noise(256 << 10).chunks(4096) {
        while !guest.try_send(piece) {
            guest.interrupt();
        }
    }
    guest.console.power_off().unwrap();
    assert_eq!(guest.console.queued(), 0);
    assert!(page(&guest).ends_with("attached: nothing\n"));
    assert_eq!(guest.console.ends().attached(), None);
}

#[test]
fn sd_p12_a_console_changed_while_suspended_moves_nothing_until_the_resume() {
    let mut guest = Guest::new();
    guest.console.suspend().unwrap();
    guest.listen(64);
    assert!(guest.try_send(b"hello\n"));
    let (ends, mut typed, mut screen) = pipes();
    typed.write_all(b"typed").unwrap();
    change(&guest, Change::Replace(ends)).unwrap();
    let mut seen = Vec::new();
    guest.screen.read_to_end(&mut seen).unwrap();
    assert_eq!(seen, b"", "it is closed, and had nothing");
    assert_eq!(guest.console.ends().attached().as_deref(), Some("others"));
    guest.console.resume().unwrap();
    let mut seen = [0; 6];
    screen.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello\n");
    assert_eq!(guest.received(), b"typed");
}

#[test]
fn a_stalled_reader_can_be_waited_for_and_not_be_replaced() {
    let mut guest = Guest::new();
    // Of the guest's bytes 64 KiB can be in the queue and 16 in the outbox, which leaves a pipe's 64;
    // all of the outbox can never follow them.
    let expected = noise(144 << 10);
    for piece in expected.chunks(4096) {
        while !guest.try_send(piece) {
            guest.interrupt();
        }
    }
    let begun = guest.console.ends().begin(Change::Detach).unwrap();
    let late = guest
        .console
        .ends()
        .settle(begun, std::time::Duration::ZERO);
    let late = late.unwrap_err();
    assert!(matches!(late, PlaceError::Late { .. }), "{late}");
    // Whoever reads gets all of what the console had taken, and its end.
    let seen = std::thread::scope(|scope| {
        let (console, screen) = (&guest.console, &mut guest.screen);
        let reader = scope.spawn(move || {
            let mut seen = Vec::new();
            screen.read_to_end(&mut seen).unwrap();
            seen
        });
        let begun = console.ends().begin(Change::Detach).unwrap();
        console.ends().settle(begun, LIMIT).unwrap();
        reader.join().unwrap()
    });
    assert_eq!(seen, expected[..seen.len()]);
    assert!(seen.len() >= 80 << 10, "{}", seen.len());
}
