// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! AML of what happens to a running machine: the power button, processors that come and go, and the
//! generic event device (ACPI 6.5, 5.6.9) whose interrupt announces both.
//!
//! The registers behind it are those that `vm-devices` documents on its event device: events to take
//! at offset 0, a processor to select at 4, its flags at 8.

use acpi_tables::aml::{
    self, Acquire, Arg, BufferData, Equal, Field, FieldAccessType, FieldEntry, FieldLockRule,
    FieldUpdateRule, If, LessThan, Local, Method, MethodCall, Mutex, Notify, OpRegion,
    OpRegionSpace, Path, Release, Return, Store, While,
};
use acpi_tables::{Aml, AmlSink};

use crate::Platform;

/// Notifications: of a bus (ACPI 6.5, table 5-186) and of a power button (table 5-189).
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;
const PRESSED: u8 = 0x80;
/// `_STA` of what is present, enabled, shown and works (ACPI 6.5, 6.3.7).
const THERE: u8 = 0x0f;
/// Time limit of `Acquire` that is none.
const FOR_EVER: u16 = 0xffff;

/// Processors that the registers know; further ones are always there.
const PLUGGABLE: u32 = 64;

const EVENTS: u16 = 0;
const SELECT: u16 = 4;

fn field(bits: &[FieldEntry], access: FieldAccessType, region: &str) -> Field {
    Field::new(
        Path::new(region),
        access,
        FieldLockRule::NoLock,
        // A write to a flag touches no other.
        FieldUpdateRule::WriteAsZeroes,
        bits.to_vec(),
    )
}

/// The event device and the power button, which stand in `\_SB`.
pub(crate) struct Events<'a>(pub(crate) &'a Platform);

impl Aml for Events<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = aml::Name::new(Path::new("_HID"), &"ACPI0013");
        let uid = aml::Name::new(Path::new("_UID"), &aml::ZERO);
        let interrupt = aml::Interrupt::new(true, true, false, false, self.0.event_irq);
        let resources = aml::ResourceTemplate::new(vec![&interrupt]);
        let resources = aml::Name::new(Path::new("_CRS"), &resources);
        let port = self.0.event_port + EVENTS;
        let region = OpRegion::new(Path::new("EREG"), OpRegionSpace::SystemIO, &port, &4_u8);
        let events = field(
            &[FieldEntry::Named(*b"EVTS", 32)],
            FieldAccessType::DWord,
            "EREG",
        );
        // One read takes all events.
        let (taken, button) = (Path::new("EVTS"), Path::new("\\_SB_.PWRB"));
        let take = Store::new(&Local(0), &taken);
        let is_button = aml::And::new(&aml::ZERO, &Local(0), &1_u8);
        let press = Notify::new(&button, &PRESSED);
        let on_button = If::new(&is_button, vec![&press]);
        let is_cpu = aml::And::new(&aml::ZERO, &Local(0), &2_u8);
        let scan = MethodCall::new(Path::new("\\_SB_.CPUS.SCAN"), vec![]);
        let on_cpu = If::new(&is_cpu, vec![&scan]);
        let handler = Method::new(Path::new("_EVT"), 1, true, vec![&take, &on_button, &on_cpu]);
        aml::Device::new(
            Path::new("GED0"),
            vec![&hid, &uid, &resources, &region, &events, &handler],
        )
        .to_aml_bytes(sink);

        let hid = aml::Name::new(Path::new("_HID"), &aml::EISAName::new("PNP0C0C"));
        aml::Device::new(Path::new("PWRB"), vec![&hid, &uid]).to_aml_bytes(sink);
    }
}

/// The processors, each of which gives the MADT's entry of the same number a name.
pub(crate) struct Processors<'a> {
    pub(crate) platform: &'a Platform,
    pub(crate) count: u32,
}

impl Aml for Processors<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = aml::Name::new(Path::new("_HID"), &"ACPI0010");
        let uid = aml::Name::new(Path::new("_UID"), &aml::ZERO);
        let port = self.platform.event_port + SELECT;
        let region = OpRegion::new(Path::new("CREG"), OpRegionSpace::SystemIO, &port, &5_u8);
        let select = field(
            &[FieldEntry::Named(*b"CSEL", 32)],
            FieldAccessType::DWord,
            "CREG",
        );
        let flags = field(
            &[
                FieldEntry::Reserved(32),
                FieldEntry::Named(*b"CPRE", 1),
                FieldEntry::Named(*b"CNEW", 1),
                FieldEntry::Named(*b"CWNT", 1),
                FieldEntry::Named(*b"CGUP", 1),
            ],
            FieldAccessType::Byte,
            "CREG",
        );
        let mutex = Mutex::new(Path::new("CLCK"), 0);
        let processors: Vec<Processor> = (0..self.count).map(Processor).collect();
        let mut children: Vec<&dyn Aml> = vec![&hid, &uid, &region, &select, &flags, &mutex];
        let methods = Methods {
            count: self.count.min(PLUGGABLE),
        };
        children.push(&methods);
        children.extend(processors.iter().map(|p| p as &dyn Aml));
        aml::Device::new(Path::new("CPUS"), children).to_aml_bytes(sink);
    }
}

/// What the processors share: the registers behind a mutex, and the look at who is new.
struct Methods {
    count: u32,
}

