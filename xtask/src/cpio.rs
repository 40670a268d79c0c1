// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Writes "newc" cpio archives, the format Linux unpacks as its initramfs.
//!
//! Linux accepts several archives one behind another, so a base archive and a small one with the
//! job can be concatenated; each ends with its own trailer and stays 4-byte aligned.
//! The format is described in the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

const DIR: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const NAME_BYTES_MAX: usize = 4096;

/// One archive being written to `out`.
#[derive(Debug)]
pub(crate) struct Archive<W: Write> {
    out: W,
    inode: u32,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, inode: 0 }
    }

    /// A directory; parents must have been added before.
    pub(crate) fn dir(&mut self, name: &str) -> Result<()> {
        self.entry(name, DIR | 0o755, &[])
    }

    /// A regular file with permission bits `mode`.
    pub(crate) fn file(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.entry(name, FILE | (mode & 0o7777), data)
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, name: &str, target: &str) -> Result<()> {
        self.entry(name, LINK | 0o777, target.as_bytes())
    }

    /// A host file or a whole host directory as `name`, permission bits kept. Parents of `name`
    /// are added too.
    pub(crate) fn host_path(&mut self, name: &str, from: &Path) -> Result<()> {
        let mut at = 0;
        while let Some(slash) = name.get(at..).and_then(|rest| rest.find('/')) {
            self.dir(&name[..at + slash])?;
            at += slash + 1;
        }
        self.host_tree(name, from)
    }

    fn host_tree(&mut self, name: &str, from: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let meta =
            std::fs::metadata(from).with_context(|| format!("cannot read {}", from.display()))?;
        if !meta.is_dir() {
            let data =
                std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
            return self.file(name, meta.permissions().mode(), &data);
        }
        self.dir(name)?;
        let mut inside = std::fs::read_dir(from)?.collect::<io::Result<Vec<_>>>()?;
        inside.sort_by_key(std::fs::DirEntry::file_name);
        for entry in inside {
            let part = entry.file_name();
            let Some(part) = part.to_str() else {
                bail!("{} has a name that is not UTF-8", entry.path().display());
            };
            self.host_tree(&format!("{name}/{part}"), &entry.path())?;
        }
        Ok(())
    }

    /// Writes the trailer and hands the writer back.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) -> Result<()> {
        if name.is_empty() || name.len() >= NAME_BYTES_MAX || name.contains('\0') {
            bail!("{name:?} cannot be a name in an archive");
        }
        let size = u32::try_from(data.len())
            .with_context(|| format!("{name} is larger than 4 GiB, which newc cannot hold"))?;
        let links = if mode & DIR == DIR && mode & FILE != FILE {
            2
        } else {
            1
        };
        let name_bytes = u32::try_from(name.len() + 1).context("name length")?;
        self.inode += u32::from(mode != 0);
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_bytes, 0,
        ];
        write!(self.out, "070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(6 + 13 * 8 + name.len() + 1)?;
        self.out.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, written: usize) -> Result<()> {
        self.out.write_all(&[0; 3][..written.wrapping_neg() & 3])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    struct Read {
        name: String,
        mode: u32,
        data: Vec<u8>,
    }

    /// An independent reader of one archive; returns the entries and the bytes it used.
    fn read(bytes: &[u8]) -> (Vec<Read>, usize) {
        let field = |at: usize, n: usize| {
            let text = std::str::from_utf8(&bytes[at + 6 + 8 * n..at + 14 + 8 * n]).unwrap();
            usize::from_str_radix(text, 16).unwrap()
        };
        let (mut at, mut found) = (0, Vec::new());
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (mode, size, name_bytes) = (field(at, 1), field(at, 6), field(at, 11));
            let name = &bytes[at + 110..at + 110 + name_bytes - 1];
            let name = String::from_utf8(name.to_vec()).unwrap();
            let data_at = (at + 110 + name_bytes).next_multiple_of(4);
            at = (data_at + size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                return (found, at);
            }
            let mode = u32::try_from(mode).unwrap();
            found.push(Read {
                name,
                mode,
                data: bytes[data_at..data_at + size].to_vec(),
            });
        }
    }

    #[test]
    fn entries_of_every_length_come_back_as_written() {
        for length in 0..9 {
            let data = vec![7; length];
            let name = &"abcdefghi"[..=length];
            let mut archive = Archive::new(Vec::new());
            archive.dir("d").unwrap();
            archive.file(name, 0o755, &data).unwrap();
            archive.link("l", "target").unwrap();
            let bytes = archive.finish().unwrap();
            let (found, used) = read(&bytes);
            assert_eq!(used, bytes.len());
            let want = [
                Read {
                    name: "d".into(),
                    mode: 0o040_755,
                    data: Vec::new(),
                },
                Read {
                    name: name.into(),
                    mode: 0o100_755,
                    data,
                },
                Read {
                    name: "l".into(),
                    mode: 0o120_777,
                    data: b"target".to_vec(),
                },
            ];
            assert_eq!(found, want);
        }
    }

    #[test]
    fn parents_of_a_host_path_come_before_it() {
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let mut archive = Archive::new(Vec::new());
        archive.host_path("job/a/manifest", &here).unwrap();
        let (found, _) = read(&archive.finish().unwrap());
        let names: Vec<_> = found.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(names, ["job", "job/a", "job/a/manifest"]);
        assert_eq!(found[2].data, std::fs::read(here).unwrap());
    }

    #[test]
    fn a_missing_host_file_is_an_error_that_names_it() {
        let mut archive = Archive::new(Vec::new());
        let error = archive
            .host_path("x", Path::new("/nonexistent/file"))
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/file"));
    }
}
