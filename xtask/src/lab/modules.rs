// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Which kernel modules to load, and in which order, for a wanted one.
//!
//! Debian packages carry no `modules.dep` (it is made at installation), so the order comes from
//! what each module says of itself: the `depends=` entry of its `.modinfo` section, which the
//! kernel build derives from the symbols it uses. No depmod or modprobe is needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::payload;

/// Modules of one unpacked kernel package, found by name, decompressed when first wanted.
#[derive(Debug)]
pub(crate) struct Modules {
    files: BTreeMap<String, PathBuf>,
    loaded: BTreeMap<String, Module>,
}

#[derive(Debug)]
struct Module {
    data: Vec<u8>,
    depends: Vec<String>,
}

impl Modules {
    /// Looks through `root` (a `lib/modules/RELEASE` directory) for `*.ko`, `.ko.xz`, `.ko.zst`.
    pub(crate) fn find(root: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut todo = vec![root.to_path_buf()];
        while let Some(dir) = todo.pop() {
            let inside = std::fs::read_dir(&dir)
                .with_context(|| format!("cannot list modules in {}", dir.display()))?;
            for entry in inside {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    todo.push(entry.path());
                } else if let Some((stem, _)) = entry
                    .file_name()
                    .to_str()
                    .and_then(|name| name.split_once(".ko"))
                {
                    files.insert(stem.replace('-', "_"), entry.path());
                }
            }
        }
        Ok(Self {
            files,
            loaded: BTreeMap::new(),
        })
    }

    /// `wanted` and all it needs, needed ones first, each once. Names that the kernel has built
    /// in (no file) are left out.
    pub(crate) fn order(&mut self, wanted: &[&str]) -> Result<Vec<String>> {
        for name in wanted {
            self.load(&name.replace('-', "_"))?;
        }
        let depends = |name: &str| {
            self.loaded
                .get(name)
                .map(|module| module.depends.as_slice())
        };
        load_order(wanted, depends)
    }

    /// The decompressed module; only for names that `order` returned.
    pub(crate) fn data(&self, name: &str) -> Option<&[u8]> {
        self.loaded.get(name).map(|module| module.data.as_slice())
    }

    fn load(&mut self, name: &str) -> Result<()> {
        let mut todo = vec![name.to_owned()];
        while let Some(name) = todo.pop() {
            let Some(path) = self
                .files
                .get(&name)
                .filter(|_| !self.loaded.contains_key(&name))
            else {
                continue;
            };
            let read = || -> Result<Module> {
                let data = payload::decompress(&std::fs::read(path)?)?;
                let depends = depends(&data)?;
                Ok(Module { data, depends })
            };
            let module = read().with_context(|| format!("cannot read {}", path.display()))?;
            todo.extend(module.depends.iter().cloned());
            self.loaded.insert(name, module);
        }
        Ok(())
    }
}

/// Depth first, needed ones first. `depends` answers `None` for what is built in.
fn load_order<'a>(
    wanted: &[&str],
    depends: impl Fn(&str) -> Option<&'a [String]>,
) -> Result<Vec<String>> {
    fn visit<'a>(
        name: &str,
        depends: &dyn Fn(&str) -> Option<&'a [String]>,
        path: &mut Vec<String>,
        out: &mut Vec<String>,
    ) -> Result<()> {
        let Some(needs) = depends(name).filter(|_| !out.iter().any(|done| done == name)) else {
            return Ok(());
        };
        if path.iter().any(|above| above == name) {
            bail!(
                "modules depend on each other in a circle: {}, {name}",
                path.join(", ")
            );
        }
        path.push(name.to_owned());
        for need in needs {
            visit(need, depends, path, out)?;
        }
        path.pop();
        out.push(name.to_owned());
        Ok(())
    }
    let mut out = Vec::new();
    for name in wanted {
        visit(&name.replace('-', "_"), &depends, &mut Vec::new(), &mut out)?;
    }
    Ok(out)
}

/// The `depends=` entry of a module, an ELF64 little-endian file (System V ABI, section headers).
fn depends(elf: &[u8]) -> Result<Vec<String>> {
    let info = section(elf, b".modinfo").context("not a kernel module: no .modinfo section")?;
    let entry = info
        .split(|&byte| byte == 0)
        .find_map(|entry| entry.strip_prefix(b"depends="));
    let names = std::str::from_utf8(entry.unwrap_or_default())?;
    Ok(names
        .split(',')
        .filter(|n| !n.is_empty())
        .map(|n| n.replace('-', "_"))
        .collect())
}

fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    let u16_at = |at: usize| {
        elf.get(at..at + 2)?
            .try_into()
            .ok()
            .map(|bytes| usize::from(u16::from_le_bytes(bytes)))
    };
    let u32_at = |at: usize| {
        elf.get(at..at + 4)?
            .try_into()
            .ok()
            .map(|bytes| u32::from_le_bytes(bytes) as usize)
    };
    let u64_at = |at: usize| {
        let bytes = elf.get(at..at.checked_add(8)?)?.try_into().ok()?;
        usize::try_from(u64::from_le_bytes(bytes))
            .ok()
            .filter(|&value| value <= elf.len())
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, size, count, names) = (u64_at(0x28)?, u16_at(0x3a)?, u16_at(0x3c)?, u16_at(0x3e)?);
    let body = |n: usize| {
        let header = table + n * size;
        let start = u64_at(header + 0x18)?;
        elf.get(start..start + u64_at(header + 0x20)?)
    };
    let names = body(names)?;
    (0..count).find_map(|n| {
        let name = names.get(u32_at(table + n * size)?..)?;
        (name.starts_with(wanted) && name.get(wanted.len()) == Some(&0)).then(|| body(n))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(wanted: &[&str], graph: &[(&str, &[&str])]) -> Result<Vec<String>> {
        let graph: BTreeMap<String, Vec<String>> = graph
            .iter()
            .map(|(name, needs)| ((*name).into(), needs.iter().map(|n| (*n).into()).collect()))
            .collect();
        load_order(wanted, |name| graph.get(name).map(Vec::as_slice))
    }

    /// An ELF64 file with a `.modinfo` section of the given bytes.
    fn module(info: &[u8]) -> Vec<u8> {
        let names = b"\0.modinfo\0";
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let (info_at, names_at) = (elf.len(), elf.len() + info.len());
        elf.extend_from_slice(info);
        elf.extend_from_slice(names);
        let table = elf.len() as u64;
        elf[0x28..0x30].copy_from_slice(&table.to_le_bytes());
        elf[0x3a] = 64;
        elf[0x3c] = 2;
        elf[0x3e] = 1;
        for (name, at, len) in [(1_u32, info_at, info.len()), (0, names_at, names.len())] {
            let mut header = [0; 64];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(at as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(len as u64).to_le_bytes());
            elf.extend_from_slice(&header);
        }
        elf
    }

    #[test]
    fn needed_modules_come_first_and_once() {
        let graph: &[(&str, &[&str])] = &[
            ("kvm_amd", &["kvm", "irqbypass"]),
            ("kvm", &["irqbypass"]),
            ("irqbypass", &[]),
        ];
        assert_eq!(
            order(&["kvm-amd", "kvm"], graph).unwrap(),
            ["irqbypass", "kvm", "kvm_amd"]
        );
    }

    #[test]
    fn built_in_modules_are_left_out() {
        let graph: &[(&str, &[&str])] = &[("vhost", &["virtio", "tap"]), ("tap", &[])];
        assert_eq!(
            order(&["vhost", "virtio_pci"], graph).unwrap(),
            ["tap", "vhost"]
        );
    }

    #[test]
    fn a_circle_is_an_error_that_names_it() {
        let graph: &[(&str, &[&str])] = &[("a", &["b"]), ("b", &["a"])];
        assert!(
            order(&["a"], graph)
                .unwrap_err()
                .to_string()
                .contains("a, b, a")
        );
    }

    #[test]
    fn depends_is_read_from_modinfo() {
        let elf = module(b"license=GPL\0depends=irqbypass,kvm-x\0retpoline=Y\0");
        assert_eq!(depends(&elf).unwrap(), ["irqbypass", "kvm_x"]);
        assert!(depends(&module(b"depends=\0")).unwrap().is_empty());
    }

    #[test]
    fn a_truncated_module_is_an_error_or_complete() {
        let elf = module(b"depends=a\0");
        for length in 0..elf.len() {
            if let Ok(found) = depends(&elf[..length]) {
                assert_eq!(found, ["a"]);
            }
        }
        assert!(depends(&elf[..64]).is_err());
    }
}
