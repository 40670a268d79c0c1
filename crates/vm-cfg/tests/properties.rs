// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Any text at all: nothing panics, and what parses survives being written and read again.

use proptest::prelude::*;
use std::collections::BTreeMap;
use vm_cfg::{Bounded, ByteSize, Tree};

#[derive(serde::Deserialize)]
struct Spec {
    #[expect(dead_code, reason = "read for its faults")]
    a: Option<Bounded<1, 64>>,
    #[expect(dead_code, reason = "read for its faults")]
    b: Option<ByteSize>,
    #[expect(dead_code, reason = "read for its faults")]
    c: Option<BTreeMap<String, Vec<f64>>>,
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-c][0-9]{0,2}", 1 => "[ -~é\\n\"\\\\]{0,5}"]
}

fn value() -> impl Strategy<Value = String> {
    let text = any::<String>().prop_map(|text| escaped(&text));
    let leaf = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| n.to_string()),
        any::<f64>()
            .prop_filter("finite", |n| n.is_finite())
            .prop_map(|n| format!("{n:?}")),
        any::<bool>().prop_map(|b| b.to_string()),
        Just("inf".to_owned()),
        Just("1979-05-27T07:32:00.5Z".to_owned()),
        text,
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let list = prop::collection::vec(inner.clone(), 0..4);
        let table = prop::collection::btree_map(key(), inner, 0..4);
        prop_oneof![
            list.prop_map(|elements| format!("[{}]", elements.join(", "))),
            table.prop_map(|pairs| {
                let pairs: Vec<_> = pairs
                    .iter()
                    .map(|(k, v)| format!("{} = {v}", escaped(k)))
                    .collect();
                format!("{{{}}}", pairs.join(", "))
            }),
        ]
    })
}

/// A TOML basic string with every character escaped.
fn escaped(text: &str) -> String {
    let all: String = text
        .chars()
        .map(|c| format!("\\U{:08X}", u32::from(c)))
        .collect();
    format!("\"{all}\"")
}

proptest! {
    #[test]
    fn any_text_is_a_tree_or_an_error_of_one_short_line(text in any::<String>()) {
        if let Err(error) = Tree::builder().text("f".as_ref(), &text) {
            prop_assert!(!error.to_string().contains('\n'));
            prop_assert!(error.to_string().len() < 1000);
        }
    }

    #[test]
    fn what_looks_like_toml_neither_panics_in_parsing_nor_in_reading(
        text in "([abc]|[ab]\\.c|\\[|\\]|\\{|\\}|=| |,|\n|\"|'|1|-|true|'1G'|#|\\.){0,40}",
    ) {
        if let Ok(builder) = Tree::builder().text("f".as_ref(), &text) {
            let tree = builder.build();
            let _ = tree.root().read::<Spec>();
            let _ = tree.section("c").map(|section| section.sections());
            let _ = tree.refuse_unread();
        }
    }

    #[test]
    fn any_override_sets_a_value_or_is_an_error_of_one_short_line(
        text in prop_oneof![any::<String>(), "[a-c.\"]{0,6}=.{0,8}"],
    ) {
        match Tree::builder().set(&text) {
            Ok(builder) => prop_assert!(!builder.build().entries().is_empty()),
            Err(error) => {
                prop_assert!(!error.to_string().contains('\n'));
                prop_assert!(error.to_string().len() < 1000);
            }
        }
    }

    #[test]
    fn a_tree_written_and_read_again_is_the_same(
        pairs in prop::collection::btree_map(key(), value(), 0..6),
    ) {
        let lines = pairs.iter().map(|(key, value)| format!("{} = {value}\n", escaped(key)));
        let text: String = lines.collect();
        let tree = Tree::builder().text("f".as_ref(), &text).expect("it is TOML").build();
        let written = tree.render();
        let again = Tree::builder().text("f".as_ref(), &written).expect("it was written").build();
        prop_assert_eq!(&written, &again.render());
        let plain = |tree: &Tree| -> Vec<_> {
            tree.entries().into_iter().map(|entry| (entry.path, entry.value)).collect()
        };
        prop_assert_eq!(plain(&tree), plain(&again));
    }

    #[test]
    fn the_last_override_of_a_key_wins(values in prop::collection::vec(any::<i64>(), 1..5)) {
        let mut builder = Tree::builder().text("f".as_ref(), "a.b = 0\na.c = 7").expect("it is TOML");
        for value in &values {
            builder = builder.set(&format!("a.b={value}")).expect("an override");
        }
        let last = values.last().copied().unwrap_or_default();
        prop_assert_eq!(builder.build().render(), format!("a.b = {last}\na.c = 7\n"));
    }

    #[test]
    fn a_size_shown_is_the_size_read(bytes in prop_oneof![any::<u64>(), (0_u64..1 << 20).prop_map(|m| m << 20)]) {
        prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
    }

    #[test]
    fn any_text_is_a_size_or_none(text in any::<String>()) {
        let _ = text.parse::<ByteSize>();
    }
}
