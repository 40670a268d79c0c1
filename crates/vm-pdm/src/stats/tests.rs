// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Paths, resets, guards and what a snapshot says.

use super::*;

fn everything(stats: &Stats) -> Vec<String> {
    let snapshot = stats.snapshot(&Pattern::default());
    snapshot.samples.into_iter().map(|s| s.path).collect()
}

#[test]
fn sd_t01_what_is_no_path_too_long_or_taken_is_refused_and_says_which() {
    let stats = Stats::new();
    let try_path = |path: &str| stats.counter(path, Unit::Count, "").map(drop).unwrap_err();
    for path in [
        "a", "/a//b", "/a/", "/", "", "/a\\b", "/a*", "/a|b", "/a\nb",
    ] {
        let error = try_path(path);
        assert!(
            matches!(error, StatError::InvalidName { .. }),
            "{path:?}: {error}"
        );
    }
    let long = format!("/{}", "x".repeat(239));
    assert_eq!(try_path(&long), StatError::TooLong { bytes: 240 });
    let fits = stats.counter(&long[..239], Unit::Count, "").unwrap();
    assert!(matches!(try_path(&long[..239]), StatError::Exists { .. }));
    drop(fits);
    let _free_again = stats.counter(&long[..239], Unit::Count, "").unwrap();
}

#[test]
fn sd_t02_a_reset_by_pattern_clears_what_can_be_reset_and_listing_is_sorted() {
    let stats = Stats::new();
    let y = stats.counter("/Y", Unit::Count, "").unwrap();
    let two = stats.profile("/X/2", Unit::Ns, "").unwrap();
    let one = stats.counter("/X/1", Unit::Count, "").unwrap();
    let gauge = stats.gauge("/X/3", Unit::Bytes, "").unwrap();
    y.inc();
    one.add(5);
    two.record(7);
    gauge.set(9);
    assert_eq!(stats.reset(&"/X/*".parse().unwrap()), 3);
    let snapshot = stats.snapshot(&"/X/*|/Y".parse().unwrap());
    let found: Vec<_> = snapshot
        .samples
        .iter()
        .map(|s| (s.path.as_str(), s.value))
        .collect();
    assert_eq!(
        found,
        [
            ("/X/1", Value::Counter(0)),
            ("/X/2", Value::NO_PROFILE),
            ("/X/3", Value::Gauge(9)),
            ("/Y", Value::Counter(1)),
        ]
    );
    two.record(3);
    let min = stats.snapshot(&"/X/2".parse().unwrap()).get("/X/2");
    assert!(matches!(
        min,
        Some(Value::Profile {
            min: Some(3),
            max: Some(3),
            ..
        })
    ));
}

#[test]
fn a_reset_without_a_pattern_is_of_everything() {
    let stats = Stats::new();
    let one = stats.counter("/a", Unit::Count, "").unwrap();
    one.inc();
    assert_eq!(stats.reset(&Pattern::default()), 1);
    assert_eq!(one.get(), 0);
}

/// Reading a statistic drops another one's guard, and its own: as if by another thread.
struct Dropper(Arc<Mutex<Vec<Registration>>>);

impl Sampled for Dropper {
    fn read(&self) -> Value {
        let gone = std::mem::take(&mut *lock(&self.0));
        drop(gone);
        Value::Counter(1)
    }
}

#[test]
fn sd_t03_a_guard_dropped_during_a_snapshot_leaves_its_sample_whole_or_absent() {
    let stats = Stats::new();
    let guards = Arc::new(Mutex::new(Vec::new()));
    let dropper = Arc::new(Dropper(Arc::clone(&guards)));
    let own = stats.register("/a", Unit::Count, "", dropper).unwrap();
    let block = Arc::new(Counter::new());
    block.add(3);
    let other = stats.part("/b", Unit::Count, "", &block, |b| b).unwrap();
    lock(&guards).extend([own, other]);
    let snapshot = stats.snapshot(&Pattern::default());
    assert_eq!(snapshot.get("/a"), Some(Value::Counter(1)));
    assert_eq!(snapshot.get("/b"), Some(Value::Counter(3)));
    assert!(everything(&stats).is_empty());
    assert_eq!(
        Arc::strong_count(&block),
        1,
        "the registry holds what is gone"
    );
}

