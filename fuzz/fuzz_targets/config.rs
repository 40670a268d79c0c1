// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A configuration of arbitrary text and overrides, each after a NUL: nothing panics, an error is
//! one line, and a tree that was built survives being written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::Deserialize;
use std::collections::BTreeMap;
use vm_cfg::{Bounded, ByteSize, CfgError, Tree};

#[derive(Deserialize)]
#[expect(dead_code, reason = "read for its faults")]
struct Spec {
    a: Option<Bounded<1, 64>>,
    b: Option<ByteSize>,
    c: Option<BTreeMap<String, Vec<f64>>>,
    d: Option<Choice>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read for its faults")]
enum Choice {
    Unit,
    One(String),
    Two(i8, u16),
    Named { x: char },
}

fuzz_target!(|text: &str| {
    match build(text) {
        Ok(tree) => {
            let written = tree.render();
            let again = Tree::builder().text("written".as_ref(), &written);
            let again = again.expect("what was written is TOML").build();
            assert_eq!(written, again.render());
            let _ = tree.root().read::<Spec>().map_err(|error| check(&error));
            let _ = tree.refuse_unread().map_err(|error| check(&error));
        }
        Err(error) => check(&error),
    }
});

fn build(text: &str) -> Result<Tree, CfgError> {
    let mut parts = text.split('\0');
    let file = parts.next().unwrap_or_default();
    let builder = Tree::builder().text("file".as_ref(), file)?;
    Ok(parts
        .try_fold(builder, |builder, part| builder.set(part))?
        .build())
}

fn check(error: &CfgError) {
    let message = error.to_string();
    assert!(!message.contains('\n') && message.len() < 2000, "{message}");
}
