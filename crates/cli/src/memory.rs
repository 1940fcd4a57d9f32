//! What the process gives back to the system.
//!
//! Batches come and go by the megabyte, made in one thread and freed in another. glibc raises its threshold for memory of
//! its own mapping to the largest block that was ever freed (up to 32 MiB) and from then on keeps such blocks in its
//! arenas; an arena for each thread keeps its own. Fixed thresholds and few arenas cost no time that was measurable and
//! halve the peak of a backlog's drain (see `benches/README.md`). Elsewhere than on glibc nothing is set.

/// Blocks from this size on are mapped for themselves, and given back as soon as they are freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_FROM_BYTES: i32 = 256 << 10;

/// What an arena may keep at its end.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES_MAX: i32 = 1 << 20;

/// Arenas: the few threads that there are wait for each other too seldom to be measured.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS_MAX: i32 = 2;

/// Sets the allocator up. To be called before any other thread is started.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "three settings of the C library, which has no safe interface")]
pub(crate) fn give_back() {
    // SAFETY: `mallopt` takes two integers; it only needs that no other thread allocates meanwhile, and none was started.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_FROM_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX);
        libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX);
    }
}

/// Other allocators are left as they are.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_back() {}
