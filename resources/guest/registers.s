# hold_registers(seed, iterations): gives the registers numbers that belong together, goes on counting in all of
# them, and looks at the end whether they still belong together; zero if so. Plain and SSE registers, the x87
# stack, and both of the floating-point units' rounding modes.

    .set SCRATCH, 0
    .set ITERATIONS, 16
    .set SEED, 24
    .set MXCSR_DEFAULT, 0x1f80
    .set MXCSR_HELD, 0x7f80         # round toward zero
    .set X87_HELD, 0x0f7f

    .section .text.registers, "ax"
    .globl hold_registers
hold_registers:
    push_callers
    push rdi
    push rsi
    sub rsp, 16
    mov dword ptr [rsp + SCRATCH], MXCSR_HELD
    ldmxcsr [rsp + SCRATCH]
    fninit
    mov dword ptr [rsp + SCRATCH], X87_HELD
    fldcw [rsp + SCRATCH]
    fldz
    fld1
    mov rcx, rsi
    mov eax, 1
    movq xmm15, rax
    punpcklqdq xmm15, xmm15

    .macro each_register action
    \action 1, rax, xmm1
    \action 2, rbx, xmm2
    \action 3, rdx, xmm3
    \action 4, rbp, xmm4
    \action 5, rsi, xmm5
    \action 6, r8, xmm6
    \action 7, r9, xmm7
    \action 8, r10, xmm8
    \action 9, r11, xmm9
    \action 10, r12, xmm10
    \action 11, r13, xmm11
    \action 12, r14, xmm12
    \action 13, r15, xmm13
    \action 14, rdi, xmm14
    .endm
    .macro first number, register, wide
    lea \register, [rdi + \number]
    movq \wide, \register
    punpcklqdq \wide, \wide
    .endm
    .macro advance number, register, wide
    inc \register
    paddq \wide, xmm15
    .endm
    # What is left is zero.
    .macro last number, register, wide
    sub \register, [rsp + SEED]
    sub \register, [rsp + ITERATIONS]
    sub \register, \number
    or rcx, \register
    .endm
    .macro last_wide number, register, wide
    mov rax, [rsp + SEED]
    add rax, [rsp + ITERATIONS]
    add rax, \number
    movq rdx, \wide
    xor rdx, rax
    or rcx, rdx
    psrldq \wide, 8
    movq rdx, \wide
    xor rdx, rax
    or rcx, rdx
    .endm

    each_register first
hold_next:
    each_register advance
    fadd st(1), st
    dec rcx
    jnz hold_next
    each_register last
    each_register last_wide

    stmxcsr [rsp + SCRATCH]
    mov eax, [rsp + SCRATCH]
    and eax, ~0x3f                  # without the flags of what has happened
    xor eax, MXCSR_HELD
    or rcx, rax
    mov dword ptr [rsp + SCRATCH], MXCSR_DEFAULT
    ldmxcsr [rsp + SCRATCH]
    mov dword ptr [rsp + SCRATCH], 0
    fnstcw [rsp + SCRATCH]
    mov eax, [rsp + SCRATCH]
    xor eax, X87_HELD
    or rcx, rax
    fstp st(0)
    fistp qword ptr [rsp + SCRATCH]
    mov rax, [rsp + SCRATCH]
    xor rax, [rsp + ITERATIONS]
    or rcx, rax
    fninit

    mov rax, rcx
    add rsp, 16
    pop rsi
    pop rdi
    pop_callers
    ret
