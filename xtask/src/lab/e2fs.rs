// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Debian's `mke2fs`, `e2fsck` and `debugfs` with the libraries they need, as one archive.
//!
//! The lab has no libraries of its own, so the programs bring theirs and their loader: `e2/LOADER
//! --library-path e2 e2/mke2fs ..`. A guest's file system is made and judged by them, not by us.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::debian;
use crate::cpio::Archive;

/// Packages, and what of each is taken: the start of a file's name.
const PARTS: &[(&str, &[&str])] = &[
    ("e2fsprogs", &["mke2fs", "e2fsck", "debugfs"]),
    ("libext2fs2", &["libext2fs.so.", "libe2p.so."]),
    ("libcom-err2", &["libcom_err.so."]),
    ("libss2", &["libss.so."]),
    ("libblkid1", &["libblkid.so."]),
    ("libuuid1", &["libuuid.so."]),
    ("libc6", &["ld-linux-x86-64.so.2", "libc.so.6"]),
];

/// A program of the archive, as a script of the lab calls it where the archive was unpacked.
pub(crate) fn call(program: &str) -> String {
    format!("e2/ld-linux-x86-64.so.2 --library-path e2 e2/{program}")
}

/// Makes the archive of all parts; packages are kept in `packages`, unpacked below `dir` for a while.
pub(super) fn archive(packages: &Path, dir: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::new(Vec::new());
    archive.dir("e2")?;
    for (package, starts) in PARTS {
        let deb = debian::with_lists(|| debian::download(package, packages))?;
        let tree = dir.join("unpacked-e2fs");
        debian::unpack(&deb, &tree)?;
        let files = files_below(&tree)?;
        for start in *starts {
            add(&mut archive, &files, start).with_context(|| format!("package {package}"))?;
        }
        debian::remove_dir(&tree)?;
    }
    archive.finish()
}

/// All files whose names begin with `start`; a library by its link, which is the name it is asked for.
fn add(archive: &mut Archive<Vec<u8>>, files: &[PathBuf], start: &str) -> Result<()> {
    let mut taken = Vec::new();
    for path in files {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let whole = !start.ends_with('.');
        if !taken.contains(&name) && (name == start || (!whole && name.starts_with(start))) {
            archive.file(&format!("e2/{name}"), 0o755, &std::fs::read(path)?)?;
            taken.push(name);
        }
    }
    if taken.is_empty() {
        bail!("it has no file {start}*");
    }
    Ok(())
}

/// Files and links to files, not followed out of the tree.
fn files_below(root: &Path) -> Result<Vec<PathBuf>> {
    let (mut todo, mut files) = (vec![root.to_path_buf()], Vec::new());
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                todo.push(entry.path());
            } else if entry.path().is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_a_package_lacks_is_named() {
        let files = [PathBuf::from("/nonexistent/libuuid.so.1")];
        let error = add(&mut Archive::new(Vec::new()), &files, "libss.so.").unwrap_err();
        assert_eq!(error.to_string(), "it has no file libss.so.*");
    }
}
