// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! `vmm ctl`: one request to a running VM, its reply, and what of it a person wants to read.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::io::Errno;
use serde_json::{Value, json};
use vm_pdm::stats::Snapshot;

use super::socket::dial;
use crate::args::{CtlArgs, CtlVerb};
use crate::exit::{Failure, Status};
use crate::flags::image_flag;
use crate::say;

/// How long a reply may take: past every limit the operations have.
const REPLY_LIMIT: Duration = Duration::from_secs(90);

/// The longest line that is read, in bytes.
const LINE_LIMIT: u64 = 16 << 20;

/// Runs one verb.
///
/// # Errors
/// Status 2 if there is no VM at the socket, 8 if the VM refused, failed or went.
pub(crate) fn ctl(args: &CtlArgs) -> Result<Status, Failure> {
    let stream = open(&args.socket).map_err(Failure::usage)?;
    converse(args, stream).map_err(|error| Failure {
        status: Status::Control,
        error,
    })?;
    Ok(Status::Ok)
}

fn open(path: &Path) -> anyhow::Result<UnixStream> {
    dial(path).map_err(|e| {
        let path = path.display();
        match e {
            Errno::NOENT => {
                anyhow!("no control socket at {path}; is a VM running with --control {path}?")
            }
            Errno::CONNREFUSED => {
                anyhow!("nobody serves {path}: its VM is gone; start one with --control {path}")
            }
            Errno::ACCESS | Errno::PERM => {
                anyhow!("{path} is another user's; be the user who runs the VM, or root")
            }
            Errno::AGAIN => anyhow!(
                "{path}: connections are not being taken; look whether its VM's program hangs"
            ),
            Errno::NOTSOCK => anyhow!("{path} is not a control socket"),
            e => anyhow!("cannot connect to {path}: {e}"),
        }
    })
}

fn request(verb: &CtlVerb) -> Value {
    let op = match verb {
        CtlVerb::Status => "status",
        CtlVerb::Suspend => "suspend",
        CtlVerb::Resume => "resume",
        CtlVerb::Reset => "reset",
        CtlVerb::Poweroff { .. } => "poweroff",
        CtlVerb::Plug { .. } => "plug",
        CtlVerb::Unplug { .. } => "unplug",
        CtlVerb::Cap { .. } => "cap",
        CtlVerb::Attach { .. } => "attach",
        CtlVerb::Detach { .. } => "detach",
        CtlVerb::Destroy => "destroy",
        CtlVerb::Wait { .. } => "wait",
        CtlVerb::Events => "events",
        CtlVerb::Info { .. } => "info",
        CtlVerb::Bundle { .. } => "bundle",
        CtlVerb::Stats { .. } => "stats",
        CtlVerb::Version => "version",
    };
    let mut request = json!({ "id": 1, "op": op });
    if let CtlVerb::Wait { until, limit_ms } = verb {
        request["until"] = until.iter().map(|state| state.name()).collect();
        if let Some(ms) = limit_ms {
            request["limit_ms"] = json!(ms);
        }
    }
    match verb {
        CtlVerb::Poweroff { graceful: true, .. } => request["graceful"] = json!(true),
        // The VM's program need not be where we are; a path that is not UTF-8 is named as it is shown.
        CtlVerb::Bundle { dir } => {
            request["dir"] = json!(place(dir));
        }
        CtlVerb::Attach {
            device,
            what,
            replace,
        } => {
            request["device"] = json!(device);
            request["replace"] = json!(replace);
            if let Some(path) = what.as_os_str().as_bytes().strip_prefix(b"unix:") {
                request["socket"] = json!(place(Path::new(OsStr::from_bytes(path))));
            } else {
                let (path, read_only) = image_flag(what);
                request["path"] = json!(place(&path));
                request["read_only"] = json!(read_only);
            }
        }
        CtlVerb::Detach { device } => request["device"] = json!(device),
        CtlVerb::Plug { vcpu } | CtlVerb::Unplug { vcpu } => request["vcpu"] = json!(vcpu),
        CtlVerb::Cap { percent } => request["percent"] = json!(percent),
        CtlVerb::Info {
            page: Some(page),
            args,
        } => {
            request["page"] = json!(page);
            request["args"] = json!(args.join(" "));
        }
        CtlVerb::Stats { pattern, reset, .. } => {
            request["pattern"] = json!(pattern.as_deref().unwrap_or("*"));
            request["reset"] = json!(reset);
        }
        CtlVerb::Poweroff { .. }
        | CtlVerb::Status
        | CtlVerb::Suspend
        | CtlVerb::Resume
        | CtlVerb::Reset
        | CtlVerb::Destroy
        | CtlVerb::Wait { .. }
        | CtlVerb::Events
        | CtlVerb::Info { page: None, .. }
        | CtlVerb::Version => {}
    }
    request
}

/// From /, as it is shown.
fn place(path: &Path) -> String {
    let from_root = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    from_root.display().to_string()
}

