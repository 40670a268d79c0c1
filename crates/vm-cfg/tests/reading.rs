// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Reading: types, paths, origins, and what is refused.

use serde::Deserialize;
use std::collections::BTreeMap;
use vm_cfg::{Bounded, ByteSize, CfgError, Tree};

#[derive(Debug, Deserialize, PartialEq)]
struct VmSpec {
    cpus: Bounded<1, 64>,
    memory: ByteSize,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    port: u8,
    #[serde(default)]
    engine: Engine,
    #[serde(default)]
    ratio: f64,
}

#[derive(Debug, Deserialize, PartialEq, Default)]
#[serde(rename_all = "kebab-case")]
enum Engine {
    #[default]
    Auto,
    Kvm,
    Scripted {
        steps: u32,
    },
}

fn tree(text: &str) -> Tree {
    Tree::builder()
        .text("vm.toml".as_ref(), text)
        .expect("it is TOML")
        .build()
}

fn vm(text: &str) -> Result<VmSpec, CfgError> {
    tree(text).section("vm").and_then(|section| section.read())
}

fn message(text: &str) -> String {
    vm(text).expect_err("it is to be refused").to_string()
}

#[test]
fn every_type_is_read() {
    let text = "
        [vm]
        cpus = 2
        memory = '1GiB'
        name = \"first\"
        port = 0xff
        engine.scripted.steps = 7
        ratio = 1.5
    ";
    let read = vm(text).expect("all is well");
    assert_eq!(read.memory, ByteSize(1 << 30));
    assert_eq!(read.name.as_deref(), Some("first"));
    assert_eq!(read.port, 255);
    assert_eq!(read.engine, Engine::Scripted { steps: 7 });
    assert_eq!(read.ratio.to_bits(), 1.5_f64.to_bits());
}

#[test]
fn sd_f05_an_unknown_key_is_named_with_its_place_and_the_nearest_known_one() {
    let text = "[vm]\ncpus = 1\nmemroy = 4096\n";
    assert_eq!(
        message(text),
        "vm.memroy (vm.toml:3): unknown key; did you mean vm.memory?"
    );
    let text = "[vm]\ncpus = 1\nzebra = 4096\n";
    assert_eq!(message(text), "vm.zebra (vm.toml:3): unknown key");
    let text = "[vm]\ncpus = 1\nmemory=1\nengine = { scripted = { step = 1 } }\n";
    let expected = "vm.engine.scripted.step (vm.toml:4): unknown key; \
                    did you mean vm.engine.scripted.steps?";
    assert_eq!(message(text), expected);
}

#[test]
fn sd_f02_a_wrong_type_is_named_with_what_would_be_right() {
    let text = "[vm]\ncpus = 'two'\nmemory = 4096\n";
    let expected = "vm.cpus (vm.toml:2) is the text \"two\"; it must be an integer from 1 to 64";
    assert_eq!(message(text), expected);
    let text = "[vm]\ncpus = 2\nmemory = true\n";
    let expected = "vm.memory (vm.toml:3) is the boolean true; it must be a size such as 256M, 6G, \
                    1GiB or a number of bytes";
    assert_eq!(message(text), expected);
    let text = "[vm]\ncpus = 2\nmemory = 1\nname = 7\n";
    assert_eq!(
        message(text),
        "vm.name (vm.toml:4) is the integer 7; it must be a text in quotes"
    );
    let text = "[vm]\ncpus = 2\nmemory = 1\nname = 2026-01-02\n";
    assert_eq!(
        message(text),
        "vm.name (vm.toml:4) is the date 2026-01-02; it must be a text in quotes"
    );
    let error = tree("vm = 3").section("vm").expect_err("no section");
    assert_eq!(
        error.to_string(),
        "vm (vm.toml:1) is the integer 3; it must be a section"
    );
    let error = tree("vm = [1, 2]")
        .section("vm")
        .and_then(|s| s.read::<VmSpec>());
    let error = error.expect_err("a list is not its fields in their order");
    assert_eq!(
        error.to_string(),
        "vm (vm.toml:1) is a list; it must be a section"
    );
}

#[test]
fn sd_f09_a_value_out_of_range_is_named_with_the_range() {
    let text = |cpus: &str| format!("[vm]\ncpus = {cpus}\nmemory = 4096\n");
    for cpus in ["0", "65", "-1", "18446744073709551615"] {
        let expected = format!(
            "vm.cpus (vm.toml:2) is the integer {cpus}; it must be an integer from 1 to 64"
        );
        assert_eq!(message(&text(cpus)), expected);
    }
    let text = "[vm]\ncpus = 1\nmemory = 1\nport = 256\n";
    let expected = "vm.port (vm.toml:4) is the integer 256; it must be an integer from 0 to 255";
    assert_eq!(message(text), expected);
    let text = "[vm]\ncpus = 1\nmemory = '16EiB'\n";
    assert!(matches!(vm(text), Err(CfgError::OutOfRange { .. })));
    let text = "[vm]\ncpus = 1\nmemory = -1\n";
    assert!(matches!(vm(text), Err(CfgError::OutOfRange { .. })));
}

