//! The frames of one direction of a `WebSocket` (RFC 6455 §5), as they pass (custody-wire §7.3).
//!
//! Owns: where frames begin and end, what they sum up to, and where the direction ends: behind its Close frame. Does not
//! own: what frames mean, extensions (what is compressed is summed up compressed), the statements behind the end.

use aws_lc_rs::digest::{Context, SHA256};

use crate::binding::BodySum;

/// Payload of a control frame.
const MAX_CONTROL_BYTES: u64 = 125;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PONG: u8 = 10;

/// Why bytes are no frames of this direction; for the log.
pub type FrameFault = &'static str;

/// What bytes that came were: first of frames before the Close frame, then of that, then of neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub frames: usize,
    pub close: usize,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    First,
    Second,
    /// So many bytes of a length.
    Length(u8),
    Mask(u8),
    /// So many bytes of the payload.
    Payload(u64),
}

/// Reads one direction.
#[derive(Clone)]
pub struct FrameReader {
    masked: bool,
    part: Part,
    first: u8,
    length: u64,
    /// The least that the form of the length is for.
    least: u64,
    /// Its next byte is the highest.
    mask: u32,
    in_message: bool,
    closed: bool,
    digest: Context,
    len: u64,
    messages: u64,
}

impl FrameReader {
    /// Of a client's frames, which are masked, or a server's.
    #[must_use]
    pub fn new(masked: bool) -> Self {
        Self {
            masked,
            part: Part::First,
            first: 0,
            length: 0,
            least: 0,
            mask: 0,
            in_message: false,
            closed: false,
            digest: Context::new(&SHA256),
            len: 0,
            messages: 0,
        }
    }

    /// Takes the next bytes, up to the end of the Close frame.
    ///
    /// # Errors
    /// They are no frames that may stand here.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Passed, FrameFault> {
        let mut passed = Passed::default();
        let mut rest = bytes;
        while let Some((byte, behind)) = rest.split_first()
            && !self.closed
        {
            let before = rest.len();
            rest = if let Part::Payload(left) = self.part {
                self.take_payload(rest, left)
            } else {
                self.take_header(*byte)?;
                behind
            };
            let taken = before - rest.len();
            if self.opcode() == CLOSE {
                passed.close += taken;
            } else {
                passed.frames += taken;
            }
            if self.part == Part::Payload(0) {
                self.finish_frame();
            }
        }
        Ok(passed)
    }

    /// Whether the Close frame is over: nothing may follow.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whole messages so far.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// What passed so far: bytes that were summed up, their sum, messages.
    #[must_use]
    pub fn sum(&self) -> BodySum {
        let mut sha256 = [0_u8; 32];
        sha256.copy_from_slice(self.digest.clone().finish().as_ref());
        BodySum { len: self.len, sha256, messages: Some(self.messages), trailers: None }
    }

    fn opcode(&self) -> u8 {
        self.first & 0x0f
    }

    fn take_header(&mut self, byte: u8) -> Result<(), FrameFault> {
        self.part = match self.part {
            Part::First => {
                self.first = byte;
                self.check_first()?;
                Part::Second
            }
            Part::Second => self.take_second(byte)?,
            Part::Length(left) => {
                self.length = (self.length << 8) | u64::from(byte);
                if left > 1 { Part::Length(left - 1) } else { self.end_length()? }
            }
            Part::Mask(left) => {
                self.mask = (self.mask << 8) | u32::from(byte);
                if left > 1 { Part::Mask(left - 1) } else { self.begin_payload() }
            }
            payload @ Part::Payload(_) => payload,
        };
        Ok(())
    }

    fn check_first(&self) -> Result<(), FrameFault> {
        let is_final = self.first & FIN != 0;
        match self.opcode() {
            TEXT | BINARY if self.in_message => Err("a message begins within another"),
            CONTINUATION if !self.in_message => Err("a message goes on that did not begin"),
            CONTINUATION | TEXT | BINARY => Ok(()),
            CLOSE..=PONG if is_final => Ok(()),
            CLOSE..=PONG => Err("a control frame in pieces"),
            _ => Err("an opcode that is reserved"),
        }
    }

    fn take_second(&mut self, byte: u8) -> Result<Part, FrameFault> {
        let short = byte & !MASKED;
        if (byte & MASKED != 0) != self.masked {
            return Err("a mask where none may be, or none where one must");
        }
        if self.opcode() >= CLOSE && u64::from(short) > MAX_CONTROL_BYTES {
            return Err("a control frame that is too long");
        }
        (self.length, self.least) = (0, 0);
        match short {
            126 => {
                self.least = MAX_CONTROL_BYTES + 1;
                Ok(Part::Length(2))
            }
            127 => {
                self.least = 1 << 16;
                Ok(Part::Length(8))
            }
            _ => {
                self.length = short.into();
                self.end_length()
            }
        }
    }

    fn end_length(&mut self) -> Result<Part, FrameFault> {
        if self.length < self.least {
            return Err("a length that is longer than it need be");
        }
        if self.length > u64::MAX >> 1 {
            return Err("a length with its highest bit set");
        }
        Ok(if self.masked { Part::Mask(4) } else { self.begin_payload() })
    }

    fn begin_payload(&mut self) -> Part {
        self.digest.update(&[self.first]);
        self.digest.update(&self.length.to_be_bytes());
        self.len = self.len.saturating_add(9);
        Part::Payload(self.length)
    }

    /// Gives what is behind the payload.
    fn take_payload<'a>(&mut self, bytes: &'a [u8], left: u64) -> &'a [u8] {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let (payload, behind) = bytes.split_at_checked(most).unwrap_or((bytes, &[]));
        let mut plain = [0_u8; 1024];
        for piece in payload.chunks(plain.len()) {
            for (to, from) in plain.iter_mut().zip(piece) {
                let [key, ..] = self.mask.to_be_bytes();
                *to = from ^ if self.masked { key } else { 0 };
                self.mask = self.mask.rotate_left(8);
            }
            self.digest.update(plain.get(..piece.len()).unwrap_or_default());
        }
        self.len = self.len.saturating_add(payload.len() as u64);
        self.part = Part::Payload(left - payload.len() as u64);
        behind
    }

    fn finish_frame(&mut self) {
        let is_final = self.first & FIN != 0;
        match self.opcode() {
            CONTINUATION | TEXT | BINARY => {
                self.in_message = !is_final;
                self.messages += u64::from(is_final);
            }
            CLOSE => self.closed = true,
            _ => {}
        }
        self.part = Part::First;
    }
}
