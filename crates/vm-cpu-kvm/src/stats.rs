// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What the host's KVM counts of a VM and of each vCPU (KVM API, `KVM_GET_STATS_FD`).
//!
//! A file has a header, descriptors and data. The first two never change, so they are read once; a
//! look at the counters is one read of the data. Histograms are left out.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use kvm_bindings::{
    KVM_STATS_BASE_MASK, KVM_STATS_BASE_POW2, KVM_STATS_BASE_POW10, KVM_STATS_TYPE_CUMULATIVE,
    KVM_STATS_TYPE_INSTANT, KVM_STATS_TYPE_MASK, KVM_STATS_TYPE_PEAK, KVM_STATS_UNIT_BYTES,
    KVM_STATS_UNIT_MASK, KVM_STATS_UNIT_SECONDS,
};
use vm_cpu::{Statistic, StatisticKind, StatisticUnit};

/// Length of the header, and of a descriptor without its name.
const HEADER_BYTES: usize = 24;
const DESCRIPTOR_BYTES: usize = 16;

/// More than any kernel has; what says more is not read.
const NAME_MAX: usize = 256;
const DESCRIPTORS_MAX: usize = 4096;
const DATA_MAX: usize = 1 << 20;

/// The statistics of a VM, or of one vCPU.
#[derive(Debug)]
pub(crate) struct Source {
    vcpu: Option<u32>,
    file: File,
    data_offset: u64,
    data_bytes: usize,
    fields: Vec<Field>,
}

/// One counter in the data.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Field {
    name: String,
    at: usize,
    unit: StatisticUnit,
    kind: StatisticKind,
    factor: u64,
}

impl Source {
    /// Reads what `file` says of itself.
    ///
    /// # Errors
    /// Those of reading, and `InvalidData` for what is no such file.
    pub(crate) fn open(vcpu: Option<u32>, file: File) -> io::Result<Self> {
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0)?;
        let word = |i: usize| number(&header, 4 * i).unwrap_or(0);
        let name_bytes = word(1);
        let (count, at, data_offset) = (word(2), word(4), word(5));
        if name_bytes > NAME_MAX || count > DESCRIPTORS_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let each = DESCRIPTOR_BYTES + name_bytes;
        let mut descriptors = vec![0; count * each];
        file.read_exact_at(&mut descriptors, at as u64)?;
        let fields: Vec<Field> = descriptors.chunks_exact(each).filter_map(field).collect();
        let data_bytes = fields.iter().map(|field| field.at + 8).max().unwrap_or(0);
        Ok(Self {
            vcpu,
            file,
            data_offset: data_offset as u64,
            data_bytes,
            fields,
        })
    }

    /// What the counters say now.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn read(&self) -> io::Result<Vec<Statistic>> {
        let mut data = vec![0; self.data_bytes];
        self.file.read_exact_at(&mut data, self.data_offset)?;
        let statistic = |field: &Field| {
            let bytes = data.get(field.at..field.at + 8)?.try_into().ok()?;
            Some(Statistic {
                vcpu: self.vcpu,
                name: field.name.clone(),
                unit: field.unit,
                kind: field.kind,
                value: u64::from_ne_bytes(bytes).saturating_mul(field.factor),
            })
        };
        Ok(self.fields.iter().filter_map(statistic).collect())
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    usize::try_from(u32::from_ne_bytes(bytes)).ok()
}

