//! The frames of one direction of a WebSocket (RFC 6455 §5), as they pass (custody-wire §7.3).
//!
//! Owns: where frames begin and end, what they sum up to, and where the direction ends: behind its Close frame. Does not
//! own: what frames mean, extensions (what is compressed is summed up compressed), the statements behind the end.

use aws_lc_rs::digest::{Context, SHA256};

use crate::binding::BodySum;

/// Two bytes, eight of length, four of mask.
const MAX_HEADER_BYTES: usize = 14;
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

/// Reads one direction.
#[derive(Clone)]
pub struct FrameReader {
    masked: bool,
    header: [u8; MAX_HEADER_BYTES],
    header_len: usize,
    /// Payload of the frame that is still to come; None in a header.
    left: Option<u64>,
    mask: [u8; 4],
    mask_at: usize,
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
            header: [0; MAX_HEADER_BYTES],
            header_len: 0,
            left: None,
            mask: [0; 4],
            mask_at: 0,
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
        while !rest.is_empty() && !self.closed {
            let taken = match self.left {
                None => self.take_header(rest[0])?,
                Some(left) => self.take_payload(rest, left),
            };
            if self.opcode() == CLOSE {
                passed.close += taken;
            } else {
                passed.frames += taken;
            }
            rest = &rest[taken..];
            if self.left == Some(0) {
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

    /// Whether nothing of a further frame came.
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.header_len == 0
    }

    /// What passed so far: payload bytes, the sum over every frame, messages.
    #[must_use]
    pub fn sum(&self) -> BodySum {
        let mut sha256 = [0_u8; 32];
        sha256.copy_from_slice(self.digest.clone().finish().as_ref());
        BodySum { len: self.len, sha256, messages: Some(self.messages), trailers: None }
    }

    fn opcode(&self) -> u8 {
        self.header[0] & 0x0f
    }

    fn take_header(&mut self, byte: u8) -> Result<usize, FrameFault> {
        self.header[self.header_len] = byte;
        self.header_len += 1;
        match self.header_len {
            1 => self.check_first()?,
            2 => self.check_second()?,
            _ => {}
        }
        if self.header_len >= 2 && self.header_len == self.header_bytes() {
            self.begin_payload()?;
        }
        Ok(1)
    }

    fn check_first(&self) -> Result<(), FrameFault> {
        let is_final = self.header[0] & FIN != 0;
        match self.opcode() {
            TEXT | BINARY if self.in_message => Err("a message begins within another"),
            CONTINUATION if !self.in_message => Err("a message goes on that did not begin"),
            CONTINUATION | TEXT | BINARY => Ok(()),
            CLOSE..=PONG if is_final => Ok(()),
            CLOSE..=PONG => Err("a control frame in pieces"),
            _ => Err("an opcode that is reserved"),
        }
    }

    fn check_second(&self) -> Result<(), FrameFault> {
        if (self.header[1] & MASKED != 0) != self.masked {
            return Err("a mask where none may be, or none where one must");
        }
        let is_control = self.opcode() >= CLOSE;
        if is_control && u64::from(self.header[1] & !MASKED) > MAX_CONTROL_BYTES {
            return Err("a control frame that is too long");
        }
        Ok(())
    }

    fn length_bytes(&self) -> usize {
        match self.header[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }

    fn header_bytes(&self) -> usize {
        2 + self.length_bytes() + if self.masked { 4 } else { 0 }
    }

    fn begin_payload(&mut self) -> Result<(), FrameFault> {
        let extended = &self.header[2..2 + self.length_bytes()];
        let long = extended.iter().fold(0_u64, |length, byte| (length << 8) | u64::from(*byte));
        let length = match extended.len() {
            0 => u64::from(self.header[1] & !MASKED),
            2 if long <= MAX_CONTROL_BYTES => return Err("a length that is longer than it need be"),
            8 if long <= u64::from(u16::MAX) => return Err("a length that is longer than it need be"),
            8 if long > u64::MAX >> 1 => return Err("a length with its highest bit set"),
            _ => long,
        };
        let end = self.header_bytes();
        self.mask = if self.masked { self.header[end - 4..end].try_into().unwrap_or_default() } else { [0; 4] };
        self.mask_at = 0;
        self.digest.update(&self.header[..1]);
        self.digest.update(&length.to_be_bytes());
        self.len = self.len.saturating_add(length);
        self.left = Some(length);
        Ok(())
    }

    fn take_payload(&mut self, bytes: &[u8], left: u64) -> usize {
        let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let mut plain = [0_u8; 1024];
        for piece in bytes[..taken].chunks(plain.len()) {
            for (to, from) in plain.iter_mut().zip(piece) {
                *to = from ^ self.mask[self.mask_at];
                self.mask_at = (self.mask_at + 1) % 4;
            }
            self.digest.update(&plain[..piece.len()]);
        }
        self.left = Some(left - taken as u64);
        taken
    }

    fn finish_frame(&mut self) {
        let is_final = self.header[0] & FIN != 0;
        match self.opcode() {
            CONTINUATION | TEXT | BINARY => {
                self.in_message = !is_final;
                self.messages += u64::from(is_final);
            }
            CLOSE => self.closed = true,
            _ => {}
        }
        (self.left, self.header_len) = (None, 0);
    }
}
