//! Inputs as scripts: bytes that are taken one after the other, zeroes after their end.

/// What is left of an input.
pub struct Script<'i>(&'i [u8]);

impl<'i> Script<'i> {
    /// All of it.
    pub fn new(input: &'i [u8]) -> Script<'i> {
        Script(input)
    }

    /// Whether nothing is left.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The next bytes, or as many as are left.
    pub fn bytes(&mut self, count: usize) -> &'i [u8] {
        let (now, later) = self.0.split_at(count.min(self.0.len()));
        self.0 = later;
        now
    }

    /// The next bytes, with zeroes for those that are not there.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        for (to, from) in array.iter_mut().zip(self.bytes(N)) {
            *to = *from;
        }
        array
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    /// The next two bytes, the lower one first.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// The next four bytes, the lowest one first.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// A number that is likely to matter: small, around a power of two, or around the greatest.
    pub fn number(&mut self) -> u64 {
        let [kind, value] = self.array();
        let (shift, small) = (u32::from(kind >> 2), u64::from(value));
        match kind & 3 {
            0 => small,
            1 => (1u64 << shift).wrapping_add(small),
            2 => (1u64 << shift).wrapping_sub(small),
            _ => u64::MAX.wrapping_shr(shift).wrapping_sub(small),
        }
    }
}
