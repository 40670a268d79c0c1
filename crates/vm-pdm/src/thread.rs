// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! How the threads of a VM are made.

use std::thread::Builder;

/// Bytes of a stack, whatever is asked of the standard library by RUST_MIN_STACK.
///
/// Linux backs a whole aligned 2 MiB of anonymous memory with one huge page at the first touch where
/// it is set to (`transparent_hugepage/enabled`: `always`), and the standard library's 2 MiB lie so
/// every now and then: then a thread that needs 20 KiB costs a hundred times that. Half of it cannot.
const STACK: usize = 1 << 20;
const HUGE_PAGE: usize = 2 << 20;
const _: () = assert!(STACK < HUGE_PAGE, "or a huge page has room in it");

/// A thread of a VM: an EMT, a device's worker, a server of the VMM around it.
///
/// Its stack is 1 MiB, of which only what is touched takes memory. Linux shows the first 15 bytes of
/// `name`.
///
/// ```
/// let worker = vm_pdm::thread("io-disk0").spawn(|| 6 * 7)?;
/// assert_eq!(worker.join().ok(), Some(42));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn thread(name: impl Into<String>) -> Builder {
    Builder::new().name(name.into()).stack_size(STACK)
}
