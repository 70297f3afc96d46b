/* Attacks on files: writing, executing, filling, devices, what the kernel shows of the host. */
#define _GNU_SOURCE
#include "attacker.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static void write_file(const char *path)
{
    int fd = (int)must(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), path);
    write_all(fd, "owned", 5, path);
    unlink(path);
    succeeded("wrote %s", path);
}

static void append_user(const char *argument)
{
    (void)argument;
    static const char line[] = "intruder::0:0::/:/bin/sh\n";
    int fd = (int)must(open("/etc/passwd", O_WRONLY | O_APPEND | O_CLOEXEC), "/etc/passwd");
    off_t size = lseek(fd, 0, SEEK_END);
    write_all(fd, line, sizeof line - 1, "/etc/passwd");
    must(ftruncate(fd, size), "/etc/passwd");
    succeeded("a second root user in /etc/passwd");
}

static void run_from(const char *path)
{
    copy_myself(path);
    int status = status_of(path, "--planted"), error = errno;
    unlink(path);
    errno = error;
    if (status != PLANTED) stopped("executing it");
    succeeded("a program in %s ran", path);
}

static void map_code(const char *directory)
{
#if defined __x86_64__
    static const unsigned char code[] = {0xb8, PLANTED, 0, 0, 0, 0xc3};
#else
    static const unsigned char code[] = {0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6};
#endif
    char path[200];
    snprintf(path, sizeof path, "%s/code", directory);
    int fd = (int)must(open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0700), path);
    write_all(fd, code, sizeof code, path);
    void *mapped = mmap(NULL, sizeof code, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    int error = errno;
    unlink(path);
    errno = error;
    if (mapped == MAP_FAILED) stopped("mapping it as code");
    int (*function)(void);
    memcpy(&function, &mapped, sizeof function);
    succeeded("code in %s ran and returned %d", directory, function());
}

static void run_memory(const char *argument)
{
    (void)argument;
    char path[40];
    int fd = (int)must(syscall(SYS_memfd_create, "x", 0), "memfd_create");
    copy_myself_into(fd);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (status_of(path, "--planted") != PLANTED) stopped("executing it");
    succeeded("a program that no file system has ran");
}

static void run_with_rights(const char *path, const char *option, const char *effect)
{
    if (must(status_of(path, option), "executing it") != PLANTED) stopped("its rights");
    succeeded("%s", effect);
}

static void run_setuid(const char *path)
{
    run_with_rights(path, "--root", "a program made its caller root");
}

static void run_capable(const char *path)
{
    run_with_rights(path, "--raw", "a program gave its caller a raw socket");
}

/* Write back what is there, so that nothing changes. */
static void rewrite(const char *path)
{
    char value[256];
    int fd = (int)must(open(path, O_RDWR | O_CLOEXEC), path);
    size_t n = (size_t)must(read(fd, value, sizeof value), path);
    must(lseek(fd, 0, SEEK_SET), path);
    write_all(fd, value, n, path);
    succeeded("%s, which is the host's, can be changed (%.*s)", path, (int)strcspn(value, "\n"), value);
}

static void open_for_writing(const char *path)
{
    must(open(path, O_WRONLY | O_CLOEXEC), path);
    succeeded("%s, which is the host's, is open for writing", path);
}

static void read_secret(const char *path)
{
    static char text[65536];
    int fd = (int)must(open(path, O_RDONLY | O_CLOEXEC), path);
    long n = must(read(fd, text, sizeof text), path);
    errno = ENODATA;
    if (n == 0) stopped(path);
    succeeded("%s: %ld bytes", path, n);
}

/* Fill `DIRECTORY,MEGABYTES` by files of 16 MB. */
static void fill(const char *argument)
{
    static char zeros[MIB];
    char directory[100], path[200];
    size_t length = strcspn(argument, ",");
    long size = strtol(argument + length + 1, NULL, 10), done = 0;
    int error = 0;
    snprintf(directory, sizeof directory, "%.*s", (int)length, argument);
    for (int fd = -1; done < size && !error; done += !error) {
        if (done % 16 == 0) {
            if (fd >= 0) close(fd);
            snprintf(path, sizeof path, "%s/fill%ld", directory, done / 16);
            fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
        }
        ssize_t n = fd < 0 ? -1 : write(fd, zeros, sizeof zeros);
        if (n < (ssize_t)sizeof zeros) error = n < 0 ? errno : ENOSPC;
    }
    for (long i = 0; i <= done / 16; i++) {
        snprintf(path, sizeof path, "%s/fill%ld", directory, i);
        unlink(path);
    }
    errno = error;
    if (error) stopped(directory);
    succeeded("%ld MB written into %s", done, directory);
}

