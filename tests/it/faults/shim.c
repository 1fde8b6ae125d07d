/*
 * A preload library that makes the disk of one folder misbehave, for the tests in this folder (shim.rs compiles and drives it).
 *
 * SHIM_PATH     only calls on paths that contain this are touched
 * SHIM_CONTROL  a file that says what to do; read anew at every call: VERB[:NUMBER[:CALL[:after]]] [MORE-OF-THE-PATH]
 * SHIM_CLOCK    a file of eight bytes: seconds (signed) by which the wall clock is wrong; the monotonic clock never is
 *
 * eio-sync      every sync fails with EIO                   enospc      writes, creating and growing fail with ENOSPC
 * short:N       a write takes at most N bytes               eintr       every second write is interrupted
 * delay:MS      every sync takes so long                    lie         a sync does nothing and says that it did
 * eio-read      reads fail with EIO
 * kill-at:N     SIGKILL at the Nth matching call, before it is made, or after it with `:after`; `*` is any call
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind { SYNC, WRITE, READ, CREATE, OTHER };

struct action {
    char verb[16];
    long number;
    char call[24];
    int after;
    char more[256];
};

static atomic_long calls;
static atomic_long writes;

/* The real function behind a name. */
#define REAL(name) ({ static void *real; if (!real) real = dlsym(RTLD_NEXT, #name); (__typeof__(&name))real; })

static int read_action(struct action *action)
{
    const char *control = getenv("SHIM_CONTROL");
    char text[512] = "";
    if (!control)
        return 0;
    long fd = syscall(SYS_openat, AT_FDCWD, control, O_RDONLY | O_CLOEXEC, 0);
    if (fd < 0)
        return 0;
    long count = syscall(SYS_read, fd, text, sizeof text - 1);
    syscall(SYS_close, fd);
    if (count <= 0)
        return 0;
    memset(action, 0, sizeof *action);
    strcpy(action->call, "*");
    char when[16] = "";
    char *space = strpbrk(text, " \n");
    if (space) {
        if (*space == ' ')
            sscanf(space + 1, "%255s", action->more);
        *space = 0;
    }
    sscanf(text, "%15[^:]:%ld:%23[^:]:%15s", action->verb, &action->number, action->call, when);
    action->after = !strcmp(when, "after");
    return action->verb[0] != 0;
}

static int is_ours(const char *path, const struct action *action)
{
    const char *ours = getenv("SHIM_PATH");
    return ours && path && strstr(path, ours) && strstr(path, action->more);
}

static int path_of(int fd, char *path, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long count = syscall(SYS_readlinkat, AT_FDCWD, link, path, size - 1);
    path[count > 0 ? count : 0] = 0;
    return count > 0;
}

/* What is to happen to a call; `number` is only asked for where it makes a difference. */
struct plan {
    int error;
    int lie;
    int die_after;
    long at_most;
};

static struct plan plan(const char *call, enum kind kind, const char *path)
{
    struct plan plan = {0};
    struct action action;
    if (!read_action(&action) || !is_ours(path, &action))
        return plan;
    int named = !strcmp(action.call, "*") || !strcmp(action.call, call);
    if (!strcmp(action.verb, "kill-at") && named) {
        if (atomic_fetch_add(&calls, 1) + 1 == action.number) {
            if (action.after)
                plan.die_after = 1;
            else
                raise(SIGKILL);
        }
    } else if (!strcmp(action.verb, "eio-sync") && kind == SYNC) {
        plan.error = EIO;
    } else if (!strcmp(action.verb, "eio-read") && kind == READ) {
        plan.error = EIO;
    } else if (!strcmp(action.verb, "enospc") && (kind == WRITE || kind == CREATE)) {
        plan.error = ENOSPC;
    } else if (!strcmp(action.verb, "short") && kind == WRITE) {
        plan.at_most = action.number;
    } else if (!strcmp(action.verb, "eintr") && kind == WRITE) {
        plan.error = atomic_fetch_add(&writes, 1) % 2 ? 0 : EINTR;
    } else if (!strcmp(action.verb, "delay") && kind == SYNC) {
        struct timespec time = {action.number / 1000, action.number % 1000 * 1000000};
        nanosleep(&time, NULL);
    } else if (!strcmp(action.verb, "lie") && kind == SYNC) {
        plan.lie = 1;
    }
    return plan;
}

static struct plan plan_fd(const char *call, enum kind kind, int fd)
{
    char path[4096];
    struct plan none = {0};
    return fd > 2 && path_of(fd, path, sizeof path) ? plan(call, kind, path) : none;
}

#define REFUSE(plan)                                                                                                           \
    if ((plan).error) {                                                                                                        \
        errno = (plan).error;                                                                                                  \
        return -1;                                                                                                             \
    }
#define DONE(plan, result)                                                                                                     \
    do {                                                                                                                       \
        __typeof__(result) value = result;                                                                                     \
        if ((plan).die_after)                                                                                                  \
            raise(SIGKILL);                                                                                                    \
        return value;                                                                                                          \
    } while (0)
#define FIT(plan, count) ((plan).at_most && (size_t)(plan).at_most < (count) ? (size_t)(plan).at_most : (count))