#[test]
fn sd_t03_snapshots_while_guards_come_and_go_on_another_thread_have_only_whole_samples() {
    let stats = Stats::new();
    let (theirs, rounds) = (stats.clone(), 2000);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for _ in 0..rounds {
                let profile = theirs.profile("/p", Unit::Ns, "").unwrap();
                profile.record(4);
                profile.record(4);
            }
        });
        for _ in 0..rounds {
            match stats.snapshot(&Pattern::default()).get("/p") {
                None => {}
                Some(Value::Profile {
                    count,
                    total,
                    min,
                    max,
                }) => {
                    assert!(total >= 4 * count && total <= 8);
                    assert!(count == 0 || (min, max) == (Some(4), Some(4)));
                }
                Some(other) => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn sd_t04_names_with_markup_come_through_json_and_openmetrics_whole() {
    let stats = Stats::new();
    let odd = "/disk <&\">/0";
    let _disk = stats
        .counter(odd, Unit::Bytes, "a \\ \"b\"\n<c> & d")
        .unwrap();
    let snapshot = stats.snapshot(&Pattern::default());
    let json = serde_json::to_string(&snapshot).unwrap();
    assert_eq!(serde_json::from_str::<Snapshot>(&json).unwrap(), snapshot);
    let text = snapshot.openmetrics();
    let sample = text.lines().find(|l| !l.starts_with('#')).unwrap();
    assert_eq!(
        sample,
        r#"vm_disk______bytes_total{disk_____="0",path="/disk <&\">/0"} 0"#
    );
    assert!(
        text.contains(r#"# HELP vm_disk______bytes a \\ \"b\"\n<c> & d"#),
        "{text}"
    );
}

#[test]
fn every_unit_and_kind_comes_through_json() {
    for unit in Unit::ALL {
        for value in [
            Value::Counter(u64::MAX),
            Value::Gauge(1),
            Value::NO_PROFILE,
            Value::Profile {
                count: 1,
                total: 2,
                min: Some(2),
                max: Some(2),
            },
        ] {
            let samples = vec![Sample {
                path: "/a".into(),
                unit,
                about: "b".into(),
                value,
            }];
            let snapshot = Snapshot { samples };
            let json = serde_json::to_string(&snapshot).unwrap();
            assert_eq!(
                serde_json::from_str::<Snapshot>(&json).unwrap(),
                snapshot,
                "{json}"
            );
        }
    }
}

#[test]
fn openmetrics_groups_families_and_ends_with_eof() {
    let stats = Stats::new();
    let zero = stats
        .counter("/emt/0/kicks", Unit::Occurrences, "kicked")
        .unwrap();
    let one = stats
        .counter("/emt/1/kicks", Unit::Occurrences, "kicked")
        .unwrap();
    let took = stats.profile("/suspend/took", Unit::Ns, "").unwrap();
    zero.add(2);
    one.add(3);
    took.record(10);
    assert_eq!(
        stats.snapshot(&Pattern::default()).openmetrics(),
        "# TYPE vm_emt_kicks counter\n\
         # HELP vm_emt_kicks kicked\n\
         vm_emt_kicks_total{emt=\"0\",path=\"/emt/0/kicks\"} 2\n\
         vm_emt_kicks_total{emt=\"1\",path=\"/emt/1/kicks\"} 3\n\
         # TYPE vm_suspend_took_nanoseconds summary\n\
         # UNIT vm_suspend_took_nanoseconds nanoseconds\n\
         vm_suspend_took_nanoseconds_count{path=\"/suspend/took\"} 1\n\
         vm_suspend_took_nanoseconds_sum{path=\"/suspend/took\"} 10\n\
         # TYPE vm_suspend_took_min_nanoseconds gauge\n\
         # UNIT vm_suspend_took_min_nanoseconds nanoseconds\n\
         vm_suspend_took_min_nanoseconds{path=\"/suspend/took\"} 10\n\
         # TYPE vm_suspend_took_max_nanoseconds gauge\n\
         # UNIT vm_suspend_took_max_nanoseconds nanoseconds\n\
         vm_suspend_took_max_nanoseconds{path=\"/suspend/took\"} 10\n\
         # EOF\n"
    );
}

#[test]
fn paths_that_are_one_name_to_openmetrics_do_not_share_a_family_of_another_kind() {
    let stats = Stats::new();
    let _a = stats.counter("/a-b", Unit::Count, "").unwrap();
    let _b = stats.gauge("/a_b", Unit::Count, "").unwrap();
    let _c = stats.counter("/a+b", Unit::Count, "").unwrap();
    let _d = stats.gauge("/a_b_total", Unit::Count, "").unwrap();
    let text = stats.snapshot(&Pattern::default()).openmetrics();
    let mut names: Vec<_> = text.lines().filter(|l| l.starts_with("# TYPE")).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), all), (3, 3), "{text}");
    let mut samples: Vec<_> = text.lines().filter(|l| !l.starts_with('#')).collect();
    samples.sort_unstable();
    samples.dedup();
    assert_eq!(samples.len(), 4, "{text}");
}

