// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The text of the control protocol: lines to requests, replies to lines. No socket, no VM.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use vm_devices::DiskAccess;
use vm_pdm::stats::Pattern;
use vm_state::State;

/// Longest request in bytes, without its newline.
pub(super) const LINE_LIMIT: usize = 64 << 10;

/// Version of the protocol; additions that old clients can ignore do not change it.
pub(super) const PROTOCOL: u32 = 1;

/// How long `wait` waits when the request does not say.
const WAIT_DEFAULT: Duration = Duration::from_secs(60);

/// The longest `wait` that can be asked for.
const WAIT_LIMIT: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest that `unplug` waits for the guest, and how long it does when the request does not say.
const UNPLUG_LIMIT: Duration = Duration::from_secs(60);

/// Longest text that can be an id, in bytes.
const ID_LIMIT: usize = 128;

/// Longest message of an error, in characters: what a client sent does not come back at length.
const MESSAGE_LIMIT: usize = 400;

/// What a client calls its request; the reply carries it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub(super) enum Id {
    /// The request has none; `null`.
    None,
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
}

/// What can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    Status,
    Suspend,
    Resume,
    Reset,
    PowerOff(Manner),
    Destroy,
    Wait { until: Vec<State>, limit: Duration },
    Events,
    Info(Option<Page>),
    Stats(Option<Counts>),
    Bundle { dir: PathBuf },
    Plug { vcpu: u32 },
    Unplug { vcpu: u32, limit: Duration },
    Cap { percent: u32 },
    Attach(Attach),
    Detach { device: String },
    Version,
}

/// What is to be attached, and to what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attach {
    pub(super) device: String,
    pub(super) what: What,
    pub(super) room: Room,
}

/// What can be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// An image, or a file or terminal device for a console.
    Path(PathBuf, DiskAccess),
    /// A program that listens there.
    Socket(PathBuf),
}

/// Where there has to be room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// The device has nothing.
    Empty,
    /// It takes the place of what the device has.
    Replaced,
}

/// A page of `info`, other than the report about the VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) name: String,
    pub(super) args: String,
}

/// Which statistics are asked for by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) which: Pattern,
    pub(super) then: Then,
}

/// What becomes of statistics once they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// They count on.
    Keep,
    /// Counters and profiles begin anew.
    Reset,
}

/// How a VM is powered off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// At once.
    Hard,
    /// By the guest itself, which is shown a pressed power button.
    Graceful,
}

impl Op {
    /// Every operation by its name in a request.
    pub(super) const NAMES: [&'static str; 17] = [
        "status", "suspend", "resume", "reset", "poweroff", "destroy", "wait", "events", "info",
        "stats", "plug", "unplug", "cap", "version", "bundle", "attach", "detach",
    ];
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) id: Id,
    pub(super) op: Op,
}

/// Why a line is no request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Rejected {
    /// It cannot be told what the line is: the client is answered and dropped.
    Malformed(String),
    /// A request for something that does not exist; the client may go on.
    Usage { id: Id, message: String },
}

impl Rejected {
    pub(super) fn too_long() -> Self {
        Self::Malformed(format!("a request is longer than {LINE_LIMIT} bytes"))
    }
}

/// Reads one line, without its newline.
///
/// # Errors
/// [`Rejected`]. Memory is bounded by a small multiple of the line's length, nesting by serde_json.
pub(super) fn parse(line: &[u8]) -> Result<Request, Rejected> {
    if line.len() > LINE_LIMIT {
        return Err(Rejected::too_long());
    }
    let Members(mut members) = serde_json::from_slice(line)
        .map_err(|e| Rejected::Malformed(format!("not a JSON object on one line: {e}")))?;
    let id = take_id(&mut members).map_err(Rejected::Malformed)?;
    match take_op(&mut members) {
        Ok(op) => Ok(Request { id, op }),
        Err(message) => Err(Rejected::Usage { id, message }),
    }
}

