// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Sources: files, overrides and their precedence, and files that are none.

use std::{fs, path::Path};
use vm_cfg::{CfgError, Origin, Tree};

fn set(text: &str, assignments: &[&str]) -> Result<String, CfgError> {
    let mut builder = Tree::builder().text("vm.toml".as_ref(), text)?;
    for assignment in assignments {
        builder = builder.set(assignment)?;
    }
    Ok(builder.build().render())
}

fn refused(text: &str, assignment: &str) -> String {
    set(text, &[assignment])
        .expect_err("it is to be refused")
        .to_string()
}

#[test]
fn a_later_source_goes_before_an_earlier_one_key_by_key() {
    let tree = Tree::builder()
        .defaults("vm.cpus = 1\nvm.memory = '256M'\nvm.name = 'none'\n")
        .and_then(|builder| builder.text("a.toml".as_ref(), "[vm]\ncpus = 2\nname = 'a'\n"))
        .and_then(|builder| builder.set("vm.name=b"))
        .expect("no conflict")
        .build();
    let expected = "vm.cpus = 2\nvm.memory = \"256M\"\nvm.name = \"b\"\n";
    assert_eq!(tree.render(), expected);
    let origins: Vec<_> = tree
        .entries()
        .into_iter()
        .map(|entry| entry.origin)
        .collect();
    let file = Origin::File {
        file: Path::new("a.toml").into(),
        line: 2,
    };
    assert_eq!(origins, [file, Origin::Default, Origin::Override]);
    assert_eq!(origins[0].to_string(), "a.toml:2");
}

#[test]
fn a_value_from_a_flag_names_the_flag() {
    let tree = Tree::builder()
        .flag("--cpus", "vm.cpus=2")
        .and_then(|builder| builder.flag("--name", "vm.name=a b"))
        .expect("no conflict")
        .build();
    let origins = tree.entries().into_iter().map(|entry| entry.origin);
    let expected = ["--cpus", "--name"].map(|flag| Origin::Flag(flag.into()));
    assert_eq!(origins.collect::<Vec<_>>(), expected);
    let error = tree.refuse_unread().expect_err("nobody has read it");
    assert_eq!(error.to_string(), "vm.cpus (--cpus): unknown key");
}

#[test]
fn an_override_is_toml_or_a_plain_text() {
    let cases = [
        ("a=1", "a = 1\n"),
        ("a = 0x10", "a = 16\n"),
        ("a=true", "a = true\n"),
        ("a=6G", "a = \"6G\"\n"),
        ("a=\"6\"", "a = \"6\"\n"),
        ("a=console=ttyS0 quiet", "a = \"console=ttyS0 quiet\"\n"),
        ("a=/dev/disk", "a = \"/dev/disk\"\n"),
        ("a=[1, 2]", "a = [1, 2]\n"),
        ("a={b=1}", "a.b = 1\n"),
        ("a.\"x.y\".b=1", "a.\"x.y\".b = 1\n"),
        ("a=18446744073709551615", "a = 18446744073709551615\n"),
    ];
    for (assignment, rendered) in cases {
        assert_eq!(
            set("", &[assignment]).expect(assignment),
            rendered,
            "{assignment}"
        );
    }
}

#[test]
fn an_override_that_does_not_parse_says_why_and_how_to_write_it() {
    let expected = "override \"vm.cpus\": no '=' after the key; write path.to.key=value";
    assert_eq!(refused("", "vm.cpus"), expected);
    let expected = "override \"=1\": a step of the path is empty; write path.to.key=value";
    assert_eq!(refused("", "=1"), expected);
    for assignment in [
        "", "a..b=1", "a.=1", ".a=1", "a b=1", "a=", "a=[1", "a={", "a='x", "\"a=1", "a=1\nb=2",
    ] {
        let message = refused("", assignment);
        assert!(
            message.ends_with("; write path.to.key=value"),
            "{assignment:?}: {message}"
        );
        assert!(!message.contains('\n'), "{message}");
    }
    let long = format!("{}=1", "a.".repeat(100_000));
    assert!(refused("", &long).len() < 400);
}

#[test]
fn an_override_reaches_into_a_list_that_is_there() {
    let disks = "[[disk]]\npath = 'a'\n[[disk]]\npath = 'b'\n";
    let rendered = set(disks, &["disk.1.path=c"]).expect("there is a second disk");
    assert_eq!(rendered, "disk = [{path = \"a\"}, {path = \"c\"}]\n");
    let message = refused(disks, "disk.2.path=c");
    assert!(message.contains("no element \"2\", only 2"), "{message}");
}

#[test]
fn a_value_and_a_section_cannot_have_the_same_path() {
    let expected = "vm.cpus.count cannot be set by override: what it is to be set in is the \
                    integer 1, not a section";
    assert_eq!(refused("vm.cpus = 1", "vm.cpus.count=1"), expected);
    let expected = "vm cannot be set by override: it is a section; set one of its keys";
    assert_eq!(refused("vm.cpus = 1", "vm=1"), expected);
    let clash = Tree::builder()
        .text("a.toml".as_ref(), "vm = 1")
        .and_then(|builder| builder.text("b.toml".as_ref(), "[vm]\ncpus = 1"));
    let message = clash.expect_err("a clash").to_string();
    let expected = "vm cannot be set by b.toml:1: it is the integer 1, not a section";
    assert_eq!(message, expected);
}