fn converse(args: &CtlArgs, mut stream: UnixStream) -> anyhow::Result<()> {
    let mut limit = REPLY_LIMIT;
    if let CtlVerb::Wait {
        limit_ms: Some(ms), ..
    }
    | CtlVerb::Poweroff {
        graceful: true,
        limit_ms: ms,
    } = &args.verb
    {
        limit = limit.saturating_add(Duration::from_millis(*ms));
    }
    stream.set_read_timeout(Some(limit))?;
    let line = format!("{}\n", request(&args.verb));
    // A VM that turns us away may have closed already; what it said is still to be read, and if it
    // said nothing, that is told.
    let _ = stream.write_all(line.as_bytes());
    let mut lines = BufReader::new(&stream);
    let (text, reply) = next(&mut lines)?.ok_or_else(|| {
        anyhow!("the VM went without a reply; look whether its program is still there")
    })?;
    if args.json {
        print(&text)?;
    }
    if reply["ok"] != Value::Bool(true) {
        let why = reply["error"]["message"].as_str();
        return Err(anyhow!("{}", why.unwrap_or("the VM gave no reason")));
    }
    if let CtlVerb::Poweroff {
        graceful: true,
        limit_ms,
    } = args.verb
    {
        return wait_for_off(args, &mut stream_of(&stream)?, &mut lines, limit_ms);
    }
    if !args.json {
        print(&readable(&args.verb, &reply))?;
    }
    if matches!(args.verb, CtlVerb::Events) {
        // Nothing may happen for as long as it likes.
        stream.set_read_timeout(None)?;
        events(args, &mut lines)?;
    }
    Ok(())
}

fn stream_of(stream: &UnixStream) -> anyhow::Result<UnixStream> {
    stream.try_clone().context("no descriptor is left")
}

/// The button is pressed: waits until the guest has shut itself down.
fn wait_for_off(
    args: &CtlArgs,
    stream: &mut UnixStream,
    lines: &mut impl BufRead,
    limit_ms: u64,
) -> anyhow::Result<()> {
    let until = [vm_state::State::Off, vm_state::State::Terminated].map(|state| state.name());
    let wait = json!({ "id": 2, "op": "wait", "until": until, "limit_ms": limit_ms });
    // A guest that is off already has closed the connection, which is read below.
    let _ = stream.write_all(format!("{wait}\n").as_bytes());
    match next(lines)? {
        None => {
            if !args.json {
                print("OFF")?;
            }
            Ok(())
        }
        Some((line, reply)) if reply["ok"] == Value::Bool(true) => print(if args.json {
            &line
        } else {
            reply["state"].as_str().unwrap_or("?")
        }),
        Some((line, _)) => {
            if args.json {
                print(&line)?;
            }
            Err(anyhow!(
                "the guest has not shut itself down within {limit_ms} ms: it may not listen to a \
                 power button; poweroff without --graceful does not ask it"
            ))
        }
    }
}

/// Prints events until the VM's program ends.
fn events(args: &CtlArgs, lines: &mut impl BufRead) -> anyhow::Result<()> {
    while let Some((line, event)) = next(lines)? {
        if event["ok"] == Value::Bool(false) {
            let why = event["error"]["message"].as_str();
            return Err(anyhow!("{}", why.unwrap_or("the VM ended the stream")));
        }
        if args.json {
            print(&line)?;
            continue;
        }
        print(&readable_event(&event).unwrap_or(line))?;
    }
    Ok(())
}

/// An event for a person; `None` for one that is not known.
fn readable_event(event: &Value) -> Option<String> {
    let text = |key: &str| event[key].as_str().unwrap_or("?").replace('\n', "; ");
    match event["event"].as_str()? {
        "state" => Some(format!(
            "{} -> {} ({})",
            text("old"),
            text("new"),
            text("cause")
        )),
        "error" if event["source"].is_string() => Some(format!(
            "error: {}: {} ({}, action: {})",
            text("source"),
            text("message"),
            text("id"),
            text("action")
        )),
        "error" => Some(format!("error: {}", text("message"))),
        "backend" => Some(attached(event)),
        "end" => Some(format!(
            "ended: {}, exit status {}",
            text("state"),
            event["status"]
        )),
        _ => None,
    }
}

/// The next line, as it is and as JSON; `None` at the end.
fn next(lines: &mut impl BufRead) -> anyhow::Result<Option<(String, Value)>> {
    let mut line = Vec::new();
    let got = lines.take(LINE_LIMIT).read_until(b'\n', &mut line);
    match got {
        Ok(0) => Ok(None),
        // It closed with something of ours unread, after it said what it had to say.
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(anyhow!(
            "no reply within the limit; look at what the VM's program does"
        )),
        Err(e) => Err(anyhow!(e).context("the connection broke")),
        Ok(_) => {
            let value = serde_json::from_slice(&line)
                .context("what answers there does not speak the control protocol")?;
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            Ok(Some((text, value)))
        }
    }
}

