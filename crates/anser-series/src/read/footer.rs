//! A look at the footer of a Parquet file before the library reads it: it follows the nesting of the schema by recursion,
//! which ends the program where the stack does, and makes room for as many children as a group says it has.
//!
//! The footer is a struct in Thrift's compact protocol (apache/thrift, doc/specs/thrift-compact-protocol.md): field 2 of
//! it lists the elements of the schema, each group before its children; field 5 of an element counts these.

/// Groups within groups.
const MAX_DEPTH: usize = 64;
/// Structs within structs: the format has a dozen.
const MAX_NESTING: usize = 64;

// Types of fields and of elements.
const STOP: u8 = 0;
const FALSE: u8 = 2;
const I32: u8 = 5;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// Why the footer of a file must not be read.
pub(super) fn problem(bytes: &[u8]) -> Option<&'static str> {
    // Where this does not hold, the library says so itself.
    let (rest, end) = bytes.split_last_chunk::<8>().filter(|(_, end)| end.ends_with(b"PAR1"))?;
    let length = u32::from_le_bytes([end[0], end[1], end[2], end[3]]);
    let start = rest.len().checked_sub(usize::try_from(length).ok()?)?;
    match depth(&mut Footer(&rest[start..])) {
        None => Some("its footer is damaged"),
        Some(depth) if depth > MAX_DEPTH => Some("its columns lie in more than 64 groups within groups"),
        Some(_) => None,
    }
}

/// How many groups lie within each other at most; `None` where the footer ends early or makes no sense.
fn depth(footer: &mut Footer<'_>) -> Option<usize> {
    let mut deepest = 0;
    let mut id = 0;
    loop {
        let kind = footer.field(&mut id)?;
        match (id, kind) {
            (_, STOP) => return Some(deepest),
            (2, LIST) => {
                let (count, kind) = footer.list()?;
                if kind != STRUCT {
                    return None;
                }
                // Children to come of every open group.
                let mut open: Vec<usize> = Vec::new();
                for _ in 0..count {
                    while open.last() == Some(&0) {
                        open.pop();
                    }
                    if let Some(children) = open.last_mut() {
                        *children -= 1;
                    }
                    let children = footer.children()?;
                    if children > count {
                        return None;
                    }
                    if children > 0 {
                        open.push(children);
                        deepest = deepest.max(open.len());
                    }
                }
            }
            (_, kind) => footer.skip(kind, MAX_NESTING)?,
        }
    }
}

/// The bytes not read yet.
struct Footer<'a>(&'a [u8]);

impl Footer<'_> {
    fn take(&mut self, bytes: usize) -> Option<()> {
        self.0 = self.0.get(bytes..)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// Seven bits a byte, the lowest first.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    /// Signs take turns: 0, -1, 1, -2.
    fn signed(&mut self) -> Option<i64> {
        let number = self.number()?;
        Some((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// The type of the next field of a struct; `id` becomes its number.
    fn field(&mut self, id: &mut i64) -> Option<u8> {
        let head = self.byte()?;
        match (head & 0x0f, head >> 4) {
            (STOP, _) => {}
            (_, 0) => *id = self.signed()?,
            (_, step) => *id = id.checked_add(i64::from(step))?,
        }
        Some(head & 0x0f)
    }

    /// Length and type of a list. An element takes a byte at least.
    fn list(&mut self) -> Option<(usize, u8)> {
        let head = self.byte()?;
        let count = match head >> 4 {
            15 => usize::try_from(self.number()?).ok()?,
            count => usize::from(count),
        };
        (count <= self.0.len()).then_some((count, head & 0x0f))
    }

    /// How many children an element of the schema has.
    fn children(&mut self) -> Option<usize> {
        let (mut id, mut children) = (0, 0);
        loop {
            match (self.field(&mut id)?, id) {
                (STOP, _) => return usize::try_from(children).ok(),
                (I32, 5) => children = self.signed()?,
                (kind, _) => self.skip(kind, MAX_NESTING)?,
            }
        }
    }

    /// Passes over the value of a field.
    fn skip(&mut self, kind: u8, nesting: usize) -> Option<()> {
        let nesting = nesting.checked_sub(1)?;
        match kind {
            // A truth value is its type.
            1 | FALSE => Some(()),
            3 => self.take(1),
            4..=6 => self.number().map(|_| ()),
            7 => self.take(8),
            8 => {
                let length = usize::try_from(self.number()?).ok()?;
                self.take(length)
            }
            LIST | 10 => {
                let (count, kind) = self.list()?;
                (0..count).try_for_each(|_| self.element(kind, nesting))
            }
            11 => {
                let count = self.number()?;
                let kinds = if count > 0 { self.byte()? } else { 0 };
                (0..count).try_for_each(|_| {
                    self.element(kinds >> 4, nesting)?;
                    self.element(kinds & 0x0f, nesting)
                })
            }
            STRUCT => {
                let mut id = 0;
                loop {
                    match self.field(&mut id)? {
                        STOP => return Some(()),
                        kind => self.skip(kind, nesting)?,
                    }
                }
            }
            _ => None,
        }
    }

    /// Passes over an element, of which even a truth value takes a byte.
    fn element(&mut self, kind: u8, nesting: usize) -> Option<()> {
        if kind <= FALSE { self.take(1) } else { self.skip(kind, nesting) }
    }
}
