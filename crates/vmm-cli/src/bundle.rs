// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A bundle: what is known of a VM at one moment, as a directory of text files to look at later.
//!
//! | file | what |
//! |---|---|
//! | `report.txt` | why the guest died if it did, registers, and what each EMT did last |
//! | `pages/NAME.txt` | the info page NAME, or why it did not come |
//! | `stats.json`, `stats.openmetrics` | everything that is counted |
//! | `config.toml` | the effective configuration, and who said it |
//! | `log.txt` | the last log lines |
//!
//! Invariant: the directory is there whole or not at all, and nothing that was there is changed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use vm_core::Vm;
use vm_pdm::info::HELP;
use vm_pdm::stats::{Pattern, Snapshot};

use crate::logger;

/// How long the EMTs have to say what they do, all together.
const REPORT_LIMIT: Duration = Duration::from_secs(1);

/// How long one page may take, and all of them together.
const PAGE_LIMIT: Duration = Duration::from_secs(1);
const PAGES_LIMIT: Duration = Duration::from_secs(5);

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundleError {
    /// Something of the name is there.
    #[error("{} exists already; name a directory for the bundle that does not", dir.display())]
    Exists { dir: PathBuf },
    /// There is nowhere to put it.
    #[error("{} is not a directory; make it first, or name another place for the bundle", dir.display())]
    Nowhere { dir: PathBuf },
    /// The host did not write it.
    #[error("cannot write {}; look at the place, its permissions and room", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Files by their path in the bundle.
#[derive(Debug)]
pub(crate) struct Bundle(Vec<(String, String)>);

impl Bundle {
    /// Asks the VM for everything, in any state; takes a few seconds at most. What does not come is
    /// told in its place. Not on an EMT.
    pub(crate) fn of(vm: &Vm, config: &str) -> Self {
        let stats = match "*".parse::<Pattern>() {
            Ok(all) => vm.stats().snapshot(&all),
            Err(_) => Snapshot::default(),
        };
        let mut files = vec![
            ("report.txt".to_owned(), report(vm)),
            ("config.toml".to_owned(), config.to_owned()),
            ("stats.json".to_owned(), json(&stats)),
            ("stats.openmetrics".to_owned(), stats.openmetrics()),
        ];
        let deadline = Instant::now() + PAGES_LIMIT;
        for (name, _) in vm.infos().list() {
            if name == HELP {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let page = vm.infos().run(&name, "", left.min(PAGE_LIMIT));
            let text = page.unwrap_or_else(|e| format!("{e}\n"));
            files.push((format!("pages/{name}.txt"), text));
        }
        // Last, so that it tells also of what went wrong above.
        files.push(("log.txt".to_owned(), logger::last_lines()));
        Self(files)
    }

    /// Writes it beside `dir`, then renames it.
    ///
    /// # Errors
    /// [`BundleError`]; nothing is left behind.
    pub(crate) fn save(&self, dir: &Path) -> Result<(), BundleError> {
        check_place(dir)?;
        let mut beside = dir.as_os_str().to_owned();
        beside.push(format!(".partial-{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let done = self.write(&beside).and_then(|()| rename(&beside, dir));
        if done.is_err() {
            // What cannot be removed is told with the error above it.
            let _ = fs::remove_dir_all(&beside);
        }
        done
    }

    fn write(&self, beside: &Path) -> Result<(), BundleError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            |source| BundleError::Io { path, source }
        };
        fs::create_dir(beside).map_err(failed(beside))?;
        for (name, text) in &self.0 {
            let path = beside.join(name);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(failed(parent))?;
            }
            File::create_new(&path)
                .and_then(|mut file| {
                    file.write_all(text.as_bytes())?;
                    file.sync_all()
                })
                .map_err(failed(&path))?;
        }
        Ok(())
    }
}

/// Refuses a place at which no bundle can be made.
///
/// # Errors
/// [`BundleError::Exists`], [`BundleError::Nowhere`].
pub(crate) fn check_place(dir: &Path) -> Result<(), BundleError> {
    if dir.symlink_metadata().is_ok() {
        return Err(BundleError::Exists { dir: dir.into() });
    }
    let parent = match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => dir,
    };
    if parent.is_dir() {
        Ok(())
    } else {
        Err(BundleError::Nowhere { dir: parent.into() })
    }
}