#[test]
fn a_group_is_fetched_once_and_what_it_names_wrongly_is_left_out() {
    let stats = Stats::new();
    let fetched = Arc::new(Counter::new());
    let count = Arc::clone(&fetched);
    let reading = |name: &'static str, n| Reading {
        name: name.into(),
        unit: Unit::Count,
        value: Value::Counter(n),
    };
    let group = stats
        .group("/kvm", move || {
            count.inc();
            vec![
                reading("b", 2),
                reading("a", 1),
                reading("a", 3),
                reading("", 4),
                reading("c*", 5),
            ]
        })
        .unwrap();
    let snapshot = stats.snapshot(&Pattern::default());
    let found: Vec<_> = snapshot
        .samples
        .iter()
        .map(|s| (s.path.as_str(), s.value))
        .collect();
    assert_eq!(
        found,
        [("/kvm/a", Value::Counter(1)), ("/kvm/b", Value::Counter(2))]
    );
    assert_eq!(fetched.get(), 1);
    for path in ["/kvm", "/kvm/a", "/kvm/z/y"] {
        let taken = stats.counter(path, Unit::Count, "").map(drop);
        assert!(matches!(taken, Err(StatError::Exists { .. })), "{path}");
    }
    drop(group);
    let _below = stats.counter("/kvm/a", Unit::Count, "").unwrap();
    let covers = stats.group("/kvm", Vec::new).map(drop);
    assert!(matches!(covers, Err(StatError::Exists { .. })));
}

#[test]
fn used_leaves_out_what_says_nothing_and_the_table_has_a_line_for_each() {
    let stats = Stats::new();
    let some = stats.profile("/some", Unit::Ns, "time").unwrap();
    let _none = stats.counter("/none", Unit::Count, "").unwrap();
    some.record(2);
    some.record(4);
    assert_eq!(
        stats.snapshot(&Pattern::default()).used().to_string(),
        "/some               6 ns in 2, mean 3, from 2 to 4  (time)\n"
    );
}

#[test]
fn counting_on_many_threads_loses_nothing() {
    let stats = Stats::new();
    let counter = stats.counter("/n", Unit::Count, "").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000).for_each(|_| counter.inc()));
        }
    });
    assert_eq!(counter.get(), 4000);
}

#[test]
fn an_owners_statistics_lie_below_its_path_and_go_with_its_guards() {
    let stats = Stats::new();
    let block = Arc::new((Counter::new(), Gauge::new()));
    let mut scope = Scope::new(&stats, "/device/com1");
    scope
        .part("sent", Unit::Bytes, "", &block, |b| &b.0)
        .unwrap()
        .part("queue/depth", Unit::Bytes, "", &block, |b| &b.1)
        .unwrap()
        .read("seen", Unit::Count, "", || Value::Counter(7))
        .unwrap();
    assert!(
        scope
            .read("sent", Unit::Count, "", || Value::Counter(7))
            .is_err()
    );
    let guards = scope.into_guards();
    block.0.add(2);
    block.1.set(3);
    let snapshot = stats.snapshot(&Pattern::default());
    assert_eq!(snapshot.samples.len(), 3);
    assert_eq!(snapshot.get("/device/com1/sent"), Some(Value::Counter(2)));
    assert_eq!(
        snapshot.get("/device/com1/queue/depth"),
        Some(Value::Gauge(3))
    );
    assert_eq!(snapshot.get("/device/com1/seen"), Some(Value::Counter(7)));
    drop(guards);
    assert!(everything(&stats).is_empty());
}
