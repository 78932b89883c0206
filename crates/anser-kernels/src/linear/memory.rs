//! Where packed weights live: anonymous memory that the kernel is asked to back with huge pages, or memory of somebody
//! else, such as a mapped file.
//!
//! A matrix-vector product reads every weight once, so address translation counts: 4 KiB pages cost 15 to 30 % of the
//! bandwidth. Small matrices therefore share slabs instead of rounding each up to a huge page.
#![allow(unsafe_code)]

use std::alloc::Layout;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

const HUGE_PAGE: usize = 2 << 20;
/// Size of a shared slab. Only the pages that are written take memory.
const SLAB: usize = 64 << 20;
/// From here on an allocation has a mapping of its own, rounded up to whole huge pages.
const LARGE: usize = 16 << 20;
const ALIGN: usize = 64;

/// An anonymous mapping whose first usable byte lies on a huge page boundary.
struct Mapping {
    start: *mut u8,
    length: usize,
    _map: MmapMut,
}

// SAFETY: the mapping is plain memory; who may access which bytes is settled by `Weights`.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(length: usize) -> Mapping {
        let length = length.next_multiple_of(HUGE_PAGE);
        let Ok(mut map) = MmapMut::map_anon(length + HUGE_PAGE) else {
            std::alloc::handle_alloc_error(Layout::from_size_align(length, HUGE_PAGE).unwrap_or(Layout::new::<u8>()))
        };
        let offset = map.as_ptr().align_offset(HUGE_PAGE).min(HUGE_PAGE);
        // Only advice: without huge pages everything works, slower.
        #[cfg(target_os = "linux")]
        let _ = map.advise_range(memmap2::Advice::HugePage, offset, length);
        Mapping { start: map[offset..].as_mut_ptr(), length, _map: map }
    }
}

/// The slab that small allocations are cut from, and how much of it is taken.
static SLAB_IN_USE: Mutex<Option<(Arc<Mapping>, usize)>> = Mutex::new(None);

/// Somebody's bytes, shared.
pub(super) type Owner = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// What keeps weights alive.
enum Keeper {
    Mapping(#[expect(dead_code, reason = "kept, not read")] Arc<Mapping>),
    Owner(#[expect(dead_code, reason = "kept, not read")] Owner),
}

/// A 64-byte aligned range of bytes: owned, zeroed or formerly used, or a part of somebody's.
pub(super) struct Weights {
    start: *mut u8,
    length: usize,
    keeper: Keeper,
}

// SAFETY: `Weights` owns its bytes: ranges cut from a slab are disjoint, and are handed out again only when no
// allocation of the slab is left. Or it shares, read-only, those of an owner that is Send and Sync.
unsafe impl Send for Weights {}
// SAFETY: as above; shared access is read-only.
unsafe impl Sync for Weights {}

impl Weights {
    /// `length` bytes of any value.
    pub(super) fn new(length: usize) -> Weights {
        if length >= LARGE {
            let mapping = Mapping::new(length);
            return Weights { start: mapping.start, length, keeper: Keeper::Mapping(Arc::new(mapping)) };
        }
        let mut slab = SLAB_IN_USE.lock().unwrap_or_else(PoisonError::into_inner);
        let (mapping, taken) = match slab.take() {
            Some((mut mapping, taken)) => {
                // If nobody but the slab itself holds the mapping, everything cut from it is free again.
                let taken = if Arc::get_mut(&mut mapping).is_some() { 0 } else { taken };
                if taken + length <= mapping.length { (mapping, taken) } else { (Arc::new(Mapping::new(SLAB)), 0) }
            }
            None => (Arc::new(Mapping::new(SLAB)), 0),
        };
        *slab = Some((Arc::clone(&mapping), taken + length.next_multiple_of(ALIGN)));
        // SAFETY: taken + length lies within the mapping.
        Weights { start: unsafe { mapping.start.add(taken) }, length, keeper: Keeper::Mapping(mapping) }
    }

    /// A part of an owner's bytes; `None` if they do not reach so far or the part is not aligned.
    pub(super) fn borrow(owner: &Owner, range: Range<usize>) -> Option<Weights> {
        // What `as_ref` returned stays valid for as long as the owner is borrowed, and the clone borrows it.
        let keeper = Arc::clone(owner);
        let bytes = (*keeper).as_ref().get(range)?;
        let (start, length) = (bytes.as_ptr().cast_mut(), bytes.len());
        start.addr().is_multiple_of(ALIGN).then(|| Weights { start, length, keeper: Keeper::Owner(keeper) })
    }

    pub(super) fn len(&self) -> usize {
        self.length
    }

    pub(super) fn as_ptr(&self) -> *const u8 {
        self.start
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the range is mapped and initialised (anonymous mappings start zeroed), and kept alive.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }

    /// # Panics
    /// If the bytes are borrowed.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        assert!(matches!(self.keeper, Keeper::Mapping(_)), "borrowed weights are read-only");
        // SAFETY: as above, and exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.length) }
    }
}
