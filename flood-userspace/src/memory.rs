//! Returns unused memory of the daemon to the system.
//!
//! A list of a million entries is read into buffers of many megabytes, put into force, and forgotten. By default,
//! the C library's allocator would keep such buffers for later, in a heap for each thread that has ever had one,
//! and learn from each large buffer to keep larger ones.

/// Buffer size, in bytes, from which on the allocator maps buffers directly from the kernel and returns them at
/// once.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 256 << 10;

/// Maximum unused memory that the allocator keeps at the end of its heap, in bytes.
#[cfg(target_env = "gnu")]
const KEPT: libc::c_int = 1 << 20;

/// Maximum number of heaps. The daemon's threads seldom allocate at the same time.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Makes the allocator keep little memory from now on. Call it before threads are started.
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, KEPT), (libc::M_ARENA_MAX, HEAPS)]
    {
        // SAFETY: it takes numbers, and rejects those that it does not know.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Returns currently unused memory to the system. Takes some milliseconds; call it after a large operation.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it touches only memory that nobody uses.
    unsafe {
        libc::malloc_trim(0)
    };
}