static void huge_file(const char *directory)
{
    char path[200];
    snprintf(path, sizeof path, "%s/huge", directory);
    int fd = (int)must(open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600), path);
    unlink(path);
    must(ftruncate(fd, 1L << 40), "ftruncate");
    succeeded("a file of 1 TB");
}

static void read_device(const char *path, mode_t kind, unsigned major, unsigned minor, const char *effect)
{
    static char block[512];
    unlink(path);
    must(mknod(path, kind | 0600, makedev(major, minor)), "mknod");
    int fd = open(path, O_RDONLY | O_CLOEXEC), error = errno;
    unlink(path);
    errno = error;
    must(fd, "opening it");
    must(read(fd, block, sizeof block), "reading it");
    succeeded("%s", effect);
}

static void device_node(const char *directory)
{
    char path[200];
    snprintf(path, sizeof path, "%s/zero", directory);
    read_device(path, S_IFCHR, 1, 5, "a device of its own making can be read");
}

static void host_disk(const char *argument)
{
    (void)argument;
    unsigned major, minor;
    char name[64] = "", line[128], effect[128];
    FILE *partitions = fopen("/proc/partitions", "re");
    if (!partitions) stopped("/proc/partitions");
    while (!*name && fgets(line, sizeof line, partitions))
        if (sscanf(line, "%u %u %*u %63s", &major, &minor, name) != 3) *name = 0;
    errno = ENODEV;
    if (!*name) stopped("/proc/partitions");
    snprintf(effect, sizeof effect, "the first block of the host's disk %s", name);
    read_device("/tmp/disk", S_IFBLK, major, minor, effect);
}

static void file_by_handle(const char *argument)
{
    (void)argument;
    /* /etc/hosts is a file of the host's own file system, so a handle leads to all of its files. */
    static _Alignas(struct file_handle) char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
    struct file_handle *handle = (struct file_handle *)room;
    handle->handle_bytes = MAX_HANDLE_SZ;
    int mount, there = (int)must(open("/etc/hosts", O_RDONLY | O_CLOEXEC), "/etc/hosts");
    must(name_to_handle_at(AT_FDCWD, "/etc/hosts", handle, &mount, 0), "name_to_handle_at");
    must(open_by_handle_at(there, handle, O_RDONLY | O_CLOEXEC), "open_by_handle_at");
    succeeded("a file of the host's file system, opened without a path");
}

static void release_agent(const char *argument)
{
    (void)argument;
    mkdir("/tmp/cgroup", 0700);
    /* A hierarchy without controllers can be had on hosts with version 2 as well. It goes when it is not mounted any more. */
    must(mount("cgroup", "/tmp/cgroup", "cgroup", 0, "none,name=attack"), "mounting cgroups");
    int fd = open("/tmp/cgroup/release_agent", O_WRONLY | O_CLOEXEC), error = errno;
    umount2("/tmp/cgroup", MNT_DETACH);
    rmdir("/tmp/cgroup");
    errno = error;
    must(fd, "release_agent");
    succeeded("the program that the host's kernel runs as root can be chosen");
}

const struct attack file_attacks[] = {
    {"write-root", write_file},
    {"write-etc", write_file},
    {"write-programs", write_file},
    {"add-root-user", append_user},
    {"plant-program", run_from},
    {"run-from-tmp", run_from},
    {"run-from-run", run_from},
    {"run-from-config", run_from},
    {"map-code-in-tmp", map_code},
    {"run-from-memory", run_memory},
    {"setuid-program", run_setuid},
    {"capable-program", run_capable},
    {"core-pattern", rewrite},
    {"sysrq", open_for_writing},
    {"host-interrupts", read_secret},
    {"host-timers", read_secret},
    {"host-memory-image", read_secret},
    {"fill-tmp", fill},
    {"fill-run", fill},
    {"fill-config", fill},
    {"fill-shm", fill},
    {"fill-disk", fill},
    {"huge-file", huge_file},
    {"device-in-tmp", device_node},
    {"host-disk", host_disk},
    {"file-by-handle", file_by_handle},
    {"release-agent", release_agent},
    {NULL, NULL},
};