fn take_id(members: &mut Map<String, Value>) -> Result<Id, String> {
    match members.remove("id") {
        None | Some(Value::Null) => Ok(Id::None),
        Some(Value::String(text)) if text.len() <= ID_LIMIT => Ok(Id::Text(text)),
        Some(Value::Number(number)) if number.is_u64() => {
            Ok(number.as_u64().map_or(Id::None, Id::Number))
        }
        Some(_) => Err(format!(
            "\"id\" must be a whole number from 0, or a text of at most {ID_LIMIT} bytes"
        )),
    }
}

fn take_op(members: &mut Map<String, Value>) -> Result<Op, String> {
    let known = || format!("known ones: {}", Op::NAMES.join(", "));
    let name = match members.remove("op") {
        Some(Value::String(name)) => name,
        Some(_) => return Err(format!("\"op\" must be a text; {}", known())),
        None => return Err(format!("\"op\" is missing; {}", known())),
    };
    let op = match name.as_str() {
        "status" => Op::Status,
        "suspend" => Op::Suspend,
        "resume" => Op::Resume,
        "reset" => Op::Reset,
        "poweroff" => Op::PowerOff(take_manner(members)?),
        "destroy" => Op::Destroy,
        "wait" => Op::Wait {
            until: take_until(members)?,
            limit: take_limit(members, WAIT_LIMIT)?,
        },
        "plug" => Op::Plug {
            vcpu: take_number(members, "vcpu")?,
        },
        "unplug" => Op::Unplug {
            vcpu: take_number(members, "vcpu")?,
            limit: take_limit(members, UNPLUG_LIMIT)?.min(UNPLUG_LIMIT),
        },
        "cap" => Op::Cap {
            percent: take_number(members, "percent")?,
        },
        "attach" => Op::Attach(take_attach(members)?),
        "detach" => Op::Detach {
            device: take_device(members)?,
        },
        "events" => Op::Events,
        "info" => Op::Info(take_page(members)?),
        "stats" => Op::Stats(take_counts(members)?),
        "bundle" => Op::Bundle {
            dir: take_path(members, "dir")?,
        },
        "version" => Op::Version,
        _ => return Err(format!("no operation {:?}; {}", brief(&name), known())),
    };
    match members.keys().next() {
        None => Ok(op),
        Some(key) => Err(format!("\"{name}\" takes no member {:?}", brief(key))),
    }
}

fn take_text(members: &mut Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match members.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("\"{name}\" must be a text")),
    }
}

/// A place that means the same to the program as to its client.
fn take_path(members: &mut Map<String, Value>, name: &str) -> Result<PathBuf, String> {
    take_text(members, name)?
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .ok_or_else(|| format!("\"{name}\" must be there, and be a path from /"))
}

fn take_device(members: &mut Map<String, Value>) -> Result<String, String> {
    take_text(members, "device")?
        .ok_or_else(|| "\"device\" must be there, such as \"disk0\"".to_owned())
}

fn take_what(members: &mut Map<String, Value>) -> Result<What, String> {
    if members.contains_key("socket") {
        return Ok(What::Socket(take_path(members, "socket")?));
    }
    let access = match take_flag(members, "read_only")? {
        true => DiskAccess::ReadOnly,
        false => DiskAccess::ReadWrite,
    };
    Ok(What::Path(take_path(members, "path")?, access))
}

fn take_attach(members: &mut Map<String, Value>) -> Result<Attach, String> {
    Ok(Attach {
        device: take_device(members)?,
        what: take_what(members)?,
        room: match take_flag(members, "replace")? {
            true => Room::Replaced,
            false => Room::Empty,
        },
    })
}

/// Absent is false.
fn take_flag(members: &mut Map<String, Value>, name: &str) -> Result<bool, String> {
    match members.remove(name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(format!("\"{name}\" must be true or false")),
    }
}

fn take_page(members: &mut Map<String, Value>) -> Result<Option<Page>, String> {
    let name = take_text(members, "page")?;
    let args = take_text(members, "args")?;
    match (name, args) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err("\"args\" are for a \"page\", which is missing".to_owned()),
        (Some(name), args) => Ok(Some(Page {
            name,
            args: args.unwrap_or_default(),
        })),
    }
}