fn readable(verb: &CtlVerb, reply: &Value) -> String {
    let state = || reply["state"].as_str().unwrap_or("?").to_owned();
    match verb {
        CtlVerb::Info { .. } => reply["text"].as_str().unwrap_or("").trim_end().to_owned(),
        CtlVerb::Status => format!(
            "{}: {} (before: {}), {} vCPU(s), plugged {}, cap {} %, threads {}, {} hard and {} soft resets",
            reply["name"].as_str().unwrap_or("?"),
            state(),
            reply["previous"].as_str().unwrap_or("?"),
            reply["vcpus"],
            reply["plugged"],
            reply["cap_percent"],
            reply["tids"],
            reply["hard_resets"],
            reply["soft_resets"]
        ),
        CtlVerb::Stats {
            pattern,
            all,
            openmetrics,
            ..
        } => {
            let mut samples: Snapshot =
                serde_json::from_value(reply["samples"].clone()).unwrap_or_default();
            if *openmetrics {
                return samples.openmetrics().trim_end().to_owned();
            }
            if !all {
                samples = samples.used();
            }
            let mut text = samples.to_string();
            if pattern.is_none() {
                text.insert_str(0, &summary(reply));
            }
            text.trim_end().to_owned()
        }
        CtlVerb::Version => format!(
            "vmm {}, protocol {}",
            reply["version"].as_str().unwrap_or("?"),
            reply["protocol"]
        ),
        CtlVerb::Plug { .. } | CtlVerb::Unplug { .. } => {
            format!("plugged vCPUs: {}", reply["plugged"])
        }
        CtlVerb::Bundle { .. } => reply["dir"].as_str().unwrap_or("?").to_owned(),
        CtlVerb::Cap { .. } => format!("cap: {} %", reply["cap_percent"]),
        CtlVerb::Attach { .. } | CtlVerb::Detach { .. } => attached(reply),
        CtlVerb::Suspend
        | CtlVerb::Resume
        | CtlVerb::Reset
        | CtlVerb::Poweroff { .. }
        | CtlVerb::Destroy
        | CtlVerb::Wait { .. }
        | CtlVerb::Events => state(),
    }
}

/// What a device has now, of an event or of the reply to an attach or detach.
fn attached(told: &Value) -> String {
    let device = told["device"].as_str().unwrap_or("?");
    match (told["path"].as_str(), told["socket"].as_str()) {
        (Some(path), _) if told["sectors"].is_number() => {
            format!("{device}: {path}, {} sectors", told["sectors"])
        }
        (Some(path), _) => format!("{device}: {path}"),
        (None, Some(socket)) => format!("{device}: unix:{socket}"),
        (None, None) => format!("{device}: nothing attached"),
    }
}

/// The few counts that need no path.
fn summary(reply: &Value) -> String {
    let mut text = format!(
        "{} hard and {} soft resets\n",
        reply["hard_resets"], reply["soft_resets"]
    );
    for vcpu in reply["vcpus"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "vCPU {}: {}, {} kicks, {} wakes, {} parks\n",
            vcpu["vcpu"],
            vcpu["word"].as_str().unwrap_or("?"),
            vcpu["kicks"],
            vcpu["wakes"],
            vcpu["parks"]
        ));
    }
    text
}

/// Prints a line; that nobody reads on is no failure of the VM.
fn print(text: &str) -> anyhow::Result<()> {
    say::output(text).context("cannot write the output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_for_a_person_and_an_unknown_one_is_left_as_it_is() {
        let said = |event: Value| readable_event(&event);
        assert_eq!(
            said(
                json!({"event": "error", "sequence": 1, "id": "DiskFull", "source": "disk0",
                "message": "no room\nmake some", "action": "suspend"})
            )
            .unwrap(),
            "error: disk0: no room; make some (DiskFull, action: suspend)"
        );
        assert_eq!(
            said(json!({"event": "error", "sequence": 2, "op": "resume", "message": "resume refused"}))
                .unwrap(),
            "error: resume refused"
        );
        assert_eq!(
            said(json!({"event": "state", "old": "RUNNING", "new": "SUSPENDING", "cause": "user"}))
                .unwrap(),
            "RUNNING -> SUSPENDING (user)"
        );
        assert_eq!(
            said(
                json!({"event": "backend", "device": "disk0", "path": "/a", "read_only": true,
                "sectors": 8})
            )
            .unwrap(),
            "disk0: /a, 8 sectors"
        );
        assert_eq!(
            said(json!({"event": "backend", "device": "disk0", "path": null, "sectors": 0}))
                .unwrap(),
            "disk0: nothing attached"
        );
        for (path, socket, text) in [
            (json!("/log"), json!(null), "com1: /log"),
            (json!(null), json!("/s"), "com1: unix:/s"),
            (json!(null), json!(null), "com1: nothing attached"),
        ] {
            let event = json!({"event": "backend", "device": "com1", "path": path,
                "socket": socket});
            assert_eq!(said(event).unwrap(), text);
        }
        assert_eq!(said(json!({"event": "later"})), None);
        assert_eq!(said(json!(7)), None);
    }
}
