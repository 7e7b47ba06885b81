//! A call that can be left from inside: how, on each processor.
//!
//! # Safety
//!
//! [`call`] saves what a callee must keep on the stack, and where that is in its [`Landing`], before it
//! calls. A thread that goes on at the landing, with that stack pointer, restores it all and returns to
//! whoever called [`call`], as the ABI demands of a function that returns. Everything below that stack
//! pointer, the abandoned frames, is free.
#![allow(unsafe_code)]

use std::ffi::c_void;

/// Whether this is written for the processor. If not, no call is ever left.
pub(super) const CAN_LEAVE: bool = cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));

/// Where a thread goes on that has left a call.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) struct Landing {
    stack: usize,
    address: usize,
}

/// Calls `work` with `argument`. Returns whether it returned, and was not left.
///
/// # Safety
/// `landing` can be written; `work` can be called with `argument`, and be abandoned wherever the thread
/// is made to [`land`].
pub(super) unsafe fn call(
    landing: *mut Landing,
    work: extern "C" fn(*mut c_void),
    argument: *mut c_void,
) -> bool {
    // SAFETY: the caller's.
    unsafe { processor::call(landing, work, argument) == 1 }
}

/// Has the thread whose context this is, which is inside a [`call`], go on where that returns.
///
/// # Safety
/// The context is one that the kernel passed to a handler of a signal. The landing is that of a call which
/// has not returned, on the same thread; what it called may be abandoned.
pub(super) unsafe fn land(context: *mut libc::ucontext_t, landing: &Landing) {
    // SAFETY: the caller's.
    processor::land(unsafe { &mut (*context).uc_mcontext }, landing);
}

/// The System V ABI: `rbx`, `rbp` and `r12` to `r15` are the callee's to keep, the stack is aligned to
/// 16 bytes at a call, and the direction flag is clear.
#[cfg(target_arch = "x86_64")]
mod processor {
    use std::arch::naked_asm;
    use std::ffi::c_void;

    use super::Landing;

    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn call(
        landing: *mut Landing,
        work: extern "C" fn(*mut c_void),
        argument: *mut c_void,
    ) -> usize {
        naked_asm!(
            "push rbp",
            "push rbx",
            "push r12",
            "push r13",
            "push r14",
            "push r15",
            "sub rsp, 8",
            "lea rax, [rip + 2f]",
            "mov [rdi], rsp",
            "mov [rdi + 8], rax",
            "mov rdi, rdx",
            "call rsi",
            "mov eax, 1",
            "2:",
            "add rsp, 8",
            "pop r15",
            "pop r14",
            "pop r13",
            "pop r12",
            "pop rbx",
            "pop rbp",
            "ret",
        )
    }

    pub(super) fn land(machine: &mut libc::mcontext_t, landing: &Landing) {
        const DIRECTION: i64 = 1 << 10;
        let registers = &mut machine.gregs;
        registers[libc::REG_RAX as usize] = 0;
        registers[libc::REG_EFL as usize] &= !DIRECTION;
        registers[libc::REG_RSP as usize] = landing.stack as i64;
        registers[libc::REG_RIP as usize] = landing.address as i64;
    }
}

/// The Procedure Call Standard for the Arm 64-bit Architecture: `x19` to `x29` and the lower halves of
/// `v8` to `v15` are the callee's to keep; `x30` is where it returns to.
#[cfg(target_arch = "aarch64")]
mod processor {
    use std::arch::naked_asm;
    use std::ffi::c_void;

    use super::Landing;

    #[unsafe(naked)]
    pub(super) unsafe extern "C" fn call(
        landing: *mut Landing,
        work: extern "C" fn(*mut c_void),
        argument: *mut c_void,
    ) -> usize {
        naked_asm!(
            "stp x29, x30, [sp, #-160]!",
            "mov x29, sp",
            "stp x19, x20, [sp, #16]",
            "stp x21, x22, [sp, #32]",
            "stp x23, x24, [sp, #48]",
            "stp x25, x26, [sp, #64]",
            "stp x27, x28, [sp, #80]",
            "stp d8, d9, [sp, #96]",
            "stp d10, d11, [sp, #112]",
            "stp d12, d13, [sp, #128]",
            "stp d14, d15, [sp, #144]",
            "mov x9, sp",
            "adr x10, 2f",
            "stp x9, x10, [x0]",
            "mov x0, x2",
            "blr x1",
            "mov x0, #1",
            "2:",
            "ldp d14, d15, [sp, #144]",
            "ldp d12, d13, [sp, #128]",
            "ldp d10, d11, [sp, #112]",
            "ldp d8, d9, [sp, #96]",
            "ldp x27, x28, [sp, #80]",
            "ldp x25, x26, [sp, #64]",
            "ldp x23, x24, [sp, #48]",
            "ldp x21, x22, [sp, #32]",
            "ldp x19, x20, [sp, #16]",
            "ldp x29, x30, [sp], #160",
            "ret",
        )
    }

    pub(super) fn land(machine: &mut libc::mcontext_t, landing: &Landing) {
        machine.regs[0] = 0;
        machine.sp = landing.stack as u64;
        machine.pc = landing.address as u64;
    }
}

/// Any other.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod processor {
    use std::ffi::c_void;

    use super::Landing;

    pub(super) unsafe fn call(
        _: *mut Landing,
        work: extern "C" fn(*mut c_void),
        argument: *mut c_void,
    ) -> usize {
        work(argument);
        1
    }

    pub(super) fn land(_: &mut libc::mcontext_t, _: &Landing) {}
}
