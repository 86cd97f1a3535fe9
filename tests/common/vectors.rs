//! The test vectors of the lock protocol. `tests/vectors/README.md` describes them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The vectors of one file that have this field.
pub fn vectors(file: &str, with: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(file).with_extension("jsonl");
    let lines = fs::read_to_string(path).unwrap();
    let all = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let wanted: Vec<_> = all.filter(|vector| vector.get(with).is_some()).collect();
    assert!(!wanted.is_empty(), "no {with} in {file}");
    wanted
}

/// The bytes that a value stands for. `None`: there are none.
pub fn bytes(value: &Value) -> Option<Vec<u8>> {
    Some(match value {
        Value::Null => return None,
        Value::String(text) => text.clone().into_bytes(),
        Value::Array(parts) => parts.iter().flat_map(some_bytes).collect(),
        value if value["hex"].is_string() => {
            let digits = value["hex"].as_str().unwrap();
            (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
        }
        value => some_bytes(&value["of"]).repeat(value["times"].as_u64().unwrap().try_into().unwrap()),
    })
}

pub fn some_bytes(value: &Value) -> Vec<u8> {
    bytes(value).unwrap_or_else(|| panic!("no bytes: {value}"))
}

pub fn path(value: &Value) -> PathBuf {
    OsStr::from_bytes(&some_bytes(value)).into()
}
