// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! In which order devices are walked, and what a failure undoes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};

use vm_pdm::{Device, DeviceError, Devices, ResetKind};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

type Log = Arc<Mutex<Vec<String>>>;

/// Records each hook; fails those that `fails` names as `hook name`.
struct Recorder {
    name: &'static str,
    fails: Vec<String>,
    log: Log,
}

impl Recorder {
    fn note(&self, hook: &str) -> Result<(), DeviceError> {
        let entry = format!("{hook} {}", self.name);
        self.log.lock().unwrap().push(entry.clone());
        if self.fails.contains(&entry) {
            return Err(DeviceError {
                device: self.name.into(),
                what: format!("{hook} refused"),
            });
        }
        Ok(())
    }
}

impl Device for Recorder {
    fn name(&self) -> &str {
        self.name
    }
    fn power_on(&self) -> Result<(), DeviceError> {
        self.note("on")
    }
    fn suspend(&self) -> Result<(), DeviceError> {
        self.note("suspend")
    }
    fn resume(&self) -> Result<(), DeviceError> {
        self.note("resume")
    }
    fn reset(&self, kind: ResetKind) -> Result<(), DeviceError> {
        self.note(match kind {
            ResetKind::Hard => "hard",
            ResetKind::Soft => "soft",
        })
    }
    fn power_off(&self) -> Result<(), DeviceError> {
        self.note("off")
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.log.lock().unwrap().push(format!("drop {}", self.name));
    }
}

fn four(fails: &[&str]) -> (Devices, Log) {
    let log = Log::default();
    let mut devices = Devices::new();
    for name in NAMES {
        let fails = fails.iter().map(|f| (*f).to_owned()).collect();
        devices
            .add(Arc::new(Recorder {
                name,
                fails,
                log: Arc::clone(&log),
            }))
            .unwrap();
    }
    (devices, log)
}

fn taken(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap())
}

fn with<'a>(hook: &str, names: impl IntoIterator<Item = &'a &'a str>) -> Vec<String> {
    names
        .into_iter()
        .map(|name| format!("{hook} {name}"))
        .collect()
}

#[test]
fn sd_p01_up_is_in_order_of_construction_and_down_in_exact_reverse() {
    let (devices, log) = four(&[]);
    devices.power_on().unwrap();
    assert_eq!(taken(&log), with("on", &NAMES));
    devices.suspend().unwrap();
    assert_eq!(taken(&log), with("suspend", NAMES.iter().rev()));
    devices.resume().unwrap();
    assert_eq!(taken(&log), with("resume", &NAMES));
    devices.reset(ResetKind::Hard).unwrap();
    assert_eq!(taken(&log), with("hard", &NAMES));
    devices.reset(ResetKind::Soft).unwrap();
    assert_eq!(taken(&log), with("soft", &NAMES));
    devices.power_off().unwrap();
    assert_eq!(taken(&log), with("off", NAMES.iter().rev()));
    drop(devices);
    assert_eq!(taken(&log), with("drop", NAMES.iter().rev()));
}

#[test]
fn a_power_on_that_fails_anywhere_powers_off_those_before_it_in_reverse() {
    for (k, name) in NAMES.iter().enumerate() {
        let (devices, log) = four(&[&format!("on {name}")]);
        let error = devices.power_on().unwrap_err().error;
        assert_eq!(error.device, *name);
        let expected = [
            with("on", &NAMES[..=k]),
            with("off", NAMES[..k].iter().rev()),
        ]
        .concat();
        assert_eq!(taken(&log), expected);
    }
}

#[test]
fn a_resume_that_fails_anywhere_suspends_those_before_it_in_reverse() {
    for (k, name) in NAMES.iter().enumerate() {
        let (devices, log) = four(&[&format!("resume {name}")]);
        let error = devices.resume().unwrap_err().error;
        assert_eq!(error.device, *name);
        let expected = [
            with("resume", &NAMES[..=k]),
            with("suspend", NAMES[..k].iter().rev()),
        ]
        .concat();
        assert_eq!(taken(&log), expected);
    }
}

#[test]
fn a_suspend_that_fails_anywhere_resumes_those_already_suspended() {
    for (k, name) in NAMES.iter().enumerate() {
        let (devices, log) = four(&[&format!("suspend {name}")]);
        let error = devices.suspend().unwrap_err().error;
        assert_eq!(error.device, *name);
        let expected = [
            with("suspend", NAMES[k..].iter().rev()),
            with("resume", &NAMES[k + 1..]),
        ]
        .concat();
        assert_eq!(taken(&log), expected);
    }
}

#[test]
fn a_power_off_or_reset_that_fails_anywhere_goes_on_and_reports_the_first() {
    for name in NAMES {
        let (devices, log) = four(&[&format!("off {name}"), &format!("hard {name}")]);
        assert_eq!(devices.power_off().unwrap_err().device, name);
        assert_eq!(taken(&log), with("off", NAMES.iter().rev()));
        assert_eq!(devices.reset(ResetKind::Hard).unwrap_err().device, name);
        assert_eq!(taken(&log), with("hard", &NAMES));
    }
    let (devices, _) = four(&["off b", "off c", "hard b", "hard c"]);
    assert_eq!(
        devices.power_off().unwrap_err().device,
        "c",
        "reverse: c comes first"
    );
    assert_eq!(devices.reset(ResetKind::Hard).unwrap_err().device, "b");
}

#[test]
fn a_failure_while_undoing_does_not_end_the_undoing_and_is_reported_too() {
    let (devices, log) = four(&["on d", "off b", "off a"]);
    let failed = devices.power_on().unwrap_err();
    assert_eq!(
        failed.to_string(),
        "device d: on refused; while undoing: device b: off refused"
    );
    assert_eq!(taken(&log)[4..], ["off c", "off b", "off a"]);
}

#[test]
fn a_second_device_of_the_same_name_is_refused_and_named() {
    let (mut devices, log) = four(&[]);
    let twin = Arc::new(Recorder {
        name: "b",
        fails: vec![],
        log: Arc::clone(&log),
    });
    let error = devices.add(twin).unwrap_err();
    assert!(error.to_string().starts_with("device b: "), "{error}");
    assert_eq!(devices.names().collect::<Vec<_>>(), NAMES);
    assert!(devices.get("b").is_some() && devices.get("e").is_none());
}
