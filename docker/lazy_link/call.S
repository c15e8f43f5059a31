// Functions that find their library when they are first called: x86-64 of Linux.
//
// Compiled once per library, by make.sh, with FIRST and RESOLVE as that library's names for the two
// routines and NAMES as a file of lines `lazy NAME`. Each function is a jump through a slot of its
// own: to FIRST at first, which asks library.c where the function is and puts that into the slot.
// Every function and every slot is a section of its own, of which the linker keeps what is called.

.macro lazy name
    .section .text.lazy.\name, "ax", @progbits
    .globl \name
    .type \name, @function
\name:
    leaq    .Lslot.\name(%rip), %r11
    jmp     *(%r11)
    .size \name, . - \name

    // struct slot of library.c.
    .section .data.lazy.\name, "aw", @progbits
    .balign 8
.Lslot.\name:
    .quad   FIRST
    .quad   .Lname.\name

    .section .rodata.lazy.\name, "a", @progbits
.Lname.\name:
    .asciz  "\name"
.endm

    // The slot is in %r11. Whatever may hold an argument is kept: six integers, eight floats.
    .text
    .type FIRST, @function
FIRST:
    pushq   %rbp
    movq    %rsp, %rbp
    subq    $176, %rsp
    movq    %rdi, 0(%rsp)
    movq    %rsi, 8(%rsp)
    movq    %rdx, 16(%rsp)
    movq    %rcx, 24(%rsp)
    movq    %r8, 32(%rsp)
    movq    %r9, 40(%rsp)
    movups  %xmm0, 48(%rsp)
    movups  %xmm1, 64(%rsp)
    movups  %xmm2, 80(%rsp)
    movups  %xmm3, 96(%rsp)
    movups  %xmm4, 112(%rsp)
    movups  %xmm5, 128(%rsp)
    movups  %xmm6, 144(%rsp)
    movups  %xmm7, 160(%rsp)
    movq    %r11, %rdi
    call    RESOLVE
    movq    0(%rsp), %rdi
    movq    8(%rsp), %rsi
    movq    16(%rsp), %rdx
    movq    24(%rsp), %rcx
    movq    32(%rsp), %r8
    movq    40(%rsp), %r9
    movups  48(%rsp), %xmm0
    movups  64(%rsp), %xmm1
    movups  80(%rsp), %xmm2
    movups  96(%rsp), %xmm3
    movups  112(%rsp), %xmm4
    movups  128(%rsp), %xmm5
    movups  144(%rsp), %xmm6
    movups  160(%rsp), %xmm7
    leave
    jmp     *%rax
    .size FIRST, . - FIRST

    .include NAMES

    .section .note.GNU-stack, "", @progbits