fn take_counts(members: &mut Map<String, Value>) -> Result<Option<Counts>, String> {
    let pattern = take_text(members, "pattern")?;
    let then = match take_flag(members, "reset")? {
        false => Then::Keep,
        true => Then::Reset,
    };
    let which = match pattern {
        None if then == Then::Keep => return Ok(None),
        None => return Err("\"reset\" takes a \"pattern\"; \"*\" is everything".to_owned()),
        Some(text) => text
            .parse()
            .map_err(|e: vm_pdm::stats::StatError| e.to_string())?,
    };
    Ok(Some(Counts { which, then }))
}

fn take_until(members: &mut Map<String, Value>) -> Result<Vec<State>, String> {
    let wrong = || "\"until\" must be a list of states, such as [\"SUSPENDED\",\"OFF\"]".to_owned();
    let Some(Value::Array(names)) = members.remove("until") else {
        return Err(wrong());
    };
    if names.is_empty() || names.len() > State::ALL.len() {
        return Err(wrong());
    }
    let state = |name: &Value| {
        let name = name.as_str().ok_or_else(wrong)?;
        name.parse::<State>().map_err(|e| e.to_string())
    };
    names.iter().map(state).collect()
}

fn take_limit(members: &mut Map<String, Value>, most: Duration) -> Result<Duration, String> {
    let Some(value) = members.remove("limit_ms") else {
        return Ok(WAIT_DEFAULT);
    };
    value
        .as_u64()
        .map(Duration::from_millis)
        .filter(|limit| *limit <= most)
        .ok_or_else(|| {
            format!(
                "\"limit_ms\" must be a whole number from 0 to {}",
                most.as_millis()
            )
        })
}

fn take_number(members: &mut Map<String, Value>, key: &str) -> Result<u32, String> {
    let number = members.remove(key).and_then(|value| value.as_u64());
    number
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| format!("\"{key}\" must be there, and be a whole number from 0"))
}

fn take_manner(members: &mut Map<String, Value>) -> Result<Manner, String> {
    Ok(match take_flag(members, "graceful")? {
        false => Manner::Hard,
        true => Manner::Graceful,
    })
}

fn brief(text: &str) -> String {
    text.chars().take(40).collect()
}