impl Aml for Methods {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let lock = Acquire::new(Path::new("CLCK"), FOR_EVER);
        let unlock = Release::new(Path::new("CLCK"));
        let (select, present) = (Path::new("CSEL"), Path::new("CPRE"));
        let (new, wanted, give_up) = (Path::new("CNEW"), Path::new("CWNT"), Path::new("CGUP"));

        let choose = Store::new(&select, &Arg(0));
        let absent = Store::new(&Local(0), &aml::ZERO);
        let there = Store::new(&Local(0), &THERE);
        let is_present = Equal::new(&present, &aml::ONE);
        let if_present = If::new(&is_present, vec![&there]);
        let answer = Return::new(&Local(0));
        let status = vec![
            &lock as &dyn Aml,
            &choose,
            &absent,
            &if_present,
            &unlock,
            &answer,
        ];
        Method::new(Path::new("CSTA"), 1, true, status).to_aml_bytes(sink);

        let eject = Store::new(&give_up, &aml::ONE);
        let ejecting: Vec<&dyn Aml> = vec![&lock, &choose, &eject, &unlock];
        Method::new(Path::new("CEJE"), 1, true, ejecting).to_aml_bytes(sink);

        Notifier { count: self.count }.to_aml_bytes(sink);

        let begin = Store::new(&Local(0), &aml::ZERO);
        let more = LessThan::new(&Local(0), &self.count);
        let choose = Store::new(&select, &Local(0));
        let came = MethodCall::new(Path::new("CNFY"), vec![&Local(0), &DEVICE_CHECK]);
        let seen = Store::new(&new, &aml::ONE);
        let is_new = Equal::new(&new, &aml::ONE);
        let if_new = If::new(&is_new, vec![&came, &seen]);
        let goes = MethodCall::new(Path::new("CNFY"), vec![&Local(0), &EJECT_REQUEST]);
        let heard = Store::new(&wanted, &aml::ONE);
        let is_wanted = Equal::new(&wanted, &aml::ONE);
        let if_wanted = If::new(&is_wanted, vec![&goes, &heard]);
        let next = aml::Add::new(&Local(0), &Local(0), &aml::ONE);
        let each = While::new(&more, vec![&choose, &if_new, &if_wanted, &next]);
        let scan: Vec<&dyn Aml> = vec![&lock, &begin, &each, &unlock];
        Method::new(Path::new("SCAN"), 0, true, scan).to_aml_bytes(sink);
    }
}

/// `CNFY(n, event)`: AML cannot compute an object from a number.
struct Notifier {
    count: u32,
}

impl Aml for Notifier {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let cases: Vec<NotifyCase> = (0..self.count).map(NotifyCase).collect();
        let cases = cases.iter().map(|case| case as &dyn Aml).collect();
        Method::new(Path::new("CNFY"), 2, true, cases).to_aml_bytes(sink);
    }
}

struct NotifyCase(u32);

impl Aml for NotifyCase {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let path = Path::new(&processor_name(self.0));
        let is_it = Equal::new(&Arg(0), &self.0);
        let notify = Notify::new(&path, &Arg(1));
        If::new(&is_it, vec![&notify]).to_aml_bytes(sink);
    }
}

/// A processor device.
struct Processor(u32);

impl Aml for Processor {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let hid = aml::Name::new(Path::new("_HID"), &"ACPI0007");
        let uid = aml::Name::new(Path::new("_UID"), &self.0);
        // The MADT's entry as it is once the processor is there, whatever the MADT says.
        let entry = BufferData::new(local_apic(self.0, ENABLED));
        let entry = aml::Name::new(Path::new("_MAT"), &entry);
        let status = MethodCall::new(Path::new("CSTA"), vec![&self.0]);
        let status = Return::new(&status);
        let status = Method::new(Path::new("_STA"), 0, true, vec![&status]);
        let eject = MethodCall::new(Path::new("CEJE"), vec![&self.0]);
        let eject = Method::new(Path::new("_EJ0"), 1, true, vec![&eject]);
        let mut children: Vec<&dyn Aml> = vec![&hid, &uid, &entry];
        if self.0 < PLUGGABLE {
            children.push(&status);
        }
        // The first one stays.
        if (1..PLUGGABLE).contains(&self.0) {
            children.push(&eject);
        }
        let name = processor_name(self.0);
        aml::Device::new(Path::new(&name), children).to_aml_bytes(sink);
    }
}

fn processor_name(number: u32) -> String {
    format!("C{number:03X}")
}

/// MADT local APIC flag: the processor is there (ACPI 6.5, table 5-25).
pub(crate) const ENABLED: u32 = 1 << 0;
/// It is not, and may come.
pub(crate) const ONLINE_CAPABLE: u32 = 1 << 1;

/// The MADT's entry of a processor: a local APIC, or an x2APIC where the id needs one.
pub(crate) fn local_apic(number: u32, flags: u32) -> Vec<u8> {
    match u8::try_from(number) {
        // 255 is the broadcast id of an APIC with 8-bit ids.
        Ok(id) if id < 255 => [&[0, 8, id, id][..], &flags.to_le_bytes()].concat(),
        _ => [
            &[9, 16, 0, 0][..],
            &number.to_le_bytes(),
            &flags.to_le_bytes(),
            &number.to_le_bytes(),
        ]
        .concat(),
    }
}
