/*
 * The floor under a start: the calls to KVM that no monitor can leave out for a machine like
 * Bantam's default one (256 MiB, one vCPU, local APICs in KVM and the IOAPIC outside of it), made
 * one after the other, by one thread, with no library but C's. It parses nothing, loads nothing and
 * cleans nothing up.
 *
 * Its guest sends one byte to the serial port and powers the machine off. Whatever Bantam takes
 * longer than this program, Bantam takes.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    MEMORY = 256 << 20,
    /* Where the task state segment for real mode on VT-x lies, outside of memory. */
    KVM_TSS = 0xfffbd000,
    IOAPIC_PINS = 24,
    CPUID_MAX = 256,
    CODE = 0x1000,
    COM1 = 0x3f8,
    /* ACPI's sleep control register; SLP_EN and sleep type 5 in it mean off. */
    SLEEP_CONTROL = 0x600,
    POWER_OFF = 0x34,
};

/* 16-bit code: mov dx, port; mov al, value; out dx, al; twice, then hlt. */
static const unsigned char guest[] = {
    0xba, COM1 & 0xff, COM1 >> 8, 0xb0, 'B', 0xee,
    0xba, SLEEP_CONTROL & 0xff, SLEEP_CONTROL >> 8, 0xb0, POWER_OFF, 0xee,
    0xf4,
};

static void *map(size_t length, int flags, int fd)
{
    void *address = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (address == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    return address;
}

static int call(int fd, unsigned long request, const char *name, void *argument)
{
    int result = ioctl(fd, request, argument);
    if (result < 0) {
        perror(name);
        exit(1);
    }
    return result;
}

#define CALL(fd, request, argument) call(fd, request, #request, argument)

/* The machine: memory first, since KVM waits for every vCPU that is there when memory changes. */
static int make_machine(int kvm)
{
    int vm = CALL(kvm, KVM_CREATE_VM, NULL);
    unsigned char *memory = map(MEMORY, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    struct kvm_userspace_memory_region region = {
        .memory_size = MEMORY,
        .userspace_addr = (unsigned long)memory,
    };
    CALL(vm, KVM_SET_USER_MEMORY_REGION, &region);
    CALL(vm, KVM_SET_TSS_ADDR, (void *)(unsigned long)(unsigned)KVM_TSS);
    struct kvm_enable_cap split = { .cap = KVM_CAP_SPLIT_IRQCHIP, .args = { IOAPIC_PINS } };
    CALL(vm, KVM_ENABLE_CAP, &split);
    memcpy(memory + CODE, guest, sizeof guest);
    return vm;
}

/* Its vCPU, with every feature that the host offers, at the guest's code in real mode. */
static int make_vcpu(int kvm, int vm)
{
    static struct {
        struct kvm_cpuid2 head;
        struct kvm_cpuid_entry2 entries[CPUID_MAX];
    } cpuid = { .head.nent = CPUID_MAX };
    int vcpu = CALL(vm, KVM_CREATE_VCPU, NULL);
    CALL(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
    CALL(vcpu, KVM_SET_CPUID2, &cpuid);

    struct kvm_sregs sregs;
    CALL(vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    CALL(vcpu, KVM_SET_SREGS, &sregs);
    struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
    CALL(vcpu, KVM_SET_REGS, &regs);
    return vcpu;
}

/* Runs the guest until it powers off; what it sends to the serial port is written at once. */
static int run(int vcpu, struct kvm_run *state)
{
    for (;;) {
        CALL(vcpu, KVM_RUN, NULL);
        if (state->exit_reason != KVM_EXIT_IO || state->io.direction != KVM_EXIT_IO_OUT) {
            fprintf(stderr, "unexpected exit %u\n", state->exit_reason);
            return 1;
        }
        const unsigned char *data = (unsigned char *)state + state->io.data_offset;
        if (state->io.port == SLEEP_CONTROL)
            return 0;
        if (state->io.port == COM1 && write(STDOUT_FILENO, data, 1) != 1) {
            perror("write");
            return 1;
        }
    }
}

int main(void)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        perror("/dev/kvm");
        return 1;
    }
    int vm = make_machine(kvm);
    int vcpu = make_vcpu(kvm, vm);
    struct kvm_run *state = map(CALL(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL), MAP_SHARED, vcpu);
    return run(vcpu, state);
}
