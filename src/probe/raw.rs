//! System calls by their numbers. The probe's only `unsafe`.
//!
//! The probe has no library but std, so that a single call of rustc builds it;
//! and what it asks of the kernel no library would offer.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_long};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::numbers as nr;

unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// "Relative to the working directory", openat(2).
pub(crate) const AT_FDCWD: u64 = -100_i64 as u64;

/// The kernel's answer, or its errno.
pub(crate) type Answer = Result<u64, i32>;

/// The number of the call that was made last, by this process or by a copy of it:
/// of one that a filter has killed, what killed it.
static LAST_CALL: OnceLock<&'static AtomicI64> = OnceLock::new();

/// From now on copies of this process tell it what they call.
pub(crate) fn share_last_call() {
    const READ_WRITE: u64 = 1 | 2;
    const SHARED_ANONYMOUS: u64 = 1 | 0x20;
    let none = -1_i64 as u64;
    if let Ok(page) = call(nr::MMAP, &[0, 4096, READ_WRITE, SHARED_ANONYMOUS, none, 0]) {
        // SAFETY: a page of our own, zeroed, aligned and never unmapped.
        let word = unsafe { AtomicI64::from_ptr(page as *mut i64) };
        let _ = LAST_CALL.set(word);
    }
}

/// See [`share_last_call`].
pub(crate) fn last_call() -> Option<i64> {
    LAST_CALL.get().map(|word| word.load(Ordering::Relaxed))
}

/// Calls the kernel. An argument is a number, or the address of something that
/// outlives the call, from [`at`], [`at_mut`] or [`text`].
pub(crate) fn call(number: i64, arguments: &[u64]) -> Answer {
    if let Some(word) = LAST_CALL.get() {
        word.store(number, Ordering::Relaxed);
    }
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: the call sites pass addresses only of values that they hold across
    // the call, as long as the call expects; or wrong ones, to be refused (EFAULT).
    let answer = unsafe { syscall(number, a, b, c, d, e, f) };
    if answer == -1 {
        return Err(io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    Ok(answer as u64)
}

/// The address of a value that the kernel reads.
pub(crate) fn at<T: ?Sized>(value: &T) -> u64 {
    std::ptr::from_ref(value).cast::<u8>() as u64
}

/// The address of a value that the kernel writes.
pub(crate) fn at_mut<T: ?Sized>(value: &mut T) -> u64 {
    std::ptr::from_mut(value).cast::<u8>() as u64
}

/// The address of a C string.
pub(crate) fn text(value: &CStr) -> u64 {
    value.as_ptr() as u64
}

/// A C string of `value`, which has no NUL.
pub(crate) fn c_string(value: &str) -> CString {
    CString::new(value).unwrap_or_default()
}

/// A copy of what lies at `address`, where the kernel has just attached memory
/// of at least this length.
pub(crate) fn attached(address: u64, length: usize) -> Vec<u8> {
    // SAFETY: the only callers pass what shmat(2) has returned for a segment of a page.
    unsafe { std::slice::from_raw_parts(address as *const u8, length) }.to_vec()
}

/// Writes to what lies at `address`, as [`attached`] reads it.
pub(crate) fn write_attached(address: u64, bytes: &[u8]) {
    // SAFETY: as for `attached`; the segment is longer than what is written.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len()) }
}

/// A copy of this process (clone(2) with SIGCHLD and more `flags`): its pid, 0 in the copy.
pub(crate) fn fork(flags: u64) -> Answer {
    const SIGCHLD: u64 = 17;
    // The probe has one thread, so that the copy is whole.
    call(nr::CLONE, &[flags | SIGCHLD])
}

/// Ends this process at once.
pub(crate) fn exit(status: u64) -> ! {
    let _ = call(nr::EXIT_GROUP, &[status]);
    std::process::abort()
}

/// getpid(2) by `int 0x80`, which is number 20 of the 32-bit table.
#[cfg(target_arch = "x86_64")]
pub(crate) fn getpid_by_int_80() -> i64 {
    let answer: i64;
    // SAFETY: the call takes no argument; the 32-bit entry clears r8 to r11.
    unsafe {
        std::arch::asm!(
            "int 0x80", inlateout("rax") 20_i64 => answer,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    i64::from(answer as i32)
}