#[test]
fn an_unknown_choice_is_named_with_all_and_the_nearest() {
    let text = "[vm]\ncpus = 1\nmemory = 1\nengine = 'kmv'\n";
    let expected = "vm.engine (vm.toml:4) is \"kmv\"; it must be one of auto, kvm, scripted \
                    (did you mean kvm?)";
    assert_eq!(message(text), expected);
    let text = "[vm]\ncpus = 1\nmemory = 1\nengine.auto.fast = true\n";
    let expected = "vm.engine.auto (vm.toml:4) is a section; it must be left out: this choice has \
                    no values of its own";
    assert_eq!(message(text), expected);
    let text = "[vm]\ncpus = 1\nmemory = 1\nengine = {}\n";
    assert!(matches!(vm(text), Err(CfgError::WrongType { .. })));
    let text = "[vm]\ncpus = 1\nmemory = 1\nengine = 3\n";
    let expected = "vm.engine (vm.toml:4) is the integer 3; it must be one of auto, kvm, scripted";
    assert_eq!(message(text), expected);
}

#[test]
fn a_key_that_must_be_set_is_named() {
    let expected = "vm.memory is not set; set it in the configuration file or by an override";
    assert_eq!(message("[vm]\ncpus = 2\n"), expected);
    let expected = "vm.cpus is not set; set it in the configuration file or by an override";
    assert_eq!(message(""), expected);
}

#[test]
fn a_fault_in_a_list_is_named_by_its_place() {
    #[derive(Debug, Deserialize)]
    struct Root {
        #[expect(dead_code, reason = "read for its faults")]
        disk: Vec<DiskSpec>,
    }
    #[derive(Debug, Deserialize)]
    struct DiskSpec {
        #[expect(dead_code, reason = "read for its faults")]
        size: ByteSize,
    }
    let text = "[[disk]]\nsize = '1G'\n[[disk]]\nsize = '1X'\n";
    let error = tree(text).root().read::<Root>().expect_err("1X is no size");
    let expected = "disk.1.size (vm.toml:4) is the text \"1X\"; it must be a size such as 256M, \
                    6G, 1GiB or a number of bytes";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn what_a_reader_refuses_for_its_own_reasons_is_named_too() {
    #[derive(Debug, Deserialize)]
    #[serde(try_from = "u64")]
    struct Page;
    impl TryFrom<u64> for Page {
        type Error = &'static str;
        fn try_from(address: u64) -> Result<Self, &'static str> {
            if address.is_multiple_of(4096) {
                Ok(Self)
            } else {
                Err("not the address of a page")
            }
        }
    }
    #[derive(Debug, Deserialize)]
    struct Spec {
        #[expect(dead_code, reason = "read for its faults")]
        base: Page,
    }
    let error = tree("base = 4097")
        .root()
        .read::<Spec>()
        .expect_err("unaligned");
    assert_eq!(
        error.to_string(),
        "base (vm.toml:1): not the address of a page"
    );
}

#[test]
fn sd_f08_sections_come_in_natural_order() {
    let tree = tree("[d.10]\n[d.2]\n[d.1]\n[d.0]\n[d]\nnone = 1\n");
    let names: Vec<_> = tree
        .section("d")
        .expect("it is one")
        .sections()
        .into_iter()
        .map(|(n, _)| n)
        .collect();
    assert_eq!(names, ["0", "1", "2", "10"]);
}

#[test]
fn keys_that_nobody_read_are_reported_with_the_nearest_asked_for() {
    let tree = tree("[vm]\ncpus = 1\nmemory = 1\n[mv]\ncpus = 2\n[empty]\n");
    assert_eq!(tree.unread().len(), 4);
    tree.section("vm")
        .and_then(|section| section.read::<VmSpec>())
        .expect("all is well");
    let unread: Vec<_> = tree.unread().into_iter().map(|entry| entry.path).collect();
    assert_eq!(unread, ["empty", "mv.cpus"]);
    tree.section("empty")
        .and_then(|s| s.read::<BTreeMap<String, u8>>())
        .expect("it is empty");
    let error = tree.refuse_unread().expect_err("mv.cpus was not read");
    assert_eq!(
        error.to_string(),
        "mv.cpus (vm.toml:5): unknown key; did you mean vm.cpus?"
    );
    tree.section("mv")
        .and_then(|s| s.read::<BTreeMap<String, u8>>())
        .expect("integers");
    assert!(tree.refuse_unread().is_ok());
}

#[test]
fn f3_paths_are_steps_joined_by_dots_and_case_counts() {
    let tree = tree("[A.B]\nx = 1\n[\"a.b\"]\nx = 2\n");
    for path in ["", ".", "A.", ".A", "A..B", "A B", "A=1", "\"A"] {
        assert!(tree.section(path).is_err(), "{path}");
    }
    assert!(tree.section("A.B").expect("a path").is_set());
    assert!(!tree.section("a.b").expect("a path").is_set());
    assert!(tree.section("\"a.b\"").expect("a path").is_set());
}