ssize_t write(int fd, const void *bytes, size_t count)
{
    struct plan plan = plan_fd("write", WRITE, fd);
    REFUSE(plan);
    DONE(plan, REAL(write)(fd, bytes, FIT(plan, count)));
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t offset)
{
    struct plan plan = plan_fd("pwrite", WRITE, fd);
    REFUSE(plan);
    DONE(plan, REAL(pwrite)(fd, bytes, FIT(plan, count), offset));
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t offset)
{
    struct plan plan = plan_fd("pwrite", WRITE, fd);
    REFUSE(plan);
    DONE(plan, REAL(pwrite64)(fd, bytes, FIT(plan, count), offset));
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    struct plan plan = plan_fd("writev", WRITE, fd);
    REFUSE(plan);
    if (plan.at_most && count > 0)
        DONE(plan, REAL(write)(fd, parts[0].iov_base, FIT(plan, parts[0].iov_len)));
    DONE(plan, REAL(writev)(fd, parts, count));
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset)
{
    struct plan plan = plan_fd("pwritev", WRITE, fd);
    REFUSE(plan);
    if (plan.at_most && count > 0)
        DONE(plan, REAL(pwrite)(fd, parts[0].iov_base, FIT(plan, parts[0].iov_len), offset));
    DONE(plan, REAL(pwritev)(fd, parts, count, offset));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset)
{
    return pwritev(fd, parts, count, offset);
}

ssize_t read(int fd, void *bytes, size_t count)
{
    struct plan plan = plan_fd("read", READ, fd);
    REFUSE(plan);
    DONE(plan, REAL(read)(fd, bytes, count));
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t offset)
{
    struct plan plan = plan_fd("pread", READ, fd);
    REFUSE(plan);
    DONE(plan, REAL(pread64)(fd, bytes, count, offset));
}

int fsync(int fd)
{
    struct plan plan = plan_fd("fsync", SYNC, fd);
    REFUSE(plan);
    if (plan.lie)
        return 0;
    DONE(plan, REAL(fsync)(fd));
}

int fdatasync(int fd)
{
    struct plan plan = plan_fd("fdatasync", SYNC, fd);
    REFUSE(plan);
    if (plan.lie)
        return 0;
    DONE(plan, REAL(fdatasync)(fd));
}

int ftruncate(int fd, off_t length)
{
    struct plan plan = plan_fd("ftruncate", OTHER, fd);
    REFUSE(plan);
    DONE(plan, REAL(ftruncate)(fd, length));
}

int ftruncate64(int fd, off64_t length)
{
    struct plan plan = plan_fd("ftruncate", OTHER, fd);
    REFUSE(plan);
    DONE(plan, REAL(ftruncate64)(fd, length));
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    struct plan plan = plan_fd("fallocate", CREATE, fd);
    REFUSE(plan);
    DONE(plan, REAL(fallocate)(fd, mode, offset, length));
}

int fallocate64(int fd, int mode, off64_t offset, off64_t length)
{
    return fallocate(fd, mode, offset, length);
}

int rename(const char *from, const char *to)
{
    struct plan plan_ = plan("rename", OTHER, to);
    REFUSE(plan_);
    DONE(plan_, REAL(rename)(from, to));
}

int unlink(const char *path)
{
    struct plan plan_ = plan("unlink", OTHER, path);
    REFUSE(plan_);
    DONE(plan_, REAL(unlink)(path));
}

#define OPEN(name, pass)                                                                                                       \
    {                                                                                                                          \
        mode_t mode = 0;                                                                                                       \
        if (flags & (O_CREAT | O_TMPFILE)) {                                                                                   \
            va_list rest;                                                                                                      \
            va_start(rest, flags);                                                                                             \
            mode = va_arg(rest, mode_t);                                                                                       \
            va_end(rest);                                                                                                      \
        }                                                                                                                      \
        struct plan plan_ = plan("open", flags & O_CREAT ? CREATE : OTHER, path);                                              \
        REFUSE(plan_);                                                                                                         \
        DONE(plan_, REAL(name) pass);                                                                                          \
    }

int open(const char *path, int flags, ...) OPEN(open, (path, flags, mode))
int open64(const char *path, int flags, ...) OPEN(open64, (path, flags, mode))
int openat(int folder, const char *path, int flags, ...) OPEN(openat, (folder, path, flags, mode))
int openat64(int folder, const char *path, int flags, ...) OPEN(openat64, (folder, path, flags, mode))

static const volatile long *clock_error(void)
{
    static const volatile long none = 0;
    static const volatile long *_Atomic shared;
    const volatile long *known = atomic_load(&shared);
    if (known)
        return known;
    const char *path = getenv("SHIM_CLOCK");
    long fd = path ? syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0) : -1;
    known = &none;
    if (fd >= 0) {
        void *map = mmap(NULL, sizeof(long), PROT_READ, MAP_SHARED, (int)fd, 0);
        syscall(SYS_close, fd);
        if (map != MAP_FAILED)
            known = map;
    }
    atomic_store(&shared, known);
    return known;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += *clock_error();
    return result;
}