/// Renames without replacing, which rename(2) does with an empty directory.
fn rename(from: &Path, to: &Path) -> Result<(), BundleError> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(BundleError::Exists { dir: to.into() }),
        // A file system without that flag; the place was free a moment ago.
        Err(Errno::INVAL | Errno::NOSYS) => {
            check_place(to)?;
            fs::rename(from, to).map_err(|source| BundleError::Io {
                path: to.into(),
                source,
            })
        }
        Err(e) => Err(BundleError::Io {
            path: to.into(),
            source: e.into(),
        }),
    }
}

fn report(vm: &Vm) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("vmm {version}\n");
    if let Some(guru) = vm.guru() {
        text.push_str(&format!("the guest died\n{guru}\n"));
    }
    match vm.report(REPORT_LIMIT) {
        Ok(report) => text.push_str(&report.to_string()),
        Err(e) => text.push_str(&format!("the EMTs were not asked: {e}\n")),
    }
    text
}

fn json(stats: &Snapshot) -> String {
    match serde_json::to_string_pretty(stats) {
        Ok(text) => text + "\n",
        Err(e) => format!("{{\"error\":{}}}\n", serde_json::json!(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use vm_core::{Parts, VmSpec};
    use vm_cpu::script::{Fault, Script, ScriptEngine};
    use vm_state::State;

    const LIMIT: Duration = Duration::from_secs(60);

    fn bundle() -> Bundle {
        let file = |name: &str| (name.to_owned(), format!("{name}\n"));
        Bundle(vec![file("report.txt"), file("pages/cpu.txt")])
    }

    #[test]
    fn a_guest_that_triple_faults_leaves_a_bundle_that_tells_of_it() {
        let engine = Arc::new(ScriptEngine::new(
            Script::new().pio_write(0x80, 1, 1).fault(Fault::Shutdown),
        ));
        let spec = VmSpec {
            memory_bytes: 1 << 20,
            ..VmSpec::default()
        };
        let vm = Vm::create(spec, Parts::bare(engine)).unwrap();
        vm.power_on().unwrap();
        vm.wait_until(|s| s == State::GuruMeditation, Some(LIMIT))
            .expect("the guest dies");
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("b");
        Bundle::of(&vm, "vm.cpus = 1\n").save(&place).unwrap();
        let read = |name: &str| fs::read_to_string(place.join(name)).unwrap();
        let report = read("report.txt");
        for word in ["triple fault", "GURU_MEDITATION", "rip", "deeds"] {
            assert!(report.contains(word), "no {word} in {report}");
        }
        assert_eq!(read("config.toml"), "vm.cpus = 1\n");
        assert!(read("pages/cpu.txt").starts_with("vCPU 0"));
        assert!(read("stats.openmetrics").ends_with("# EOF\n"));
        let stats: serde_json::Value = serde_json::from_str(&read("stats.json")).unwrap();
        assert!(stats.as_array().is_some_and(|samples| !samples.is_empty()));
        assert!(place.join("log.txt").is_file());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        vm.power_off().unwrap();
        vm.destroy(LIMIT).unwrap();
    }

    #[test]
    fn what_is_there_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("b");
        bundle().save(&place).unwrap();
        let again = bundle().save(&place).unwrap_err().to_string();
        assert!(again.contains(place.to_str().unwrap()), "{again}");
        let (empty, file) = (dir.path().join("empty"), dir.path().join("file"));
        fs::create_dir(&empty).unwrap();
        fs::write(&file, "mine").unwrap();
        for there in [&empty, &file] {
            let found = bundle().save(there);
            assert!(
                matches!(found, Err(BundleError::Exists { .. })),
                "{found:?}"
            );
            // Whoever makes the place between the look and the rename keeps it too.
            let beside = dir.path().join("beside");
            bundle().write(&beside).unwrap();
            let found = rename(&beside, there);
            assert!(
                matches!(found, Err(BundleError::Exists { .. })),
                "{found:?}"
            );
            fs::remove_dir_all(&beside).unwrap();
        }
        assert_eq!(fs::read_dir(&empty).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(&file).unwrap(), "mine");
    }

    #[test]
    fn a_place_that_cannot_be_is_named_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = bundle().save(&dir.path().join("no/b"));
        let text = nowhere.unwrap_err().to_string();
        assert!(text.contains("/no is not a directory"), "{text}");
        // A file where a directory of the bundle has to be.
        let broken = Bundle(vec![
            ("pages".to_owned(), String::new()),
            ("pages/cpu.txt".to_owned(), String::new()),
        ]);
        let text = broken.save(&dir.path().join("b")).unwrap_err().to_string();
        assert!(text.contains("/pages"), "{text}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