#[test]
fn sd_f01_a_key_or_section_that_is_there_twice_is_refused_with_its_line() {
    for (text, line) in [
        ("[a.b]\nx = 1\n[a.b]\ny = 2\n", 3),
        ("[a]\nx = 1\nx = 1\n", 3),
        ("a.x = 1\n[a]\ny = 2\n", 2),
        ("a = { x = 1, x = 2 }\n", 1),
    ] {
        let refused = Tree::builder().text("vm.toml".as_ref(), text);
        let error = refused.expect_err("it is there twice");
        assert!(
            matches!(&error, CfgError::Syntax { line: at, .. } if *at == line),
            "{text}: {error}"
        );
    }
}

#[test]
fn sd_f03_a_path_is_keys_joined_by_dots_and_their_case_counts() {
    let tree = Tree::builder().text("vm.toml".as_ref(), "[a.b]\nx = 1\n");
    let tree = tree.expect("it is TOML").build();
    for path in ["", ".", "a.", ".a", "a..b", "a/b", "a b"] {
        let refused = tree.section(path);
        assert!(
            matches!(&refused, Err(CfgError::Invalid { .. })),
            "{path:?}: {refused:?}"
        );
    }
    let is_set = |path| tree.section(path).expect("it is a path").is_set();
    assert!(is_set("a.b") && is_set("a . b") && is_set("\"a\".b"));
    assert!(!is_set("A.b") && !is_set("a.B") && !is_set("b"));
}

#[test]
fn a_syntax_error_names_file_line_and_column() {
    let refused = |text: &str| {
        Tree::builder()
            .text("vm.toml".as_ref(), text)
            .expect_err("not TOML")
            .to_string()
    };
    assert!(
        refused("[vm]\ncpus = \n").starts_with("vm.toml:2:8: "),
        "{}",
        refused("[vm]\ncpus = \n")
    );
    assert!(refused("a = 1\na = 2\n").starts_with("vm.toml:2:1: duplicate key"));
    assert!(refused("ä = 1").starts_with("vm.toml:1:1: "));
    assert!(
        refused("a = 'é' x").starts_with("vm.toml:1:9: "),
        "{}",
        refused("a = 'é' x")
    );
    assert!(refused("a = 99999999999999999999").starts_with("vm.toml:1:1: an integer beyond"));
}

#[test]
fn nesting_beyond_reason_is_refused_before_it_costs_stack() {
    let key = ["k"; 79].join(".");
    let texts = [
        format!("{}1{}", format!("{key}={{").repeat(79), "}".repeat(79)),
        format!("{}{}", "[".repeat(500_000), "]".repeat(500_000)),
        format!("a = {}", "[".repeat(500_000)),
        format!("a = {}", "{a=".repeat(300_000)),
        format!("[{}]", ["a"; 100_000].join(".")),
        format!("{} = 1", ["a"; 100_000].join(".")),
    ];
    for text in texts {
        let refused = Tree::builder().text("vm.toml".as_ref(), &text);
        assert!(matches!(refused, Err(CfgError::Syntax { .. })));
    }
}

#[test]
fn brackets_and_dots_in_texts_and_comments_are_not_nesting() {
    let text = format!(
        "# {0}\na = '{0}'\nb = \"{0}\" # {1}\n",
        "[{".repeat(100),
        "a.".repeat(100)
    );
    assert!(Tree::builder().text("vm.toml".as_ref(), &text).is_ok());
    let list = format!("a = [{}]\n", ["1.5"; 1000].join(", "));
    assert!(Tree::builder().text("vm.toml".as_ref(), &list).is_ok());
    let lines: String = (0..200)
        .map(|number| format!("a.b.c.d.e{number} = 1.5\n"))
        .collect();
    assert!(Tree::builder().text("vm.toml".as_ref(), &lines).is_ok());
}

#[test]
fn files_that_are_none_are_refused_each_in_one_line() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let refused = |name: &str| {
        let error = Tree::builder()
            .file(&dir.path().join(name))
            .expect_err(name);
        assert!(!error.to_string().contains('\n'));
        error
    };
    fs::create_dir(dir.path().join("dir")).expect("new");
    fs::write(dir.path().join("noise"), b"a = \"\xff\"").expect("new");
    fs::write(dir.path().join("huge"), vec![b'#'; (1 << 20) + 1]).expect("new");
    assert!(matches!(refused("absent"), CfgError::Unreadable { .. }));
    assert!(matches!(refused("dir"), CfgError::Directory { .. }));
    assert!(matches!(
        refused("noise"),
        CfgError::NotUtf8 { offset: 5, .. }
    ));
    assert!(matches!(
        refused("huge"),
        CfgError::TooLarge {
            limit: 1_048_576,
            ..
        }
    ));

    fs::write(dir.path().join("largest"), vec![b'#'; 1 << 20]).expect("new");
    fs::write(dir.path().join("empty"), b"").expect("new");
    assert!(Tree::builder().file(&dir.path().join("largest")).is_ok());
    assert!(Tree::builder().file(&dir.path().join("empty")).is_ok());
}

#[test]
fn an_error_is_short_however_long_the_input() {
    let long = "x".repeat(500_000);
    let tree = Tree::builder()
        .text("vm.toml".as_ref(), &format!("{long} = 1"))
        .expect("TOML");
    let error = tree.build().refuse_unread().expect_err("nobody reads it");
    assert!(error.to_string().len() < 400);
    let text = format!("a = '{long}'");
    let tree = Tree::builder()
        .text("vm.toml".as_ref(), &text)
        .expect("TOML")
        .build();
    let error = tree.section("a").expect_err("a text");
    assert!(error.to_string().len() < 400);
}