/// A descriptor with its name, if it is of one counter that can be told as it is.
fn field(descriptor: &[u8]) -> Option<Field> {
    let flags = u32::from_ne_bytes(descriptor.get(0..4)?.try_into().ok()?);
    let exponent = i16::from_ne_bytes(descriptor.get(4..6)?.try_into().ok()?);
    let count = u16::from_ne_bytes(descriptor.get(6..8)?.try_into().ok()?);
    let at = number(descriptor, 8).filter(|at| at.is_multiple_of(8) && *at < DATA_MAX)?;
    let name = descriptor.get(DESCRIPTOR_BYTES..)?;
    let name = name.split(|&byte| byte == 0).next()?;
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    if count != 1 || name.is_empty() || !name.iter().all(plain) {
        return None;
    }
    let kind = match flags & KVM_STATS_TYPE_MASK {
        KVM_STATS_TYPE_CUMULATIVE => StatisticKind::Grows,
        KVM_STATS_TYPE_INSTANT | KVM_STATS_TYPE_PEAK => StatisticKind::Now,
        _ => return None,
    };
    let base = flags & KVM_STATS_BASE_MASK;
    let (unit, exponent) = match flags & KVM_STATS_UNIT_MASK {
        KVM_STATS_UNIT_BYTES => (StatisticUnit::Bytes, exponent),
        KVM_STATS_UNIT_SECONDS if base == KVM_STATS_BASE_POW10 => {
            (StatisticUnit::Ns, exponent.checked_add(9)?)
        }
        _ => (StatisticUnit::Count, exponent),
    };
    let exponent = u32::try_from(exponent).ok()?;
    let factor = match base {
        KVM_STATS_BASE_POW10 => 10_u64.checked_pow(exponent)?,
        KVM_STATS_BASE_POW2 => 2_u64.checked_pow(exponent)?,
        _ => return None,
    };
    Some(Field {
        name: String::from_utf8(name.to_vec()).ok()?,
        at,
        unit,
        kind,
        factor,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(flags: u32, exponent: i16, count: u16, at: u32, name: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(exponent.to_ne_bytes());
        bytes.extend(count.to_ne_bytes());
        bytes.extend(at.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(name);
        bytes
    }

    #[test]
    fn a_descriptor_says_name_place_unit_and_kind() {
        let found = field(&descriptor(0, 0, 1, 16, b"exits\0\0"));
        let expected = Field {
            name: "exits".into(),
            at: 16,
            unit: StatisticUnit::Count,
            kind: StatisticKind::Grows,
            factor: 1,
        };
        assert_eq!(found, Some(expected));
        let seconds = KVM_STATS_UNIT_SECONDS | KVM_STATS_TYPE_INSTANT;
        let scale = |flags, exponent| {
            field(&descriptor(flags, exponent, 1, 0, b"x"))
                .map(|field| (field.unit, field.kind, field.factor))
        };
        let now = StatisticKind::Now;
        assert_eq!(scale(seconds, -9), Some((StatisticUnit::Ns, now, 1)));
        assert_eq!(
            scale(seconds, 0),
            Some((StatisticUnit::Ns, now, 1_000_000_000))
        );
        let pages = KVM_STATS_UNIT_BYTES | KVM_STATS_BASE_POW2;
        let grows = StatisticKind::Grows;
        assert_eq!(scale(pages, 12), Some((StatisticUnit::Bytes, grows, 4096)));
    }

    #[test]
    fn what_cannot_be_told_as_one_number_is_left_out() {
        for bytes in [
            descriptor(KVM_STATS_TYPE_MASK, 0, 1, 0, b"type"),
            descriptor(0, 0, 8, 0, b"histogram"),
            descriptor(0, 0, 1, 4, b"unaligned"),
            descriptor(0, 0, 1, u32::MAX - 7, b"far"),
            descriptor(0, 20, 1, 0, b"huge"),
            descriptor(0, -1, 1, 0, b"fraction"),
            descriptor(KVM_STATS_BASE_MASK, 0, 1, 0, b"base"),
            descriptor(KVM_STATS_UNIT_SECONDS, i16::MAX, 1, 0, b"long"),
            descriptor(0, 0, 1, 0, b"a/b"),
            descriptor(0, 0, 1, 0, b"\0"),
            vec![0; 7],
            Vec::new(),
        ] {
            assert_eq!(field(&bytes), None, "{bytes:x?}");
        }
    }
}
