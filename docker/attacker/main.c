/* Tries, from inside of a session, what sessions must not be able to do: supervisor/attacks runs it in containers.
 *
 *   attacker "NAME[=ARGUMENT] ..."  one after the other; prints `@@ NAME succeeded EFFECT` or `@@ NAME stopped REASON` for each
 *   attacker --list                 prints the names
 *
 * The other options are for programs that an attack plants: they end with status PLANTED when they have what they should not have.
 * Every attack is bounded, undoes what it did, and can be tried as root with all rights: it never harms more than its own container. */
#define _GNU_SOURCE
#include "attacker.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE = 12 /* seconds for one attack */, LONGEST = 200 };

static const struct attack *const lists[] = {file_attacks, kernel_attacks, process_attacks, exhaustion_attacks, network_attacks};
static int said = -1; /* a pipe to the process that waits */

void succeeded(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vdprintf(said, format, arguments);
    va_end(arguments);
    _exit(0);
}

void stopped(const char *step)
{
    dprintf(said, "%s: %s", step, strerror(errno));
    _exit(1);
}

long must(long result, const char *step)
{
    if (result < 0) stopped(step);
    return result;
}

void write_all(int fd, const void *from, size_t n, const char *step)
{
    for (size_t done = 0; done < n;) done += (size_t)must(write(fd, (const char *)from + done, n - done), step);
}

void copy_myself_into(int fd)
{
    static char buffer[65536];
    int source = (int)must(open("/proc/self/exe", O_RDONLY | O_CLOEXEC), "reading itself");
    for (long n; (n = must(read(source, buffer, sizeof buffer), "reading itself")) > 0;)
        write_all(fd, buffer, (size_t)n, "writing a program");
    close(source);
}

void copy_myself(const char *path)
{
    unlink(path);
    int fd = (int)must(open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755), "writing a program");
    copy_myself_into(fd);
    close(fd);
    must(chmod(path, 0755), "making it executable");
}

int status_of(const char *path, const char *argument)
{
    int status, failure[2];
    must(pipe2(failure, O_CLOEXEC), "pipe");
    pid_t child = (pid_t)must(fork(), "fork");
    if (child == 0) {
        execl(path, path, argument, (char *)NULL);
        write_all(failure[1], &errno, sizeof errno, "pipe");
        _exit(1);
    }
    close(failure[1]);
    waitpid(child, &status, 0);
    int error = 0;
    if (read(failure[0], &error, sizeof error) == (ssize_t)sizeof error) {
        errno = error;
        return -1;
    }
    close(failure[0]);
    errno = EPERM; /* for whoever expected another status */
    return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

static const struct attack *find(const char *name, size_t length)
{
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        for (const struct attack *each = lists[i]; each->name; each++)
            if (strlen(each->name) == length && memcmp(each->name, name, length) == 0) return each;
    return NULL;
}

static void try(const char *word)
{
    size_t length = strcspn(word, "=");
    const struct attack *attack = find(word, length);
    int result[2], status = 0, ended = 0;
    if (!attack) {
        fprintf(stderr, "no attack %s\n", word);
        exit(2);
    }
    if (pipe2(result, O_CLOEXEC) < 0) exit(3);
    pid_t child = fork();
    if (child < 0) exit(3);
    if (child == 0) {
        said = result[1];
        alarm(PATIENCE);
        attack->run(word[length] ? word + length + 1 : "");
        succeeded("nothing"); /* never reached: every attack says how it ended */
    }
    close(result[1]);
    ended = waitpid(child, &status, 0) == child;
    char text[LONGEST + 1];
    /* What the attack has started may still hold the pipe. */
    struct pollfd ready = {result[0], POLLIN, 0};
    ssize_t n = poll(&ready, 1, 0) > 0 ? read(result[0], text, LONGEST) : 0;
    text[n > 0 ? n : 0] = 0;
    close(result[0]);
    if (!ended || WIFSIGNALED(status)) snprintf(text, sizeof text, "ended by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    printf("@@ %.*s %s %s\n", (int)length, word, ended && WIFEXITED(status) && !WEXITSTATUS(status) ? "succeeded" : "stopped", text);
    fflush(stdout);
}

int main(int count, char **words)
{
    if (count == 2 && strcmp(words[1], "--list") == 0) {
        for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
            for (const struct attack *each = lists[i]; each->name; each++) puts(each->name);
        return 0;
    }
    if (count == 2 && strcmp(words[1], "--planted") == 0) return PLANTED;
    if (count == 2 && strcmp(words[1], "--root") == 0) return geteuid() == 0 ? PLANTED : 0;
    if (count == 2 && strcmp(words[1], "--raw") == 0) return socket(AF_INET, SOCK_RAW, 1) < 0 ? 0 : PLANTED;
    if (count != 2) return 2;
    for (char *word = strtok(words[1], " "); word; word = strtok(NULL, " ")) try(word);
    return 0;
}
