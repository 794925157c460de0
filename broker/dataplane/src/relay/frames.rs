//! Frames between a broker and its successor: four bytes of length, most significant first, then JSON.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Kept;

/// Longest frame: a full batch of the log, each entry with its longest chain, fits many times over.
const MAX_FRAME_BYTES: u32 = 64 << 20;

/// What the going broker asks.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Append these lines, under numbers of your own.
    Append { lines: String },
    /// Remember that this record is accepted; `root` began its chain.
    Claim { iss: String, jti: String, exp: i64, cid: String, root: String },
    /// Remember a handle.
    Keep(Box<Kept>),
    /// What was obtained under the handles of this name.
    Kids { gathered: u64 },
    /// All handles were told of.
    Ready,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub id: u64,
    pub ask: Ask,
}

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Done {
    /// Entries of the log, the appended ones included.
    #[serde(default)]
    pub count: u64,
    #[serde(default)]
    pub receipts: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answered {
    pub id: u64,
    /// Else a code.
    pub done: Result<Done, String>,
}

pub fn write<T: Serialize>(to: &mut impl Write, frame: &T) -> io::Result<()> {
    let json = serde_json::to_vec(frame)?;
    let length = u32::try_from(json.len()).ok().filter(|length| *length <= MAX_FRAME_BYTES);
    let length = length.ok_or_else(|| io::Error::other("the frame is too long"))?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.extend(json);
    to.write_all(&whole)
}

/// The next frame; None at the end.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        outcome => outcome?,
    }
    let length = u32::from_be_bytes(length);
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::other("the frame is too long"));
    }
    let mut json = vec![0; length as usize];
    from.read_exact(&mut json)?;
    Ok(Some(serde_json::from_slice(&json)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_one_by_one_and_then_end() {
        let mut bytes = Vec::new();
        for id in 0..2 {
            write(&mut bytes, &Asked { id, ask: Ask::Kids { gathered: 7 } }).unwrap();
        }
        let mut from = &bytes[..];
        for expected in 0..2 {
            let asked: Asked = read(&mut from).unwrap().unwrap();
            assert_eq!(asked.id, expected);
        }
        assert!(read::<Asked>(&mut from).unwrap().is_none());
    }

    #[test]
    fn a_frame_that_is_cut_too_long_or_another_thing_is_an_error() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Asked { id: 1, ask: Ask::Ready }).unwrap();
        assert!(read::<Asked>(&mut &bytes[..bytes.len() - 1]).is_err());
        assert!(read::<Answered>(&mut &bytes[..]).is_err());
        assert!(read::<Asked>(&mut &u32::MAX.to_be_bytes()[..]).is_err());
    }
}
