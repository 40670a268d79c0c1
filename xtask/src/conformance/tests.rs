// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The tables are whole, and each way to break the list is found.

use super::*;

fn test(name: &str) -> Test {
    Test {
        package: "vm-x".to_owned(),
        name: name.to_owned(),
    }
}

/// One test for every case that applies.
fn complete() -> Vec<Test> {
    let cases = families().flat_map(|family| family.cases());
    let apply = cases.filter(|&(id, _)| exemption(id).is_none());
    apply
        .map(|(id, _)| {
            let id = id.to_string().to_lowercase().replace(' ', "_");
            let list = if id.starts_with("sd_") { "" } else { "t_" };
            test(&format!("{list}{id}_holds"))
        })
        .collect()
}

/// What is wrong with a workspace of these tests.
fn wrong(tests: &[Test]) -> Vec<String> {
    let (shown, mut wrong) = collect(tests);
    wrong.extend(unsettled(&shown));
    wrong
}

#[test]
fn each_family_has_its_cases_without_a_gap() {
    for (family, count) in families().zip([35, 27, 23, 19, 16, 20, 21, 10, 17, 9, 7, 6, 5, 4]) {
        let numbers: Vec<_> = family
            .cases()
            .map(|(id, _)| (id.family, id.number))
            .collect();
        let expected: Vec<_> = (1..=count).map(|n| (family.letter, n)).collect();
        assert_eq!(numbers, expected, "{}", family.title);
    }
}

#[test]
fn a_reason_belongs_to_one_case_that_exists() {
    let mut seen = BTreeSet::new();
    assert_eq!(
        exemptions().count(),
        cases::EXEMPT.len() + devices::EXEMPT.len()
    );
    for (id, why) in exemptions() {
        let mut cases = families().flat_map(|family| family.cases());
        assert!(cases.any(|(known, _)| known == id), "{id}");
        assert!(seen.insert(id), "{id} is there twice");
        assert!(why.len() > 20, "{id}: say why");
    }
}

#[test]
fn a_complete_list_has_nothing_wrong() {
    assert_eq!(wrong(&complete()), Vec::<String>::new());
}

#[test]
fn a_case_that_nobody_shows_is_found() {
    let mut tests = complete();
    tests.retain(|test| test.name != "t_s05_holds");
    let wrong = wrong(&tests);
    assert!(
        matches!(&wrong[..], [one] if one.starts_with("S05: no test")),
        "{wrong:?}"
    );
}

#[test]
fn a_case_that_does_not_apply_and_yet_has_a_test_is_found() {
    let mut tests = complete();
    tests.push(test("t_q18_cached"));
    let wrong = wrong(&tests);
    assert!(
        matches!(&wrong[..], [one] if one.starts_with("Q18: ") && one.contains("t_q18_cached")),
        "{wrong:?}"
    );
}

#[test]
fn names_with_ids_that_do_not_exist_are_found() {
    for name in [
        "t_s36_x", "t_s00_x", "t_x01_x", "t_c21_x", "sd_v11_x", "sd_l20_x", "t_y",
    ] {
        let mut tests = complete();
        tests.push(test(name));
        let wrong = wrong(&tests);
        assert!(
            matches!(&wrong[..], [one] if one.starts_with("vm-x: ") && one.contains(name)),
            "{wrong:?}"
        );
    }
}

#[test]
fn ids_of_other_lists_are_known_and_settle_nothing_here() {
    let (shown, wrong) = collect(&[test("sd_s05_x"), test("t_c20_x"), test("plain")]);
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(unsettled(&shown).iter().any(|line| line.starts_with("S05")));
}

#[test]
fn the_page_shows_tests_reasons_gaps_and_other_ids() {
    let tests = [
        test("t_s01_s02_x"),
        test("sd_p08_late"),
        test("sd_l16_late"),
        test("plain"),
    ];
    let page = page::render(&collect(&tests).0);
    for line in [
        "| S01 | of all pairs of states exactly the documented ones are legal moves | vm-x: `t_s01_s02_x` |",
        "| S03 | power on: every vCPU starts, and devices are powered on once before RUNNING shows | **open** |",
        "| sd P08 | a device that never finishes is named, and the VM is in a defined state | vm-x: `sd_p08_late` |",
        "| sd L16 | vm-x: `sd_l16_late` |",
    ] {
        assert!(page.lines().any(|there| there == line), "{line}\n{page}");
    }
    assert!(page.contains("does not apply: there are no packets"));
    assert!(!page.contains("plain"));
}
