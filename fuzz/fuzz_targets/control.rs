// Copyright 2026 the authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a client of the control socket sends, in pieces of any size: nothing panics, the pieces make
//! no difference, no more is kept than the limit says, and every reply is one short line that carries
//! its request's id. The first byte is the size of the pieces and whether the others are bytes or
//! words of the protocol.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;

// As the program has them, one beside the other.
#[expect(dead_code, reason = "what operations do with their members is not here")]
#[path = "../../crates/vmm-cli/src/control/protocol.rs"]
mod protocol;
#[path = "../../crates/vmm-cli/src/control/lines.rs"]
mod lines;

use lines::Lines;
use protocol::{Failed, Id, Kind, LINE_LIMIT, Op, Rejected, Request};

/// A reply without a result of its own: an id and a message of bounded length, each byte of which may
/// take six in JSON.
const REPLY_LIMIT: usize = 6 * (128 + 4 * 400) + 100;

const WORDS: &[&str] = &[
    "\n", "{", "}", "}\n", "[", "]", ",", ":", "\"", "\\", " ", "null", "true", "false", "0", "1", "-1", "1.5", "100",
    "60001", "4294967296", "18446744073709551616", "\"id\":", "\"op\":", "\"until\":", "\"limit_ms\":", "\"vcpu\":",
    "\"percent\":", "\"graceful\":", "\"page\":", "\"args\":", "\"pattern\":", "\"reset\":", "\"cpu\"", "\"*|/emt/?\"",
    "\"OFF\"", "\"SUSPENDED\"", "\"a\\u0000b\"", "\u{e9}", "{\"op\":\"status\"}\n", "{\"id\":7,\"op\":",
    "{\"op\":\"wait\",\"until\":[", "{\"op\":\"unplug\",\"vcpu\":", "\"status\"", "\"suspend\"", "\"resume\"",
    "\"poweroff\"", "\"destroy\"", "\"wait\"", "\"events\"", "\"info\"", "\"stats\"", "\"plug\"", "\"unplug\"",
    "\"cap\"", "\"version\"", "\"bundle\"", "\"dir\":", "\"/b\"", "                ", "\"attach\"", "\"detach\"",
    "\"device\":", "\"disk0\"", "\"path\":", "\"socket\":", "\"read_only\":", "\"replace\":",
];

fuzz_target!(|data: &[u8]| {
    let Some((&shape, data)) = data.split_first() else {
        return;
    };
    let text = match shape % 4 {
        0 => data.to_vec(),
        _ => data.iter().flat_map(|&at| WORDS[usize::from(at) % WORDS.len()].bytes()).collect(),
    };
    let size = usize::from(shape / 4) * usize::from(shape / 4) + 1;
    let said = replies(text.chunks(size));
    assert_eq!(said, replies([text.as_slice()].into_iter()));
});

/// What is answered, until a line is malformed.
fn replies<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let (mut lines, mut said) = (Lines::default(), Vec::new());
    for piece in pieces {
        lines.push(piece);
        loop {
            match lines.request() {
                Ok(None) => break,
                Ok(Some(request)) => said.push(served(&request)),
                Err(Rejected::Usage { id, message }) => said.push(answer(&id, Kind::Usage, message)),
                Err(Rejected::Malformed(message)) => {
                    said.push(answer(&Id::None, Kind::Malformed, message));
                    return said;
                }
            }
        }
        assert!(!lines.has_line() && !lines.is_full());
    }
    said
}

fn served(request: &Request) -> Vec<u8> {
    if let Op::Wait { until, .. } = &request.op {
        assert!(!until.is_empty());
    }
    let result = serde_json::json!({ "op": format!("{:?}", request.op) });
    let line = protocol::reply(&request.id, &Ok(result));
    whole(&line, &request.id, true);
    line
}

fn answer(id: &Id, kind: Kind, message: String) -> Vec<u8> {
    let line = protocol::reply(id, &Err(Failed::new(kind, message)));
    assert!(line.len() <= REPLY_LIMIT.min(LINE_LIMIT), "{} bytes", line.len());
    whole(&line, id, false);
    line
}

fn whole(line: &[u8], id: &Id, ok: bool) {
    assert_eq!(line.iter().position(|&byte| byte == b'\n'), Some(line.len() - 1));
    let reply: Value = serde_json::from_slice(line).expect("a reply is JSON");
    assert_eq!((&reply["id"], &reply["ok"]), (&serde_json::json!(id), &Value::Bool(ok)));
}