/// An object's members; one that is there twice would be read differently by different readers.
struct Members(Map<String, Value>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Members, A::Error> {
                let mut members = Map::new();
                while let Some((key, value)) = access.next_entry::<String, Value>()? {
                    if members.contains_key(&key) {
                        return Err(A::Error::custom(format!(
                            "member {:?} is there twice",
                            brief(&key)
                        )));
                    }
                    members.insert(key, value);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// What sort of failure a reply tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// The line is no request; the connection ends.
    Malformed,
    /// The request asks for something that does not exist.
    Usage,
    /// The VM's state does not allow it; nothing changed.
    Refused,
    /// It was tried and did not succeed.
    Failed,
    /// A vCPU or a device did not come in time.
    Late,
    /// The time to wait is up.
    Timeout,
    /// The VM is being destroyed.
    Gone,
    /// Too much at once from this client, or too many clients.
    Busy,
    /// The peer is not allowed to control this VM; the connection ends.
    Denied,
}

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Failed {
    pub(super) kind: Kind,
    pub(super) message: String,
}

impl Failed {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if let Some((end, _)) = message.char_indices().nth(MESSAGE_LIMIT) {
            message.truncate(end);
        }
        Self { kind, message }
    }
}

/// A reply as a line, with its newline.
pub(super) fn reply(id: &Id, result: &Result<Value, Failed>) -> Vec<u8> {
    let more = match result {
        Ok(Value::Object(more)) => Value::Object(more.clone()),
        Ok(other) => serde_json::json!({ "result": other }),
        Err(failed) => serde_json::json!({ "error": failed }),
    }
    .to_string();
    // Who reads along sees first what it answers, and whether it went well.
    let head = serde_json::json!(id).to_string();
    let rest = match more.strip_prefix('{') {
        Some("}") | None => "}".to_owned(),
        Some(rest) => format!(",{rest}"),
    };
    format!("{{\"id\":{head},\"ok\":{}{rest}\n", result.is_ok()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn op(line: &str) -> Op {
        parse(line.as_bytes()).unwrap().op
    }

    #[test]
    fn every_operation_by_name_is_a_request() {
        for name in Op::NAMES {
            let more = match name {
                "wait" => ",\"until\":[\"OFF\"]",
                "plug" | "unplug" => ",\"vcpu\":1",
                "bundle" => ",\"dir\":\"/b\"",
                "attach" => ",\"device\":\"disk0\",\"path\":\"/d\"",
                "detach" => ",\"device\":\"disk0\"",
                "cap" => ",\"percent\":50",
                _ => "",
            };
            op(&format!("{{\"id\":1,\"op\":\"{name}\"{more}}}"));
        }
    }

    #[test]
    fn an_unknown_operation_or_member_is_named_and_keeps_its_id() {
        for (line, word) in [
            (r#"{"id":7,"op":"suspnd"}"#, "suspnd"),
            (r#"{"id":7,"op":"status","force":true}"#, "force"),
            (r#"{"id":7,"op":"info","args":"0"}"#, "page"),
            (r#"{"id":7,"op":"info","page":7}"#, "must be a text"),
            (r#"{"id":7,"op":"stats","pattern":"a||b"}"#, "pattern"),
            (r#"{"id":7,"op":"stats","reset":true}"#, "everything"),
            (
                r#"{"id":7,"op":"stats","pattern":"*","reset":1}"#,
                "true or false",
            ),
            (r#"{"id":7}"#, "\"op\" is missing"),
            (r#"{"id":7,"op":3}"#, "must be a text"),
            (r#"{"id":7,"op":"wait"}"#, "until"),
            (r#"{"id":7,"op":"wait","until":[]}"#, "until"),
            (r#"{"id":7,"op":"wait","until":["off"]}"#, "off"),
            (r#"{"id":7,"op":"plug"}"#, "vcpu"),
            (r#"{"id":7,"op":"bundle"}"#, "dir"),
            (r#"{"id":7,"op":"bundle","dir":"b"}"#, "from /"),
            (r#"{"id":7,"op":"unplug","vcpu":-1}"#, "vcpu"),
            (
                r#"{"id":7,"op":"unplug","vcpu":1,"limit_ms":60001}"#,
                "60000",
            ),
            (r#"{"id":7,"op":"cap","percent":"50"}"#, "percent"),
            (r#"{"id":7,"op":"detach"}"#, "device"),
            (r#"{"id":7,"op":"detach","device":0}"#, "must be a text"),
            (r#"{"id":7,"op":"detach","device":"d","path":"/d"}"#, "path"),
            (r#"{"id":7,"op":"attach","path":"/d"}"#, "device"),
            (r#"{"id":7,"op":"attach","device":"d"}"#, "path"),
            (
                r#"{"id":7,"op":"attach","device":"d","path":"e"}"#,
                "from /",
            ),
            (
                r#"{"id":7,"op":"attach","device":"d","path":"/e","replace":1}"#,
                "true or false",
            ),
            (
                r#"{"id":7,"op":"attach","device":"d","socket":"s"}"#,
                "from /",
            ),
            (
                r#"{"id":7,"op":"attach","device":"d","socket":"/s","path":"/p"}"#,
                "path",
            ),
            (
                r#"{"id":7,"op":"attach","device":"d","socket":"/s","read_only":true}"#,
                "read_only",
            ),
            (r#"{"id":7,"op":"poweroff","graceful":1}"#, "graceful"),
            (
                r#"{"id":7,"op":"wait","until":["OFF"],"limit_ms":-1}"#,
                "limit_ms",
            ),
        ] {
            match parse(line.as_bytes()) {
                Err(Rejected::Usage {
                    id: Id::Number(7),
                    message,
                }) => assert!(message.contains(word), "{line}: {message}"),
                other => panic!("{line}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_object_with_a_proper_id_is_malformed() {
        let deep = "[".repeat(LINE_LIMIT);
        let long = "x".repeat(LINE_LIMIT + 1);
        for line in [
            "",
            "null",
            "[]",
            "suspend",
            "{\"op\":\"status\"",
            "{\"op\":\"status\"} {}",
            "{\"id\":-1,\"op\":\"status\"}",
            "{\"id\":1.5,\"op\":\"status\"}",
            "{\"id\":{},\"op\":\"status\"}",
            "{\"op\":\"suspend\",\"op\":\"destroy\"}",
            "{\"id\":1,\"op\":\"sus\u{0}pend",
            &deep,
            &long,
        ] {
            let found = parse(line.as_bytes());
            assert!(
                matches!(found, Err(Rejected::Malformed(_))),
                "{:?}: {found:?}",
                brief(line)
            );
        }
    }

    fn ids() -> impl Strategy<Value = (String, Id)> {
        prop_oneof![
            Just(("null".to_owned(), Id::None)),
            any::<u64>().prop_map(|n| (n.to_string(), Id::Number(n))),
            "\\PC{0,30}".prop_map(|t| (serde_json::json!(t).to_string(), Id::Text(t))),
        ]
    }

    #[test]
    fn an_image_is_writable_and_what_is_attached_for_an_empty_place_unless_said_otherwise() {
        let attach = |access, room| {
            Op::Attach(Attach {
                device: "disk1".into(),
                what: What::Path("/a,ro".into(), access),
                room,
            })
        };
        let socket = Op::Attach(Attach {
            device: "com1".into(),
            what: What::Socket("/s".into()),
            room: Room::Empty,
        });
        let request = r#"{"op":"attach","device":"com1","socket":"/s"}"#;
        assert_eq!(op(request), socket);
        let request = r#"{"op":"attach","device":"disk1","path":"/a,ro"}"#;
        assert_eq!(op(request), attach(DiskAccess::ReadWrite, Room::Empty));
        let request = request.replace('}', r#","read_only":true,"replace":true}"#);
        assert_eq!(op(&request), attach(DiskAccess::ReadOnly, Room::Replaced));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_or_answer_at_length(
            line in proptest::collection::vec(any::<u8>(), 0..600)
        ) {
            match parse(&line) {
                Ok(_) => {}
                Err(Rejected::Malformed(m) | Rejected::Usage { message: m, .. }) => {
                    let text = Failed::new(Kind::Usage, m).message;
                    prop_assert!(text.chars().count() <= MESSAGE_LIMIT);
                }
            }
        }

        #[test]
        fn a_request_with_one_byte_changed_never_panics(at in 0_usize..60, byte: u8) {
            let mut line = br#"{"id":1,"op":"wait","until":["SUSPENDED"],"limit_ms":12}"#.to_vec();
            let at = at % line.len();
            line[at] = byte;
            if let Ok(request) = parse(&line) {
                // One byte makes another number or state of it, not another operation.
                let waits = matches!(request.op, Op::Wait { .. });
                prop_assert!(waits);
            }
        }

        #[test]
        fn ids_and_limits_come_through((text, id) in ids(), ms in 0_u64..86_400_000) {
            let line = format!(
                "{{\"limit_ms\":{ms},\"id\":{text},\"op\":\"wait\",\"until\":[\"OFF\",\"RUNNING\"]}}"
            );
            let request = parse(line.as_bytes()).unwrap();
            prop_assert_eq!(&request.id, &id);
            let until = vec![State::Off, State::Running];
            prop_assert_eq!(request.op, Op::Wait { until, limit: Duration::from_millis(ms) });
        }

        #[test]
        fn a_reply_is_one_line_that_says_the_same(
            (_, id) in ids(), message in "(?s).{0,80}", ok: bool
        ) {
            let result = if ok {
                Ok(serde_json::json!({ "text": message }))
            } else {
                Err(Failed::new(Kind::Late, message.clone()))
            };
            let line = reply(&id, &result);
            prop_assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            let back: Value = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!(&back["ok"], &Value::Bool(ok));
            prop_assert_eq!(&back["id"], &serde_json::json!(id));
            let said = if ok { &back["text"] } else { &back["error"]["message"] };
            prop_assert_eq!(said, &Value::String(message));
        }
    }
}
