//! The daemon's own memory: what it gives back.
//!
//! A list of a million entries is read into buffers of many megabytes, put into force, and forgotten. The C library's
//! allocator would by itself keep such buffers for the next time, in a heap for each thread that has ever had one, and
//! learn from each large buffer to keep larger ones.

/// The size of a buffer, in bytes, from which on it is the kernel's business and given back at once.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 << 10;

/// How much unused memory the allocator may keep at the end of its heap, in bytes.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 1 << 20;

/// How many heaps there may be. The daemon's threads seldom allocate at the same time.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Has the allocator keep little from now on. Wanted before threads are started.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, KEPT), (libc::M_ARENA_MAX, HEAPS)]
    {
        // SAFETY: it takes numbers, and refuses those that it does not know.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives back what is unused at this moment. Takes some milliseconds; for the end of something large.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches only memory that nobody uses.
    unsafe {
        libc::malloc_trim(0)
    };
}
